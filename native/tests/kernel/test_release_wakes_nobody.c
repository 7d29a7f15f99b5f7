/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking a page away wakes nobody: neither fallocate(PUNCH_HOLE) nor madvise(MADV_DONTNEED) ends
 * the sleep of a writer that waits on the write-protected page.  After UFFDIO_WAKE it looks again
 * and reports the page as missing.
 */
#include "kern_thread.h"

static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;

static void check(int uffd, char *page, int fd)
{
	char source[KERN_PAGE];
	struct kern_thread writer;
	kern_fill(source, 1, 's');
	kern_fill(page, 1, 'o');
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE, both), 0);
	CHECK_EQ(kern_wp(uffd, page, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&writer, kern_run_write, page);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);

	CHECK_EQ(fd < 0 ? madvise(page, KERN_PAGE, MADV_DONTNEED) : kern_punch(fd, 0, 1), 0);
	CHECK(kern_slept_through(&writer));
	CHECK(!kern_is_present(page));

	CHECK_EQ(kern_wake(uffd, page, KERN_PAGE), 0);
	kern_expect_fault(uffd, page, UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	kern_join(&writer);
	CHECK_EQ(page[0], 'W');
	CHECK_EQ(page[1], 's');
}

int main(void)
{
	int fd = kern_memfd(1);
	check(kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP), kern_anon(1), -1);
	check(kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM),
		kern_shared(fd, 1), fd);
	return 0;
}
