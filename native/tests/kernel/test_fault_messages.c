/* SPDX-License-Identifier: Apache-2.0
 *
 * Fault messages are questions, not records.  Two threads at one page send two; one COPY wakes both
 * and the answer to the second is EEXIST.  A message nobody has read is withdrawn when its thread
 * is woken.  A signal handler that runs over a sleeping fault makes the thread ask again
 * afterwards.  COPY with DONTWAKE leaves the thread asleep until WAKE.
 */
#include "kern_thread.h"

static int uffd;
static char source[KERN_PAGE];
static _Atomic int nr_signals;

static char *missing_page(void)
{
	char *page = kern_anon(1);
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	return page;
}

static void two_threads(void)
{
	char *page = missing_page();
	struct kern_thread readers[2];
	for (int i = 0; i < 2; i++) {
		kern_start(&readers[i], kern_run_read, page);
		kern_wait_asleep(&readers[i]);
	}
	kern_expect_fault(uffd, page, 0);
	kern_expect_fault(uffd, page, 0);
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(kern_join(&readers[i]), 's');
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), -EEXIST);
}

static void unread(void)
{
	char *page = missing_page();
	struct kern_thread reader;
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	CHECK(kern_has_msg(uffd));
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	CHECK(!kern_has_msg(uffd));
}

static void on_usr1(int signo)
{
	(void)signo;
	atomic_fetch_add(&nr_signals, 1);
}

static void interrupted(void)
{
	char *page = missing_page();
	struct kern_thread reader;
	struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
	CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, page, 0);
	CHECK_EQ(pthread_kill(reader.thread, SIGUSR1), 0);
	kern_expect_fault(uffd, page, 0); /* the same fault, once more */
	CHECK_EQ(atomic_load(&nr_signals), 1);
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
}

static void without_wake(void)
{
	char *page = missing_page();
	struct kern_thread reader;
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, page, 0);
	CHECK_EQ(kern_copy_mode(uffd, page, source, KERN_PAGE, UFFDIO_COPY_MODE_DONTWAKE, NULL), 0);
	CHECK(kern_slept_through(&reader));
	CHECK_EQ(kern_wake(uffd, page, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
}

int main(void)
{
	uffd = kern_uffd(0);
	kern_fill(source, 1, 's');
	two_threads();
	unread();
	interrupted();
	without_wake();
	return 0;
}
