/* SPDX-License-Identifier: Apache-2.0
 *
 * A pinned page (here: registered with io_uring) is read and written by devices past the page
 * table.  Read-write protection does not see it: the page changes and stays cold.  MOVE refuses it
 * (EBUSY), so that it can't be taken away under the device.
 */
#include "kern_rwp.h"
#include "kern_pinned.h"

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_MOVE), fds[2];
	char *page = kern_anon(1), *staging = kern_anon(1);
	struct iovec pinned = {page, KERN_PAGE};
	struct io_uring ring;
	kern_fill(page, 1, 'o');
	kern_rwp_register(uffd, page, 1, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_register(uffd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	int rc = io_uring_queue_init(2, &ring, 0);
	if (rc)
		KERN_SKIP("io_uring: %s", strerror(-rc));
	CHECK_EQ(io_uring_register_buffers(&ring, &pinned, 1), 0);
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);

	CHECK_EQ(pipe(fds), 0);
	CHECK_EQ(write(fds[1], "d", 1), 1);
	kern_read_fixed(&ring, fds[0], page);
	CHECK(kern_is_cold(page));
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(kern_move(uffd, staging, page, KERN_PAGE), -EBUSY);
	CHECK_EQ(kern_rwclear(uffd, page, 1), 0);
	CHECK_EQ(page[0], 'd');
	return 0;
}
