/* SPDX-License-Identifier: Apache-2.0
 *
 * While an event is queued and unread RWPROTECT says EAGAIN, to protect as well as to release, and
 * does nothing.  SET_MODE, WAKE and PAGEMAP_SCAN are not held up.
 */
#include "kern_rwp.h"

static long drop(void *page)
{
	return madvise(page, KERN_PAGE, MADV_DONTNEED);
}

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_EVENT_REMOVE);
	char *area = kern_anon(2);
	struct kern_thread dropper;
	kern_fill(area, 2, 'o');
	kern_rwp_register(uffd, area, 2, 0);
	kern_start(&dropper, drop, area + KERN_PAGE);
	kern_await_msg(uffd);
	CHECK_EQ(kern_rwprotect(uffd, area, 2), -EAGAIN);
	CHECK_EQ(kern_rwclear(uffd, area, 2), -EAGAIN);
	CHECK_EQ(kern_nr_accessed(area, 2), 2);
	CHECK_EQ(kern_rwp_async(uffd), 0);
	CHECK_EQ(kern_rwp_sync(uffd), 0);
	CHECK_EQ(kern_wake(uffd, area, KERN_PAGE), 0);

	CHECK_EQ(kern_read_msg(uffd).event, UFFD_EVENT_REMOVE);
	CHECK_EQ(kern_join(&dropper), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, 2), 0);
	CHECK(kern_is_cold(area));
	return 0;
}
