/* SPDX-License-Identifier: Apache-2.0
 *
 * PAGEMAP_SCAN with more than 512 regions a call returns the tail of a fragmented range twice: the
 * kernel fills the vector in rounds of 512, and when a later round ends the range, walk_end is
 * still where the last full round stopped.  Who resumes at walk_end sees those regions again.
 * Nothing is lost, and with at most 512 regions a call nothing is doubled.
 *
 * If a kernel mends this, the second check fails: then lift the engine's limit, or leave it.
 */
#include "kern_thread.h"

enum { NR = 16384, REGIONS_MAX = 4096 };

static char *area;

/* The whole area, as documented: resume at walk_end until it is the end. */
static long nr_pages_scanned(size_t nr_regions)
{
	static struct page_region vec[REGIONS_MAX];
	struct pm_scan_arg arg = {.size = sizeof arg,
		.start = kern_addr(area),
		.end = kern_addr(area) + (uint64_t)NR * KERN_PAGE,
		.vec = kern_addr(vec),
		.vec_len = nr_regions,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long nr_pages = 0;
	CHECK(fd >= 0);
	while (arg.start < arg.end) {
		int n = ioctl(fd, PAGEMAP_SCAN, &arg);
		if (n < 0 && errno == ENOTTY)
			KERN_SKIP("no PAGEMAP_SCAN: Linux 6.7");
		CHECK(n >= 0);
		for (int i = 0; i < n; i++)
			nr_pages += (long)((vec[i].end - vec[i].start) / KERN_PAGE);
		CHECK(arg.walk_end > arg.start);
		arg.start = arg.walk_end;
	}
	CHECK_EQ(close(fd), 0);
	return nr_pages;
}

int main(void)
{
	area = kern_anon(NR);
	for (size_t i = 0; i < NR; i += 2)
		area[i * KERN_PAGE] = 'o';
	CHECK_EQ(nr_pages_scanned(512), NR / 2);
	CHECK_EQ(nr_pages_scanned(64), NR / 2);
	CHECK(nr_pages_scanned(REGIONS_MAX) > NR / 2);
	return 0;
}
