/* SPDX-License-Identifier: Apache-2.0
 *
 * MADV_DONTNEED of a shared mapping is no eviction, also under read-write protection: the page
 * stays in the page cache, its protection is gone, and the next touch in sync mode gets the old
 * bytes without a message; so does a waiter after UFFDIO_WAKE.
 */
#include "kern_rwp.h"

int main(void)
{
	int uffd = kern_rwp_uffd(0), fd = kern_memfd(2);
	char *area = kern_shared(fd, 2);
	struct kern_thread reader;
	kern_fill(area, 2, 'o');
	kern_rwp_register(uffd, area, 2, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, area, 2), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, KERN_RWP);

	CHECK_EQ(madvise(area, 2 * KERN_PAGE, MADV_DONTNEED), 0);
	CHECK(kern_slept_through(&reader));
	CHECK_EQ(kern_wake(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 'o');
	kern_touch_unseen(uffd, area + KERN_PAGE);
	CHECK_EQ(kern_nr_accessed(area, 2), 2);
	return 0;
}
