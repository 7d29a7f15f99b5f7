/* SPDX-License-Identifier: Apache-2.0
 *
 * PAGEMAP_SCAN on read-write protected memory.  ACCESSED alone is exact.  Inverted alone it matches
 * holes as well; with PRESENT it is the cold pages.  PM_SCAN_WP_MATCHING protects nothing again (no
 * regions), and with CHECK_WPASYNC it is refused: there is no read-and-reset, so what is touched
 * between a scan and the next RWPROTECT belongs to neither interval.
 */
#include "kern_rwp.h"

enum { NR = 8 };

static long inverted(const char *area, uint64_t also)
{
	struct page_region vec[NR];
	long nr_pages = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pm_scan_arg arg = {.size = sizeof arg,
		.start = kern_addr(area),
		.end = kern_addr(area) + NR * KERN_PAGE,
		.vec = kern_addr(vec),
		.vec_len = NR,
		.category_inverted = PAGE_IS_ACCESSED,
		.category_mask = PAGE_IS_ACCESSED | also,
		.return_mask = PAGE_IS_PRESENT};
	int n = ioctl(fd, PAGEMAP_SCAN, &arg);
	CHECK(n >= 0);
	for (int i = 0; i < n; i++)
		nr_pages += (long)((vec[i].end - vec[i].start) / KERN_PAGE);
	CHECK_EQ(close(fd), 0);
	return nr_pages;
}

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_RWP_ASYNC);
	char *area = kern_anon(NR);
	kern_fill(area, 6, 'o'); /* the last two are holes */
	kern_rwp_register(uffd, area, NR, 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 6);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	kern_run_write(area + 2 * KERN_PAGE);
	CHECK_EQ(kern_nr_accessed(area, NR), 1);
	CHECK_EQ(inverted(area, PAGE_IS_PRESENT), 5);
	CHECK_EQ(inverted(area, 0), 7);

	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_ACCESSED, PM_SCAN_WP_MATCHING), 0);
	CHECK_EQ(kern_scan(area, NR * KERN_PAGE, PAGE_IS_ACCESSED,
			  PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC),
		-EPERM);
	CHECK_EQ(kern_nr_accessed(area, NR), 1);
	return 0;
}
