/* SPDX-License-Identifier: Apache-2.0
 *
 * New pages in read-write protected memory.  COPY, ZEROPAGE and the kernel's own faults put them in
 * unprotected: they count as accessed although nobody touched them, until the next RWPROTECT.
 * There is no way to ask for a protected one (COPY_MODE_WP: EINVAL).  A missing page stops the
 * guest in async mode, too.  Poison and guard pages count as accessed for ever.
 */
#include "kern_rwp.h"

enum { NR = 6 };

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_RWP_ASYNC | UFFD_FEATURE_POISON);
	char *area = kern_anon(NR), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');
	kern_rwp_register(uffd, area, NR, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 0);

	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_zeropage(uffd, area + KERN_PAGE, KERN_PAGE), 0);
	kern_start(&reader, kern_run_read, area + 2 * KERN_PAGE);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area + 2 * KERN_PAGE, 0);
	CHECK_EQ(kern_copy(uffd, area + 2 * KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	CHECK_EQ(kern_nr_accessed(area, NR), 3);
	CHECK_EQ(kern_copy_mode(uffd, area + 3 * KERN_PAGE, source, KERN_PAGE,
			  UFFDIO_COPY_MODE_WP, NULL),
		-EINVAL);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 0);

	CHECK_EQ(kern_poison(uffd, area + 4 * KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(madvise(area + 5 * KERN_PAGE, KERN_PAGE, MADV_GUARD_INSTALL), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 2);
	return 0;
}
