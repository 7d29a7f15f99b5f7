/* SPDX-License-Identifier: Apache-2.0
 *
 * With UFFD_FEATURE_EVENT_REMOVE, madvise(MADV_DONTNEED or MADV_REMOVE) on registered memory,
 * populated or not, sleeps until its event has been read, and zaps only then.  Without the feature
 * nothing is sent and nobody sleeps.  fallocate(PUNCH_HOLE) sends nothing in either case.
 */
#include "kern_thread.h"

enum { NR = 4 };

struct call {
	char *start;
	int advice;
};

static long advise(void *arg)
{
	const struct call *c = arg;
	return madvise(c->start, 2 * KERN_PAGE, c->advice) ? -errno : 0;
}

static void expect_event(int uffd, char *start, int advice, bool is_present)
{
	struct call c = {start, advice};
	struct kern_thread caller;
	kern_start(&caller, advise, &c);
	kern_wait_asleep_in(&caller, "userfaultfd_event_wait_completion");
	CHECK_EQ(kern_is_present(start), is_present);
	struct uffd_msg msg = kern_read_msg(uffd);
	CHECK_EQ(msg.event, UFFD_EVENT_REMOVE);
	CHECK_EQ(msg.arg.remove.start, kern_addr(start));
	CHECK_EQ(msg.arg.remove.end, kern_addr(start + 2 * KERN_PAGE));
	CHECK_EQ(kern_join(&caller), 0);
	CHECK(!kern_is_present(start));
}

static void with_feature(int fd, char *area)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE);
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	expect_event(uffd, area, MADV_DONTNEED, true);
	expect_event(uffd, area, MADV_DONTNEED, false);
	if (fd >= 0) {
		expect_event(uffd, area + 2 * KERN_PAGE, MADV_REMOVE, true);
		kern_fill(area, 1, 'o'); /* still cached: DONTNEED was no eviction */
		CHECK_EQ(kern_punch(fd, 0, 1), 0);
		CHECK(!kern_is_present(area));
	}
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(close(uffd), 0);
}

static void without_feature(char *area)
{
	int uffd = kern_uffd(0);
	struct call c = {area, MADV_DONTNEED};
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(advise(&c), 0);
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(close(uffd), 0);
}

int main(void)
{
	int fd = kern_memfd(NR);
	char *anon = kern_anon(NR), *shared = kern_shared(fd, NR);
	kern_fill(anon, NR, 'o');
	kern_fill(shared, NR, 'o');
	with_feature(-1, anon);
	with_feature(fd, shared);
	without_feature(anon);
	without_feature(shared);
	return 0;
}
