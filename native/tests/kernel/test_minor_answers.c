/* SPDX-License-Identifier: Apache-2.0
 *
 * MINOR on a memfd: after a zap each touch of a cached page sends a message with FLAG_MINOR, a hole
 * sends a plain MISSING one.  CONTINUE maps a cached page and answers EEXIST if it is mapped,
 * EFAULT if the cache has none, EAGAIN with the bytes done when it stops half way.
 */
#include "kern_thread.h"

enum { NR = 8 };

static void expect_continue(int uffd, char *page, int nr_pages, int rc, int64_t done)
{
	int64_t got;
	CHECK_EQ(kern_continue(uffd, page, (size_t)nr_pages * KERN_PAGE, &got), rc);
	CHECK_EQ(got, done);
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_MINOR_SHMEM), fd = kern_memfd(NR);
	char *area = kern_shared(fd, NR), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');
	kern_fill(area, NR - 1, 'o'); /* the last page is a hole */
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE,
			 UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR),
		0);
	CHECK_EQ(madvise(area, NR * KERN_PAGE, MADV_DONTNEED), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, UFFD_PAGEFAULT_FLAG_MINOR);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), -EEXIST);
	expect_continue(uffd, area, 2, 0, 2 * KERN_PAGE);
	CHECK_EQ(kern_join(&reader), 'o');

	expect_continue(uffd, area, 1, -EEXIST, -EEXIST);
	expect_continue(uffd, area + (NR - 1) * KERN_PAGE, 1, -EFAULT, -EFAULT);
	expect_continue(uffd, area + (NR - 3) * KERN_PAGE, 3, -EAGAIN, 2 * KERN_PAGE);
	kern_start(&reader, kern_run_read, area + (NR - 1) * KERN_PAGE);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area + (NR - 1) * KERN_PAGE, 0);
	CHECK_EQ(kern_copy(uffd, area + (NR - 1) * KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
