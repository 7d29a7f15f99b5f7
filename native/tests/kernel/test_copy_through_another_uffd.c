/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_COPY, unlike MOVE, does not ask whose range it fills: issued on another descriptor it
 * fills the page and returns 0, but wakes nobody who waits on the range's own descriptor.
 */
#include "kern_thread.h"

int main(void)
{
	int guest_fd = kern_uffd(0), other_fd = kern_uffd(0);
	char *guest = kern_anon(1), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(guest_fd, guest, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&reader, kern_run_read, guest);
	kern_wait_asleep(&reader);
	kern_expect_fault(guest_fd, guest, 0);
	CHECK_EQ(kern_copy(other_fd, guest, source, KERN_PAGE), 0);
	CHECK(kern_slept_through(&reader));
	CHECK_EQ(kern_wake(guest_fd, guest, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
