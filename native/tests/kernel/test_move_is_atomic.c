/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_MOVE takes a page out of the guest in one step: while a thread counts a word of it up, the
 * page leaves for the staging area and returns many times, and no increment is lost.  What arrives
 * in staging never changes afterwards.
 */
#include "kern_thread.h"

enum { ROUNDS = 2000 };

static int guest_fd, staging_fd;
static char *guest, *staging;
static _Atomic bool must_stop;

static long count_up(void *arg)
{
	volatile uint64_t *word = arg;
	uint64_t mine = 0;
	while (!atomic_load(&must_stop)) {
		mine++;
		(*word)++;
		if (*word != mine)
			return -1;
	}
	return (long)mine;
}

/* Gives back what is in staging; nobody asked yet, or somebody sleeps: MOVE wakes him.  He asked
 * for it by counting up, which writes, or by looking at what he counted, which does not. */
static void give_back(void)
{
	struct uffd_msg msg;
	CHECK_EQ(kern_move(guest_fd, guest, staging, KERN_PAGE), 0);
	while (kern_try_msg(guest_fd, &msg))
		kern_check_fault(&msg, guest,
				 msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
}

int main(void)
{
	struct kern_thread counter;
	uint64_t before = 0;
	guest_fd = kern_uffd(0);
	staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	guest = kern_anon(1), staging = kern_anon(1);
	kern_fill(guest, 1, 0);
	CHECK_EQ(kern_register(guest_fd, guest, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&counter, count_up, guest);
	for (int i = 0; i < (int)check_rounds(ROUNDS); i++) {
		int rc;
		do
			rc = kern_move(staging_fd, staging, guest, KERN_PAGE);
		while (rc == -EAGAIN);
		CHECK_EQ(rc, 0);
		volatile uint64_t *taken = (volatile uint64_t *)staging;
		uint64_t value = *taken;
		CHECK(value >= before);
		if (i % 4 == 0) /* let the counter run into the hole */
			kern_wait_asleep(&counter);
		CHECK_EQ(*taken, value);
		before = value;
		give_back();
	}
	atomic_store(&must_stop, true);
	CHECK(kern_join(&counter) >= (long)before);
	return 0;
}
