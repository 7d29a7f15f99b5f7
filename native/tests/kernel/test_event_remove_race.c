/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading EVENT_REMOVE lets the madvise() go on, no more: the zap comes some time after the read.
 * In between a COPY can land and be zapped with the rest, and a page that MOVE takes in between
 * escapes the zap.  So after REMOVE the stored and the staged copies must be forgotten first, and
 * what was served in the window is not proof of anything.
 *
 * Shown by what is certain: until the read the page is there and can be moved; the zap then finds
 * nothing; the staged copy is the old content, which the owner has asked to forget.
 */
#include "kern_thread.h"

static long drop(void *page)
{
	return madvise(page, KERN_PAGE, MADV_DONTNEED);
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(1), *staging = kern_anon(1);
	struct kern_thread dropper, reader;
	kern_fill(guest, 1, 'o');
	CHECK_EQ(kern_register(uffd, guest, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&dropper, drop, guest);
	kern_wait_asleep_in(&dropper, "userfaultfd_event_wait_completion");
	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	CHECK_EQ(kern_read_msg(uffd).event, UFFD_EVENT_REMOVE);
	CHECK_EQ(kern_join(&dropper), 0);
	CHECK_EQ(staging[0], 'o');

	/* What the guest must read from now on is zeros, and only the server can see to that. */
	kern_start(&reader, kern_run_read, guest);
	kern_expect_fault(uffd, guest, 0);
	CHECK_EQ(kern_zeropage(uffd, guest, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 0);
	return 0;
}
