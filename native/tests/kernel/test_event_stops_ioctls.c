/* SPDX-License-Identifier: Apache-2.0
 *
 * While an event is queued and unread, every ioctl that changes the descriptor's memory answers
 * EAGAIN (COPY, ZEROPAGE, MOVE, WRITEPROTECT, CONTINUE and POISON; the byte counts say -EAGAIN as
 * well).  WAKE, REGISTER and UNREGISTER go through.  Reading the event ends it.
 */
#include "kern_thread.h"

enum { NR = 4 };

static long drop(void *page)
{
	return madvise(page, KERN_PAGE, MADV_DONTNEED);
}

static void expect_stopped(int uffd, char *area, const char *source)
{
	int64_t done;
	CHECK_EQ(kern_copy_mode(uffd, area, source, KERN_PAGE, 0, &done), -EAGAIN);
	CHECK_EQ(done, -EAGAIN);
	CHECK_EQ(kern_zeropage(uffd, area, KERN_PAGE), -EAGAIN);
	CHECK_EQ(kern_move_mode(uffd, area, area + KERN_PAGE, KERN_PAGE, 0, &done), -EAGAIN);
	CHECK_EQ(done, -EAGAIN);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), -EAGAIN);
	CHECK_EQ(kern_continue(uffd, area, KERN_PAGE, &done), -EAGAIN);
	CHECK_EQ(done, -EAGAIN);
	CHECK_EQ(kern_poison(uffd, area, KERN_PAGE), -EAGAIN);
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
		UFFD_FEATURE_POISON | UFFD_FEATURE_MOVE);
	char *area = kern_anon(NR), *other = kern_anon(1), source[KERN_PAGE];
	struct kern_thread dropper;
	kern_fill(source, 1, 's');
	area[KERN_PAGE] = 'o';
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE,
			  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	kern_start(&dropper, drop, area + 3 * KERN_PAGE);
	kern_await_msg(uffd);

	expect_stopped(uffd, area, source);
	CHECK_EQ(kern_wake(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_register(uffd, other, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_unregister(uffd, other, KERN_PAGE), 0);

	CHECK_EQ(kern_read_msg(uffd).event, UFFD_EVENT_REMOVE);
	CHECK_EQ(kern_join(&dropper), 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	CHECK_EQ(kern_poison(uffd, area + 2 * KERN_PAGE, KERN_PAGE), 0);
	return 0;
}
