/* SPDX-License-Identifier: Apache-2.0
 *
 * worker.c — one guest thread: picks pages, touches them, checks them, writes some.
 *
 * The pattern is what makes tiering worth while: nearly all touches fall into a small window, most
 * of them at its start (the share below x of the window is the cube root of x); the window moves on
 * through the region; and a trickle of touches goes anywhere, some of them with their neighbours.
 *
 * Latency is what the guest sees: the time of the first access to a page, counted only if the
 * kernel says that the thread went to sleep in it (ru_nvcsw, voluntary context switches, rises by
 * one for each wait; a preempted access raises another counter).  ru_majflt would not do: a fault
 * that is repeated under the lock of its own mapping is not counted as a major one.
 */
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <xxhash.h>

#include "util/base.h"
#include "util/hist.h"

enum {
	SLICE_NS = 2000000,      /* the pattern is planned this far ahead */
	SLICE_TOUCHES = 512,     /* of a worker without a limit */
	LATE_NS = 50000000,      /* a worker that is later than this forgets what it missed */
	SLOW_NS = 1000,          /* a fault is never faster; below, no need to ask the kernel */
	COLD_RUN = 8,            /* neighbours that some cold touches take along */
};

static void bump(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static uint64_t rng_next(struct worker *worker)
{
	worker->rng += 0x9e3779b97f4a7c15u;
	return content_mix(worker->rng);
}

void ts_worker_note_bad(struct ts_workload *workload, uint64_t page)
{
	uint64_t seen = __atomic_load_n(&workload->first_bad_page, __ATOMIC_RELAXED);

	while (page < seen && !__atomic_compare_exchange_n(&workload->first_bad_page, &seen, page,
							   false, __ATOMIC_RELAXED,
							   __ATOMIC_RELAXED)) {
	}
}

static uint64_t nr_sleeps_now(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_nvcsw : 0;
}

/* The first access, timed.  A write that changes nothing is still a write to the kernel. */
static void access_first(struct worker *worker, uint64_t *words, bool is_write)
{
	uint64_t start_ns = ts_now_ns(), spent_ns, nr_sleeps;

	if (is_write)
		__atomic_fetch_or(words, 0, __ATOMIC_RELAXED);
	else
		(void)*(volatile uint64_t *)words;
	spent_ns = ts_now_ns() - start_ns;
	if (TS_LIKELY(spent_ns < SLOW_NS))
		return;
	nr_sleeps = nr_sleeps_now();
	if (nr_sleeps != worker->nr_sleeps) {
		bump(&worker->nr_faults);
		ts_hist_add(&worker->fault, spent_ns);
		worker->nr_sleeps = nr_sleeps;
	}
}

static void write_next(struct worker *worker, uint64_t page, uint64_t *words, struct entry *entry)
{
	uint64_t seed = worker->workload->options.seed;
	uint32_t version = entry->version + 1;

	words[content_slot(version)] = content_word(seed, page, version);
	entry->version = version;
	entry->hash = XXH3_64bits(words, CONTENT_PAGE_BYTES);
	bump(&worker->nr_writes);
}

static void check_and_write(struct worker *worker, uint64_t page, struct entry *entry,
			    bool is_write)
{
	uint64_t *words = worker_page(worker->workload, page);

	access_first(worker, words, is_write);
	if (TS_UNLIKELY(XXH3_64bits(words, CONTENT_PAGE_BYTES) != entry->hash)) {
		bump(&worker->nr_mismatches);
		ts_worker_note_bad(worker->workload, page);
		/* Left as it is, for the final comparison; a write would hide it from itself. */
		return;
	}
	if (is_write)
		write_next(worker, page, words, entry);
}

static void touch(struct worker *worker, uint64_t page)
{
	struct entry *entry = &worker->workload->entries[page];
	bool is_write = rng_next(worker) % 100 < worker->workload->options.write_pct;
	sigjmp_buf jump;

	if (__atomic_exchange_n(&entry->lock, 1, __ATOMIC_ACQUIRE))
		return;
	bump(&worker->nr_touches);
	if (sigsetjmp(jump, 0) == 0) {
		ts_worker_guard(&jump);
		check_and_write(worker, page, entry, is_write);
	} else {
		bump(&worker->nr_lost);
		ts_worker_note_bad(worker->workload, page);
	}
	ts_worker_guard(NULL);
	__atomic_store_n(&entry->lock, 0, __ATOMIC_RELEASE);
}

static void touch_hot(struct worker *worker, uint64_t now_ns)
{
	const struct ts_workload *workload = worker->workload;
	double passed_s = (double)(now_ns - workload->start_ns) / 1e9;
	uint64_t base = (uint64_t)(passed_s * workload->options.drift_per_s);
	uint64_t window = TS_MAX(workload->nr_pages * workload->options.hot_pct / 100, 1u);
	double u = (double)(rng_next(worker) >> 11) / (double)(1ull << 53);

	/* Drift brings new pages in at the far end: what is hottest stays so for a while. */
	touch(worker, (base + (uint64_t)(u * u * u * (double)window)) % workload->nr_pages);
}

static void touch_cold(struct worker *worker)
{
	uint64_t nr_pages = worker->workload->nr_pages;
	uint64_t page = rng_next(worker) % nr_pages;
	unsigned run = rng_next(worker) % 4 ? 1 : COLD_RUN;

	for (unsigned i = 0; i < run; i++)
		touch(worker, (page + i) % nr_pages);
}

/* How many of `per_s` touches this worker owes for one slice; fractions are drawn. */
static unsigned slice_share(struct worker *worker, uint32_t per_s)
{
	double owed = (double)per_s * SLICE_NS / 1e9 / worker->workload->options.nr_threads;
	double drawn = (double)(rng_next(worker) >> 11) / (double)(1ull << 53);

	return (unsigned)(owed + drawn);
}

static void run_slice(struct worker *worker)
{
	const struct ts_workload_options *options = &worker->workload->options;
	unsigned nr_cold = slice_share(worker, options->cold_per_s);
	unsigned nr_hot = options->touches_per_s ? slice_share(worker, options->touches_per_s)
						 : SLICE_TOUCHES;
	uint64_t now_ns = ts_now_ns();

	for (unsigned i = 0; i < nr_hot; i++)
		touch_hot(worker, now_ns);
	for (unsigned i = 0; i < nr_cold; i++)
		touch_cold(worker);
}

/* Without a limit on touches, cold ones are still paced: a slice that was faster than its time
 * gets more hot touches, not more cold ones. */
static void fill_slice(struct worker *worker, uint64_t until_ns)
{
	const struct ts_workload *workload = worker->workload;
	uint64_t now_ns = ts_now_ns();

	while (now_ns < until_ns && !__atomic_load_n(&workload->is_stopping, __ATOMIC_ACQUIRE)) {
		for (unsigned i = 0; i < SLICE_TOUCHES; i++)
			touch_hot(worker, now_ns);
		now_ns = ts_now_ns();
	}
}

static void sleep_until(uint64_t until_ns)
{
	struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
				 .tv_nsec = (long)(until_ns % 1000000000u)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
	}
}

/* Signals meant for the process go to the program's own threads, and interrupt no sleep here. */
static void leave_signals_alone(void)
{
	static const int own[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGABRT};
	sigset_t others;

	sigfillset(&others);
	for (size_t i = 0; i < TS_ARRAY_LEN(own); i++)
		sigdelset(&others, own[i]);
	(void)pthread_sigmask(SIG_BLOCK, &others, NULL); /* fails for a wrong argument only */
}

void *ts_worker_main(void *arg)
{
	struct worker *worker = arg;
	struct ts_workload *workload = worker->workload;
	uint64_t due_ns = ts_now_ns();

	leave_signals_alone();
	while (!__atomic_load_n(&workload->is_stopping, __ATOMIC_ACQUIRE)) {
		worker->nr_sleeps = nr_sleeps_now();
		run_slice(worker);
		due_ns += SLICE_NS;
		if (ts_now_ns() > due_ns + LATE_NS)
			due_ns = ts_now_ns();
		if (workload->options.touches_per_s)
			sleep_until(due_ns);
		else
			fill_slice(worker, due_ns);
	}
	return NULL;
}
