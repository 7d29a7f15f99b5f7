/* SPDX-License-Identifier: Apache-2.0
 *
 * With UFFD_FEATURE_EVENT_UNMAP, munmap() has done its work but does not return before the event
 * has been read.  The event names the unmapped part only.
 */
#include "kern_thread.h"

enum { NR = 4 };

static long unmap(void *page)
{
	return munmap(page, KERN_PAGE) ? -errno : 0;
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_UNMAP);
	char *area = kern_anon(NR), *gone = area + KERN_PAGE, source[KERN_PAGE];
	struct kern_thread caller;
	unsigned char resident;
	kern_fill(area, NR, 'o');
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&caller, unmap, gone);
	kern_wait_asleep_in(&caller, "userfaultfd_event_wait_completion");
	CHECK_EQ(mincore(gone, KERN_PAGE, &resident), -1);
	CHECK_EQ(errno, ENOMEM);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), -EAGAIN);

	struct uffd_msg msg = kern_read_msg(uffd);
	CHECK_EQ(msg.event, UFFD_EVENT_UNMAP);
	CHECK_EQ(msg.arg.remove.start, kern_addr(gone));
	CHECK_EQ(msg.arg.remove.end, kern_addr(gone + KERN_PAGE));
	CHECK_EQ(kern_join(&caller), 0);
	CHECK_EQ(kern_copy(uffd, gone, source, KERN_PAGE), -ENOENT);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), -EEXIST);
	return 0;
}
