/* SPDX-License-Identifier: Apache-2.0
 *
 * WP_ASYNC and huge pages: arming the whole huge page keeps it mapped huge; the first write splits
 * the mapping, and only the written 4 KiB count.  Arming a part of it splits it at once.
 */
#include "kern_thread.h"

static const uint64_t rearm = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
static const char huge_field[] = "AnonHugePages:";

static char *huge_area(int uffd)
{
	char *area = kern_anon_huge(1);
	memset(area, 'h', KERN_HUGE);
	if (kern_smaps_kib(area, huge_field) != 2048)
		KERN_SKIP("the kernel gave no huge page");
	CHECK_EQ(kern_register(uffd, area, KERN_HUGE,
			 UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	return area;
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_WP_ASYNC);
	char *whole = huge_area(uffd), *part = huge_area(uffd);
	CHECK_EQ(kern_scan(whole, KERN_HUGE, PAGE_IS_WRITTEN, rearm), 512);
	CHECK_EQ(kern_smaps_kib(whole, huge_field), 2048);
	CHECK_EQ(kern_scan(whole, KERN_HUGE, PAGE_IS_HUGE, 0), 512);
	whole[5 * KERN_PAGE] = 'w';
	CHECK_EQ(kern_smaps_kib(whole, huge_field), 0);
	CHECK_EQ(kern_scan(whole, KERN_HUGE, PAGE_IS_WRITTEN, 0), 1);
	CHECK_EQ(kern_scan(whole + 5 * KERN_PAGE, KERN_PAGE, PAGE_IS_WRITTEN, 0), 1);

	CHECK_EQ(kern_scan(part, 16 * KERN_PAGE, PAGE_IS_WRITTEN, rearm), 16);
	CHECK_EQ(kern_smaps_kib(part, huge_field), 0);
	CHECK_EQ(kern_scan(part, KERN_HUGE, PAGE_IS_WRITTEN, 0), 512 - 16);
	return 0;
}
