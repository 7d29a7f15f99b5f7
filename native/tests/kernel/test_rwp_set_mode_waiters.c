/* SPDX-License-Identifier: Apache-2.0
 *
 * SET_MODE to async while threads wait.  It wakes all of them; those at a protected page go on by
 * themselves, and their message, if nobody has read it, is gone.  One that was read is out of date:
 * to release its page late does no harm.  A waiter at a missing page asks again.
 */
#include "kern_rwp.h"

enum { NR = 3 };

int main(void)
{
	int uffd = kern_rwp_uffd(0);
	char *area = kern_anon(NR), *hole = area + 2 * KERN_PAGE, source[KERN_PAGE];
	struct kern_thread threads[NR];
	struct uffd_msg msg;
	kern_fill(source, 1, 's');
	kern_fill(area, 2, 'o');
	kern_rwp_register(uffd, area, NR, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, area, NR), 0);
	kern_start(&threads[2], kern_run_read, hole);
	kern_wait_asleep(&threads[2]);
	kern_expect_fault(uffd, hole, 0);
	kern_start(&threads[0], kern_run_write, area);
	kern_wait_asleep(&threads[0]);
	kern_expect_fault(uffd, area, KERN_RWP | KERN_WRITE); /* read, and unanswered */
	kern_start(&threads[1], kern_run_read, area + KERN_PAGE);
	kern_wait_asleep(&threads[1]);
	kern_await_msg(uffd); /* unread */

	CHECK_EQ(kern_rwp_async(uffd), 0);
	kern_join(&threads[0]);
	CHECK_EQ(kern_join(&threads[1]), 'o');
	kern_expect_fault(uffd, hole, 0);
	CHECK_EQ(read(uffd, &msg, sizeof msg), -1);
	CHECK_EQ(errno, EAGAIN);
	CHECK_EQ(kern_nr_accessed(area, 2), 2);
	CHECK_EQ(kern_rwclear(uffd, area, 1), 0);
	CHECK_EQ(kern_copy(uffd, hole, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&threads[2]), 's');
	return 0;
}
