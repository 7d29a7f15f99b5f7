/* SPDX-License-Identifier: Apache-2.0
 *
 * Read-write protection as a tracker uses it: before the first RWPROTECT everything counts as
 * accessed; in async mode a read, a write, and the kernel's own access each clear the protection of
 * their page and send nothing; in sync mode they wait as RWP messages until the page is released.
 * SET_MODE switches while pages are protected.  Another mapping of the same memory is neither seen
 * nor stopped.
 */
#include "kern_rwp.h"

enum { NR = 8 };

static long run_pipe(void *page)
{
	int fds[2];
	CHECK_EQ(pipe(fds), 0);
	long n = write(fds[1], page, 1);
	close(fds[0]);
	close(fds[1]);
	return n;
}

static void async_notes(int uffd, char *area)
{
	CHECK_EQ(kern_nr_accessed(area, NR), NR);
	CHECK_EQ(kern_rwp_async(uffd), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	CHECK_EQ(kern_nr_accessed(area, NR), 0);
	CHECK_EQ(kern_run_read(area), 'o');
	kern_run_write(area + KERN_PAGE);
	CHECK_EQ(run_pipe(area + 2 * KERN_PAGE), 1);
	CHECK_EQ(kern_nr_accessed(area, NR), 3);
	CHECK_EQ(kern_nr_accessed(area, 3), 3);
	CHECK(!kern_has_msg(uffd));
}

static void sync_stops(int uffd, char *page, long (*run)(void *), uint64_t flags)
{
	struct kern_thread thread;
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);
	CHECK_EQ(kern_rwp_sync(uffd), 0);
	kern_start(&thread, run, page);
	kern_wait_asleep(&thread);
	kern_expect_fault(uffd, page, flags);
	CHECK(kern_is_cold(page));
	CHECK_EQ(kern_rwclear(uffd, page, 1), 0);
	kern_join(&thread);
	CHECK_EQ(kern_nr_accessed(page, 1), 1);
}

static void check(char *area)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_RWP_ASYNC);
	kern_fill(area, NR, 'o');
	kern_rwp_register(uffd, area, NR, 0);
	async_notes(uffd, area);
	sync_stops(uffd, area, kern_run_read, KERN_RWP);
	sync_stops(uffd, area, kern_run_write, KERN_RWP | KERN_WRITE);
	sync_stops(uffd, area, run_pipe, KERN_RWP);
	CHECK_EQ(close(uffd), 0);
}

static void alias_is_not_seen(void)
{
	int uffd = kern_rwp_uffd(0), fd = kern_memfd(1);
	char *guest = kern_shared(fd, 1), *alias = kern_shared(fd, 1);
	kern_fill(guest, 1, 'o');
	kern_rwp_register(uffd, guest, 1, 0);
	CHECK_EQ(kern_rwprotect(uffd, guest, 1), 0);
	alias[0] = 'a';
	CHECK(kern_is_cold(guest));
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	check(kern_anon(NR));
	check(kern_shared(kern_memfd(NR), NR));
	alias_is_not_seen();
	return 0;
}
