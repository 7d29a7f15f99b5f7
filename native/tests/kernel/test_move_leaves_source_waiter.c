/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_MOVE wakes those who wait for its destination, not those who wait on its source.  A writer
 * asleep on a write-protected page sleeps on when the page is moved away; after UFFDIO_WAKE it
 * reports the page as missing, and the MOVE back wakes it.
 */
#include "kern_thread.h"

int main(void)
{
	int guest_fd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(1), *staging = kern_anon(1);
	struct kern_thread writer;
	kern_fill(guest, 1, 'o');
	CHECK_EQ(kern_register(guest_fd, guest, KERN_PAGE,
			  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_wp(guest_fd, guest, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&writer, kern_run_write, guest);
	kern_wait_asleep(&writer);
	kern_expect_fault(guest_fd, guest, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);

	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	CHECK(kern_slept_through(&writer));
	CHECK_EQ(kern_wake(guest_fd, guest, KERN_PAGE), 0);
	kern_expect_fault(guest_fd, guest, UFFD_PAGEFAULT_FLAG_WRITE);
	kern_wait_asleep(&writer);

	CHECK_EQ(kern_move(guest_fd, guest, staging, KERN_PAGE), 0);
	kern_join(&writer);
	CHECK_EQ(guest[0], 'W');
	CHECK_EQ(guest[1], 'o');
	return 0;
}
