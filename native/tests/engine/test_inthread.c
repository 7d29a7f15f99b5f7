/* SPDX-License-Identifier: Apache-2.0
 *
 * test_inthread.c — threads that answer their own faults: many of them, beside a SIGBUS handler
 * that was there before, with system calls that can't wait, and with pages that are lost. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include "guest.h"

enum { NR = 4096, THREADS = 16 };

static size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }

static void begin(struct guest *guest, const char *wrap)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, false);
	guest_open(guest);
	CHECK_EQ(guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"), 64 << 20,
				TS_CODEC_LZ4, 4096, wrap), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
}

static void evict_all(struct guest *guest)
{
	CHECK_EQ(guest_evict(guest, bytes(NR), 0, true).nr_failed, 0);
}

/* ---- Many threads ----------------------------------------------------------------------- */

static void *reader(void *arg)
{
	struct guest *guest = arg;

	for (uint64_t i = 0, page = (uintptr_t)&i / 64; i < NR; i++, page += 17)
		if (!guest_is_right(guest, page % NR, 0))
			atomic_fetch_add(&guest->nr_wrong, 1);
	return NULL;
}

/* More threads than the library has contexts, all at the same pages, against an evictor. */
static void many_threads(void)
{
	struct guest guest;
	pthread_t threads[THREADS];

	begin(&guest, NULL);
	evict_all(&guest);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, reader, &guest), 0);
	for (unsigned round = 0; round < 10; round++)
		guest_evict(&guest, bytes(NR), 0, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(guest.nr_wrong, 0);
	CHECK(guest_stats(&guest)->nr_faults > 0);
	guest_close(&guest);
}

/* Two regions at once, and one that goes while threads fault on the other. */
static void two_regions(void)
{
	struct guest one, two;
	pthread_t threads[4];

	begin(&one, NULL);
	begin(&two, NULL);
	evict_all(&two);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, reader, &two), 0);
	for (unsigned round = 0; round < 5; round++) {
		evict_all(&one);
		guest_check_all(&one);
		CHECK_EQ(ts_region_detach(one.region), 0);
		guest_attach(&one, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(two.nr_wrong, 0);
	guest_close(&one);
	guest_close(&two);
}

/* ---- SIGBUS that is not ours ------------------------------------------------------------ */

static sigjmp_buf escape;
static volatile sig_atomic_t nr_chained;
static void *volatile chained_addr;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	sigset_t now;

	(void)context;
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
	CHECK_EQ(sigismember(&now, signal), 1);
	nr_chained++;
	chained_addr = info->si_addr;
	siglongjmp(escape, 1);
}

/* What a program does that maps files: SIGBUS beyond their end is its own business. */
static volatile unsigned char *map_beyond_end(void)
{
	int fd = memfd_create("short", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(ftruncate(fd, GUEST_PAGE), 0);
	unsigned char *area = mmap(NULL, bytes(2), PROT_READ, MAP_SHARED, fd, 0);
	CHECK(area != MAP_FAILED);
	close(fd);
	return area + GUEST_PAGE;
}

static void install_own_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
}

/* Runs in a child: the library installs its handler once a process, in front of what is there. */
static int in_child(void (*run)(void))
{
	int status;

	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		run();
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static void chain_to_handler(void)
{
	struct guest guest;
	volatile unsigned char *beyond = map_beyond_end();

	install_own_handler();
	begin(&guest, NULL);
	evict_all(&guest);
	for (volatile int i = 0; i < 3; i++) {
		if (!sigsetjmp(escape, 1))
			(void)*beyond;
		guest_check_all(&guest);
		CHECK_EQ(nr_chained, i + 1);
		CHECK(chained_addr == (void *)(uintptr_t)beyond);
	}
	guest_close(&guest);
	/* The region has gone; its handler passes on what it does not know. */
	if (!sigsetjmp(escape, 1))
		(void)*beyond;
	CHECK_EQ(nr_chained, 4);
}

static void die_by_default(void)
{
	struct guest guest;

	signal(SIGBUS, SIG_DFL);
	begin(&guest, NULL);
	(void)*map_beyond_end();
	_exit(3);
}

static void die_though_ignored(void)
{
	struct guest guest;

	signal(SIGBUS, SIG_IGN);
	begin(&guest, NULL);
	(void)*map_beyond_end();
	_exit(3);
}

static void foreign_sigbus(void)
{
	CHECK_EQ(in_child(chain_to_handler), 0);
	int status = in_child(die_by_default);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	status = in_child(die_though_ignored);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* ---- System calls ----------------------------------------------------------------------- */

/* The kernel can't run a handler in the middle of a system call: it says EFAULT (tierstore.h). */
static void system_calls(void)
{
	struct guest guest;
	int fds[2];

	begin(&guest, NULL);
	evict_all(&guest);
	CHECK_EQ(pipe(fds), 0);
	unsigned char *page = guest.mem + bytes(100);
	CHECK_EQ(write(fds[1], page, 64), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK(guest_is_right(&guest, 100, 0));
	CHECK_EQ(write(fds[1], page, 64), 64);
	close(fds[0]);
	close(fds[1]);
	guest_close(&guest);
}

/* ---- Lost pages ------------------------------------------------------------------------- */

static void touch_lost_chained(void)
{
	struct guest guest;

	install_own_handler();
	begin(&guest, "fault:get=1,error=corrupt");
	evict_all(&guest);
	for (volatile int i = 0; i < 3; i++) {
		if (!sigsetjmp(escape, 1)) {
			(void)*(volatile unsigned char *)(guest.mem + bytes(100));
			_exit(4);
		}
		CHECK_EQ(nr_chained, i + 1);
		CHECK(chained_addr == guest.mem + bytes(100));
	}
	CHECK_EQ(guest_stats(&guest)->nr_gone, 1);
	CHECK_EQ(guest_stats(&guest)->failures[TS_FAIL_POISONED], 1);
	CHECK(guest_stats(&guest)->failures[TS_FAIL_CORRUPT] == 1);
}

static void touch_lost_default(void)
{
	struct guest guest;

	signal(SIGBUS, SIG_DFL);
	begin(&guest, "fault:get=1,error=EIO");
	evict_all(&guest);
	(void)*(volatile unsigned char *)(guest.mem + bytes(100));
	_exit(3);
}

/* Never zeros, never another page: the signal that the guest gets is the one it would get for
 * broken memory. */
static void lost_pages(void)
{
	CHECK_EQ(in_child(touch_lost_chained), 0);
	int status = in_child(touch_lost_default);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* Those with children first: what the library finds as the previous handler is found once. */
CHECK_MAIN({ "foreign_sigbus", foreign_sigbus }, { "lost_pages", lost_pages },
	   { "many_threads", many_threads }, { "two_regions", two_regions },
	   { "system_calls", system_calls })
