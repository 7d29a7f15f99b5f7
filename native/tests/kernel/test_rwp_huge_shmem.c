/* SPDX-License-Identifier: Apache-2.0
 *
 * A huge page of shared memory can't be protected: RWPROTECT unmaps it instead, and in sync mode
 * the next touch maps all 2 MiB again, asks nobody, and makes 512 pages accessed.  Registered for
 * MINOR as well, the touch waits, and CONTINUE maps pages that can be protected.
 */
#include "kern_rwp.h"

enum { NR = 512 };

/* A memfd's huge page, mapped as one. */
static char *huge_shared(void)
{
	int fd = kern_memfd(2L * NR);
	char *p = kern_map(3UL * KERN_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char *start = (char *)(((uintptr_t)p + KERN_HUGE - 1) & ~(uintptr_t)(KERN_HUGE - 1));
	start = mmap(start, KERN_HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(start != MAP_FAILED);
	memset(start, 'o', KERN_HUGE);
	if (kern_collapse(start) ||
	    kern_smaps_kib(start, "ShmemPmdMapped:") != 2048)
		KERN_SKIP("no huge page of shared memory to be had");
	return start;
}

int main(void)
{
	int uffd = kern_rwp_uffd(0), minor = kern_rwp_uffd(UFFD_FEATURE_MINOR_SHMEM);
	char *area = huge_shared();
	struct kern_thread reader;
	kern_rwp_register(uffd, area, NR, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK(!kern_is_present(area));
	kern_touch_unseen(uffd, area + 7 * KERN_PAGE);
	CHECK(kern_nr_accessed(area, NR) >= 1);

	area = huge_shared();
	kern_rwp_register(minor, area, NR,
		UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	CHECK_EQ(kern_rwprotect(minor, area, NR), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(minor, area, UFFD_PAGEFAULT_FLAG_MINOR);
	CHECK_EQ(kern_continue(minor, area, KERN_HUGE, NULL), 0);
	CHECK_EQ(kern_join(&reader), 'o');
	CHECK_EQ(kern_rwprotect(minor, area, NR), 0);
	CHECK(kern_is_cold(area));
	CHECK(kern_is_cold(area + 511 * KERN_PAGE));
	return 0;
}
