/* SPDX-License-Identifier: Apache-2.0
 *
 * WP_ASYNC with PAGEMAP_SCAN, the tracker of writes: WP_MATCHING reports and re-arms in one step.
 * The first scan reports everything, holes included; reads are invisible; a page that was taken by
 * MADV_DONTNEED, and a fresh one, counts as written; CHECK_WPASYNC refuses memory that is not
 * registered so.  No message is ever sent.
 */
#include "kern_thread.h"

enum { NR = 32 };

static const uint64_t rearm = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;

static void holes(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_WP_ASYNC);
	char *area = kern_anon(NR);
	kern_fill(area, NR / 2, 'o');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, both), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_WRITTEN, 0), NR);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_WRITTEN, rearm), NR);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_WRITTEN, rearm), 0);
}

static void writes_and_reads(void)
{
	const uint64_t mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT;
	int uffd = kern_uffd(UFFD_FEATURE_WP_ASYNC);
	char *area = kern_anon(NR);
	kern_fill(area, NR, 'o');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, both), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, rearm), NR);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, rearm), 0);
	CHECK_EQ(area[3 * KERN_PAGE], 'o');
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, 0), 0);
	area[3 * KERN_PAGE] = 'w';
	area[8 * KERN_PAGE] = 'w';
	CHECK_EQ(kern_scan(area + 3 * KERN_PAGE, KERN_PAGE, mask, 0), 1);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, rearm), 2);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, rearm), 0);

	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_WRITTEN, 0), 1);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, 0), 0);
	CHECK_EQ(kern_zeropage(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, mask, rearm), 1);
	CHECK(!kern_has_msg(uffd));
}

static void not_async(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(NR), *plain = kern_anon(NR);
	kern_fill(area, NR, 'o');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, both), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_WRITTEN, rearm), -EPERM);
	CHECK_EQ(kern_scan(plain, NR * KERN_PAGE, PAGE_IS_WRITTEN, rearm), -EPERM);
}

int main(void)
{
	holes();
	writes_and_reads();
	not_async();
	return 0;
}
