/* SPDX-License-Identifier: Apache-2.0
 *
 * UNREGISTER gives all pages their rights back, but wakes a waiter only if MISSING was registered
 * as well.  One that is left behind is woken by UFFDIO_WAKE on the range that is registered no
 * more, or by closing the descriptor.
 */
#include "kern_rwp.h"

enum how { HOW_BY_ITSELF, HOW_WAKE, HOW_CLOSE };

static void check(uint64_t more_modes, enum how how)
{
	int uffd = kern_rwp_uffd(0);
	char *page = kern_anon(1);
	struct kern_thread reader;
	kern_fill(page, 1, 'o');
	kern_rwp_register(uffd, page, 1, more_modes);
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, page, KERN_RWP);
	CHECK_EQ(kern_unregister(uffd, page, KERN_PAGE), 0);
	if (how != HOW_BY_ITSELF)
		CHECK(kern_slept_through(&reader));
	if (how == HOW_WAKE)
		CHECK_EQ(kern_wake(uffd, page, KERN_PAGE), 0);
	if (how == HOW_CLOSE)
		CHECK_EQ(close(uffd), 0);
	CHECK_EQ(kern_join(&reader), 'o');
	CHECK(!kern_pm_bit(page, KERN_PM_UFFD));
}

int main(void)
{
	check(UFFDIO_REGISTER_MODE_MISSING, HOW_BY_ITSELF);
	check(0, HOW_WAKE);
	check(0, HOW_CLOSE);
	return 0;
}
