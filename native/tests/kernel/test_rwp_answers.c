/* SPDX-License-Identifier: Apache-2.0
 *
 * What RWPROTECT and SET_MODE answer.  A range with a part that is not registered: ENOENT, and
 * nothing was done; a gap is skipped; a hole gets no protection.  Bad arguments: EINVAL.  SET_MODE
 * toggles RWP_ASYNC and nothing else, and RWP_ASYNC need not have been asked for at the start.
 */
#include "kern_rwp.h"

enum { NR = 4 };

static void ranges(int uffd, char *area)
{
	const uint64_t on = UFFDIO_RWPROTECT_MODE_RWP, dontwake = UFFDIO_RWPROTECT_MODE_DONTWAKE;
	CHECK_EQ(kern_rwprotect(uffd, area, NR), -ENOENT);
	CHECK_EQ(kern_nr_accessed(area, 2), 2);
	CHECK_EQ(munmap(area + 2 * KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(munmap(area + 3 * KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_nr_accessed(area, 2), 0);
	CHECK_EQ(kern_rwclear(uffd, area, 2), 0);
	CHECK_EQ(kern_nr_accessed(area, 2), 2);
	CHECK_EQ(kern_rwprotect(uffd, area, 0), -EINVAL);
	CHECK_EQ(kern_rwprotect(uffd, area + 1, 1), -EINVAL);
	CHECK_EQ(kern_rwprotect_mode(uffd, area, KERN_PAGE, on | dontwake), -EINVAL);
	CHECK_EQ(kern_rwprotect_mode(uffd, area, KERN_PAGE, 4), -EINVAL);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), -ENOENT);
	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, 2), 0);
	CHECK_EQ(kern_run_read(area), 0);
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(kern_nr_accessed(area, 2), 1);
}

static void modes(int uffd)
{
	const uint64_t async = UFFD_FEATURE_RWP_ASYNC;
	int plain = kern_uffd(0), raw = kern_uffd_raw(0);
	CHECK_EQ(kern_set_mode(uffd, 0, 0), 0);
	CHECK_EQ(kern_set_mode(uffd, 0, async), 0);
	CHECK_EQ(kern_set_mode(uffd, async, 0), 0);
	CHECK_EQ(kern_set_mode(uffd, async, async), -EINVAL);
	CHECK_EQ(kern_set_mode(uffd, UFFD_FEATURE_SIGBUS, 0), -EINVAL);
	CHECK_EQ(kern_set_mode(plain, async, 0), -EINVAL);
	CHECK_EQ(kern_set_mode(raw, async, 0), -EINVAL);
}

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(NR);
	kern_fill(area, NR, 'o');
	kern_rwp_register(uffd, area, 2, 0);
	ranges(uffd, area);
	modes(uffd);
	return 0;
}
