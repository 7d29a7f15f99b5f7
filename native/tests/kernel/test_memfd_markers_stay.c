/* SPDX-License-Identifier: Apache-2.0
 *
 * On shared memory the write protection of an entry outlives a zap, as a marker: after
 * MADV_DONTNEED the first write is still a WP fault.  PUNCH_HOLE leaves the marker as well, and the
 * page that COPY puts there afterwards is not protected.  So markers must be cleared after every
 * window, or each later write costs a message.
 */
#include "kern_thread.h"

static void expect_guarded_write(int uffd, char *page)
{
	struct kern_thread writer;
	CHECK(kern_is_wp(page));
	kern_start(&writer, kern_run_write, page);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_wp(uffd, page, KERN_PAGE, 0), 0);
	kern_join(&writer);
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	int fd = kern_memfd(3);
	char *area = kern_shared(fd, 3), *cleared = area + 2 * KERN_PAGE, source[KERN_PAGE];
	kern_fill(source, 1, 's');
	kern_fill(area, 3, 'o');
	CHECK_EQ(kern_register(uffd, area, 3 * KERN_PAGE, UFFDIO_REGISTER_MODE_WP), 0);
	CHECK_EQ(kern_wp(uffd, area, 3 * KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	CHECK_EQ(madvise(area, 3 * KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(madvise(area, 3 * KERN_PAGE, MADV_DONTNEED), 0);
	expect_guarded_write(uffd, area);

	CHECK_EQ(kern_wp(uffd, cleared, KERN_PAGE, 0), 0);
	CHECK_EQ(kern_pagemap(cleared), 0);
	cleared[0] = 'w';
	CHECK(!kern_has_msg(uffd));

	CHECK_EQ(kern_punch(fd, 1, 1), 0);
	CHECK(!kern_is_present(area + KERN_PAGE));
	CHECK(kern_is_wp(area + KERN_PAGE));
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK(kern_is_present(area + KERN_PAGE));
	CHECK(!kern_is_wp(area + KERN_PAGE));
	return 0;
}
