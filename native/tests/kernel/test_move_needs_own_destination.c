/* SPDX-License-Identifier: Apache-2.0
 *
 * The descriptor that UFFDIO_MOVE is issued on must own the *destination*; the source may be
 * registered on another one, or on none.  So pages leave the guest through the staging area's
 * descriptor, and return through the guest's.
 *
 * It follows that an event queued on the guest's descriptor stops the way back (EAGAIN) but not the
 * way out, not even of the page that a blocked madvise() is about to drop; unless the destination
 * is registered with the guest's descriptor for that time.
 */
#include "kern_thread.h"

enum { NR = 8 };

static long drop(void *page)
{
	return madvise(page, KERN_PAGE, MADV_DONTNEED);
}

int main(void)
{
	int guest_fd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(NR), *staging = kern_anon(NR), *plain = kern_anon(NR);
	char *lent = kern_anon(NR);
	struct kern_thread dropper;
	int64_t done;
	kern_fill(guest, NR, 'o');
	CHECK_EQ(kern_register(guest_fd, guest, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);

	CHECK_EQ(kern_register(guest_fd, lent, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_move(guest_fd, staging, guest, KERN_PAGE), -EINVAL);
	CHECK_EQ(kern_move(guest_fd, lent, guest + 3 * KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(kern_move(staging_fd, plain, guest, KERN_PAGE), -EINVAL);
	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	CHECK_EQ(kern_move(staging_fd, guest, staging, KERN_PAGE), -EINVAL);
	CHECK_EQ(kern_move(guest_fd, guest, staging, KERN_PAGE), 0);

	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	kern_start(&dropper, drop, guest + KERN_PAGE);
	kern_await_msg(guest_fd);
	CHECK_EQ(kern_move_mode(guest_fd, guest, staging, KERN_PAGE, 0, &done), -EAGAIN);
	CHECK_EQ(done, -EAGAIN);
	CHECK_EQ(kern_move(guest_fd, lent, guest + KERN_PAGE, KERN_PAGE), -EAGAIN);
	CHECK_EQ(kern_move(staging_fd, staging + KERN_PAGE, guest + KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(staging[KERN_PAGE], 'o');
	CHECK_EQ(kern_read_msg(guest_fd).event, UFFD_EVENT_REMOVE);
	CHECK_EQ(kern_join(&dropper), 0);
	return 0;
}
