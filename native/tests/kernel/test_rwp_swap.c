/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel swaps protected pages.  An anonymous page keeps its protection on the way out and
 * back: it is still cold, and in sync mode the touch waits.  A memfd's page loses it: its entry is
 * empty, and the next touch goes through without a message, in sync mode, too.
 */
#include "kern_rwp.h"
#include "kern_swap.h"

int main(void)
{
	int uffd = kern_rwp_uffd(0);
	char *anon = kern_anon(1), *shared = kern_shared(kern_memfd(1), 1);
	struct kern_thread reader;
	kern_fill(anon, 1, 'o');
	kern_fill(shared, 1, 'o');
	kern_rwp_register(uffd, anon, 1, UFFDIO_REGISTER_MODE_MISSING);
	kern_rwp_register(uffd, shared, 1, UFFDIO_REGISTER_MODE_MISSING);
	kern_swap_on();
	CHECK_EQ(kern_rwprotect(uffd, anon, 1), 0);
	CHECK_EQ(kern_rwprotect(uffd, shared, 1), 0);
	kern_page_out(anon);
	kern_page_out(shared);

	CHECK_EQ(kern_nr_accessed(anon, 1), 0);
	kern_start(&reader, kern_run_read, anon);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, anon, KERN_RWP);
	CHECK(kern_is_cold(anon));
	CHECK_EQ(kern_rwclear(uffd, anon, 1), 0);
	CHECK_EQ(kern_join(&reader), 'o');

	kern_touch_unseen(uffd, shared);
	CHECK_EQ(shared[0], 'o');
	CHECK_EQ(kern_nr_accessed(shared, 1), 1);
	return 0;
}
