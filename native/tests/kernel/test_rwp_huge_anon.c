/* SPDX-License-Identifier: Apache-2.0
 *
 * Anonymous huge pages under read-write protection: RWPROTECT of the whole keeps it huge, and one
 * touch makes all 512 pages accessed.  Protecting or releasing a part splits it; the other pages
 * keep their protection.  While a page is protected there is no collapse (EINVAL).
 */
#include "kern_rwp.h"

enum { NR = 512 };

static const char huge_field[] = "AnonHugePages:";

static char *protected_huge(int uffd)
{
	char *area = kern_anon_huge(1);
	memset(area, 'o', KERN_HUGE);
	if (kern_smaps_kib(area, huge_field) != 2048)
		KERN_SKIP("no transparent huge page to be had");
	kern_rwp_register(uffd, area, NR, 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 2048);
	CHECK_EQ(kern_nr_accessed(area, NR), 0);
	return area;
}

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_RWP_ASYNC);
	char *area = protected_huge(uffd);
	kern_run_write(area + 100 * KERN_PAGE);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 2048);
	CHECK_EQ(kern_nr_accessed(area, NR), NR);

	area = protected_huge(uffd);
	CHECK_EQ(kern_rwclear(uffd, area + 100 * KERN_PAGE, 1), 0);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 1);
	CHECK_EQ(kern_collapse(area), -EINVAL);
	CHECK_EQ(kern_rwclear(uffd, area, NR), 0);
	CHECK_EQ(kern_collapse(area), 0);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 2048);
	return 0;
}
