/* SPDX-License-Identifier: Apache-2.0
 *
 * read() hands out faults before events, whichever came first, and as many messages as fit: a
 * server that answers in the order it reads would COPY into a page whose REMOVE waits behind it.
 * (The kernel refuses that COPY: EAGAIN until the event has been read.)  PAGEMAP_SCAN is not held
 * up by a queued event.
 */
#include "kern_thread.h"

static long drop(void *page)
{
	return madvise(page, KERN_PAGE, MADV_DONTNEED);
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE);
	char *area = kern_anon(2), source[KERN_PAGE];
	struct kern_thread dropper, reader;
	struct uffd_msg msgs[8];
	area[0] = 'o';
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&dropper, drop, area);
	kern_wait_asleep_in(&dropper, "userfaultfd_event_wait_completion");
	kern_start(&reader, kern_run_read, area + KERN_PAGE);
	kern_wait_asleep(&reader);

	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), -EAGAIN);
	CHECK_EQ(kern_scan(area, 2 * KERN_PAGE, PAGE_IS_PRESENT, 0), 1);
	CHECK_EQ(read(uffd, msgs, sizeof msgs[0] - 1), -1);
	CHECK_EQ(errno, EINVAL); /* a part of a message is not to be had */
	CHECK_EQ(read(uffd, msgs, sizeof msgs), 2 * sizeof msgs[0]);
	CHECK_EQ(msgs[0].event, UFFD_EVENT_PAGEFAULT);
	CHECK_EQ(msgs[1].event, UFFD_EVENT_REMOVE);
	CHECK_EQ(kern_join(&dropper), 0);
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
