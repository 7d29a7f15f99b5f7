/* SPDX-License-Identifier: Apache-2.0
 *
 * What drops read-write protection in silence: MADV_DONTNEED and punching, mremap without
 * EVENT_REMAP (the range is registered no more, either).  What keeps it: a round trip through
 * PROT_NONE.  /proc/self/mem refuses a protected page in sync mode (EIO) and touches it in async.
 */
#include "kern_rwp.h"

enum { NR = 4 };

static void dropped(void)
{
	int uffd = kern_rwp_uffd(0), fd = kern_memfd(1);
	char *area = kern_anon(NR), *shared = kern_shared(fd, 1), *moved;
	kern_fill(area, NR, 'o');
	kern_fill(shared, 1, 'o');
	kern_rwp_register(uffd, area, NR, 0);
	kern_rwp_register(uffd, shared, 1, 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_rwprotect(uffd, shared, 1), 0);
	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	kern_touch_unseen(uffd, area);
	CHECK_EQ(kern_punch(fd, 0, 1), 0);
	kern_touch_unseen(uffd, shared);

	CHECK_EQ(mprotect(area + KERN_PAGE, KERN_PAGE, PROT_NONE), 0);
	CHECK_EQ(mprotect(area + KERN_PAGE, KERN_PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK(kern_is_cold(area + KERN_PAGE));

	moved = kern_anon(1);
	CHECK(mremap(area + 3 * KERN_PAGE, KERN_PAGE, KERN_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		      moved) == moved);
	kern_touch_unseen(uffd, moved);
	CHECK_EQ(kern_rwprotect(uffd, moved, 1), -ENOENT);
}

static void proc_mem(void)
{
	int uffd = kern_rwp_uffd(0), fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	char *page = kern_anon(1), byte;
	kern_fill(page, 1, 'o');
	kern_rwp_register(uffd, page, 1, 0);
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);
	CHECK_EQ(pread(fd, &byte, 1, (off_t)kern_addr(page)), -1);
	CHECK_EQ(errno, EIO);
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(kern_rwp_async(uffd), 0);
	CHECK_EQ(pread(fd, &byte, 1, (off_t)kern_addr(page)), 1);
	CHECK_EQ(byte, 'o');
	CHECK_EQ(kern_nr_accessed(page, 1), 1);
	CHECK_EQ(close(fd), 0);
}

int main(void)
{
	dropped();
	proc_mem();
	return 0;
}
