/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading one page of a zapped shared mapping maps its cached neighbours as well (fault-around), so
 * a scan calls them touched.  Registration for WP or MINOR stops that; for MISSING alone it does
 * not.
 */
#include "kern_thread.h"

enum { NR = 64 };

static long nr_mapped_by_one_read(uint64_t modes)
{
	int fd = kern_memfd(NR), uffd = -1;
	char *area = kern_shared(fd, NR);
	kern_fill(area, NR, 'o');
	if (modes) {
		uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
		CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, modes), 0);
	}
	CHECK_EQ(madvise(area, NR * KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(area[NR / 2 * KERN_PAGE], 'o');
	long nr_mapped = kern_scan(area, NR * KERN_PAGE, PAGE_IS_PRESENT, 0);
	CHECK_EQ(munmap(area, NR * KERN_PAGE), 0);
	CHECK_EQ(close(fd), 0);
	if (uffd >= 0)
		CHECK_EQ(close(uffd), 0);
	return nr_mapped;
}

int main(void)
{
	CHECK(nr_mapped_by_one_read(0) > 1);
	CHECK(nr_mapped_by_one_read(UFFDIO_REGISTER_MODE_MISSING) > 1);
	CHECK_EQ(nr_mapped_by_one_read(UFFDIO_REGISTER_MODE_WP), 1);
	CHECK_EQ(nr_mapped_by_one_read(UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP), 1);
	return 0;
}
