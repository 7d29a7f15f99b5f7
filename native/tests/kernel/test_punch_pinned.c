/* SPDX-License-Identifier: Apache-2.0
 *
 * PUNCH_HOLE takes a page of a memfd out of the page cache whoever has it pinned (here: io_uring,
 * by a registered buffer).  The holder keeps the page that was, whoever touches the memory next
 * gets another one, and what one of them writes the other does not see: hence "pinned pages must
 * not lie in a region" (tierstore.h).  Nothing tells beforehand.
 */
#include "kern.h"
#include "kern_pinned.h"

int main(void)
{
	int memfd = kern_memfd(1), fds[2];
	char *page = kern_shared(memfd, 1);
	struct io_uring ring;
	kern_fill(page, 1, 'o');
	struct iovec pinned = {page, KERN_PAGE};
	int rc = io_uring_queue_init(2, &ring, 0);
	if (rc)
		KERN_SKIP("io_uring: %s", strerror(-rc));
	CHECK_EQ(io_uring_register_buffers(&ring, &pinned, 1), 0);

	CHECK_EQ(kern_punch(memfd, 0, 1), 0);
	CHECK_EQ(page[0], 0);
	CHECK_EQ(pipe(fds), 0);
	CHECK_EQ(write(fds[1], "d", 1), 1);
	kern_read_fixed(&ring, fds[0], page);
	CHECK_EQ(page[0], 0);
	return 0;
}
