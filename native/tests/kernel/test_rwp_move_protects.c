/* SPDX-License-Identifier: Apache-2.0
 *
 * MOVE into memory registered for read-write protection installs the page protected, whatever it
 * was where it came from.  In async mode that costs the waiter nothing but a second fault; in sync
 * mode it waits again, as RWP now, until somebody releases the page.  MOVE out takes a protected
 * page without a fault.
 */
#include "kern_rwp.h"

static void check(bool is_async)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_MOVE);
	char *guest = kern_anon(1), *staging = kern_anon(1);
	struct kern_thread reader;
	kern_fill(staging, 1, 's');
	kern_rwp_register(uffd, guest, 1, UFFDIO_REGISTER_MODE_MISSING);
	if (is_async)
		CHECK_EQ(kern_rwp_async(uffd), 0);
	kern_start(&reader, kern_run_read, guest);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, guest, 0);
	CHECK_EQ(kern_move_mode(uffd, guest, staging, KERN_PAGE, UFFDIO_MOVE_MODE_DONTWAKE, NULL),
		0);
	CHECK(kern_is_cold(guest));
	CHECK_EQ(kern_wake(uffd, guest, KERN_PAGE), 0);
	if (!is_async) {
		kern_expect_fault(uffd, guest, KERN_RWP);
		CHECK_EQ(kern_rwclear(uffd, guest, 1), 0);
	}
	CHECK_EQ(kern_join(&reader), 's');
	CHECK_EQ(kern_nr_accessed(guest, 1), 1);
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	check(true);
	check(false);
	return 0;
}
