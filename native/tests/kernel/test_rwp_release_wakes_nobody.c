/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking away a read-write protected page wakes nobody who waits for it: neither PUNCH_HOLE nor
 * MADV_DONTNEED nor MOVE.  After UFFDIO_WAKE the reader looks again: the page is missing.
 */
#include "kern_rwp.h"

static char source[KERN_PAGE];

static void punch(char *page, int fd)
{
	(void)page;
	CHECK_EQ(kern_punch(fd, 0, 1), 0);
}

static void drop(char *page, int fd)
{
	(void)fd;
	CHECK_EQ(madvise(page, KERN_PAGE, MADV_DONTNEED), 0);
}

static void move(char *page, int fd)
{
	int staging_fd = kern_uffd(UFFD_FEATURE_MOVE);
	char *staging = kern_anon(1);
	(void)fd;
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_move(staging_fd, staging, page, KERN_PAGE), 0);
	CHECK_EQ(staging[0], 'o');
}

static void check(char *page, int fd, void (*take)(char *, int))
{
	int uffd = kern_rwp_uffd(0);
	struct kern_thread reader;
	kern_fill(page, 1, 'o');
	kern_rwp_register(uffd, page, 1, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, page, KERN_RWP);

	take(page, fd);
	CHECK(kern_slept_through(&reader));
	CHECK(!kern_is_present(page));
	CHECK_EQ(kern_wake(uffd, page, KERN_PAGE), 0);
	kern_expect_fault(uffd, page, 0);
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
}

int main(void)
{
	int fd = kern_memfd(1);
	kern_fill(source, 1, 's');
	check(kern_shared(fd, 1), fd, punch);
	check(kern_anon(1), -1, drop);
	check(kern_anon(1), -1, move);
	return 0;
}
