/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages that KSM merges lose their read-write protection: they count as accessed, and in sync mode
 * a touch goes through.  Protected after the merge they stay so.  MOVE refuses a merged page
 * (EBUSY), so that it can't leave behind the guest's back.  KSM is on for the test's length only.
 */
#include "kern_ksm.h"
#include "kern_rwp.h"

enum { NR = 64 };

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_MOVE);
	char *area = kern_anon(NR), *staging = kern_anon(1), *merged = area + 7 * KERN_PAGE;
	kern_fill(area, NR, 'k');
	kern_rwp_register(uffd, area, NR, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_register(uffd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	kern_ksm_merge(area, NR * KERN_PAGE);

	CHECK(!kern_pm_bit(merged, KERN_PM_UFFD));
	CHECK_EQ(kern_nr_accessed(merged, 1), 1);
	kern_touch_unseen(uffd, merged);
	CHECK_EQ(kern_move(uffd, staging, merged, KERN_PAGE), -EBUSY);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK(kern_is_cold(merged));
	return 0;
}
