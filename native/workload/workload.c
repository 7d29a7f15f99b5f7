/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.c — the workload's life: side table, filling, threads, statistics, final comparison.
 * What a thread does all day is in worker.c.
 */
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xxhash.h>

#include "util/base.h"
#include "util/hist.h"

enum { THREADS_MAX = 64 };

/* ---- Surviving a poisoned page ---------------------------------------------------------- */

static _Thread_local sigjmp_buf *sigbus_jump;
static struct sigaction sigbus_previous;
static pthread_once_t sigbus_once = PTHREAD_ONCE_INIT;

sigjmp_buf *ts_worker_guard(sigjmp_buf *jump)
{
	sigjmp_buf *outer = sigbus_jump;

	sigbus_jump = jump;
	/* The handler runs on this thread: the compiler alone must not move touches across. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return outer;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	if (sigbus_jump)
		siglongjmp(*sigbus_jump, 1);
	if (sigbus_previous.sa_flags & SA_SIGINFO)
		sigbus_previous.sa_sigaction(number, info, context);
	else if (sigbus_previous.sa_handler != SIG_DFL && sigbus_previous.sa_handler != SIG_IGN)
		sigbus_previous.sa_handler(number);
	else
		/* Not ours: the access is repeated, and kills the process as it would have. */
		signal(number, SIG_DFL);
}

static void sigbus_install(void)
{
	/* NODEFER: the jump leaves the handler, so the signal must not stay blocked. */
	struct sigaction action = {.sa_sigaction = on_sigbus,
				   .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

	sigemptyset(&action.sa_mask);
	TS_ASSERT(sigaction(SIGBUS, &action, &sigbus_previous) == 0);
}

int ts_workload_copy(void *dst, const void *src, uint64_t len_bytes)
{
	sigjmp_buf jump, *outer;

	pthread_once(&sigbus_once, sigbus_install);
	outer = sigbus_jump;
	if (sigsetjmp(jump, 0)) {
		ts_worker_guard(outer);
		return -EFAULT;
	}
	ts_worker_guard(&jump);
	memcpy(dst, src, len_bytes);
	ts_worker_guard(outer);
	return 0;
}

/* ---- Contents --------------------------------------------------------------------------- */

/* The start contents of a page (version 0) into `words`.  Returns 0 or -errno. */
static int content_start(const struct ts_workload *workload, uint64_t page, uint64_t *words)
{
	const struct ts_workload_options *options = &workload->options;
	uint64_t source_pages = options->source_bytes / CONTENT_PAGE_BYTES;
	uint64_t offset = page % source_pages * CONTENT_PAGE_BYTES;
	size_t done = 0;

	if (content_is_zero(options->seed, page, options->zero_pct)) {
		memset(words, 0, CONTENT_PAGE_BYTES);
		return 0;
	}
	while (done < CONTENT_PAGE_BYTES) {
		ssize_t got = pread(options->source_fd, (char *)words + done,
				    CONTENT_PAGE_BYTES - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return ts_fail(got < 0 ? -errno : -EIO,
				       "read of the workload's source at %llu: %s",
				       (unsigned long long)offset, got < 0 ? "%m" : "too short");
		done += (size_t)got;
	}
	words[0] = content_word(options->seed, page, 0);
	return 0;
}

/* What the page must hold at `version`. */
static int content_expect(const struct ts_workload *workload, uint64_t page, uint32_t version,
			  uint64_t *words)
{
	uint32_t first = version > CONTENT_SLOTS ? version - CONTENT_SLOTS : 0;
	int rc = content_start(workload, page, words);

	for (uint32_t v = first + 1; rc == 0 && v <= version; v++)
		words[content_slot(v)] = content_word(workload->options.seed, page, v);
	return rc;
}

int ts_workload_fill(struct ts_workload *workload)
{
	for (uint64_t page = 0; page < workload->nr_pages; page++) {
		uint64_t *words = worker_page(workload, page);
		int rc = content_start(workload, page, words);

		if (rc < 0)
			return rc;
		workload->entries[page] =
			(struct entry){.hash = XXH3_64bits(words, CONTENT_PAGE_BYTES)};
	}
	return 0;
}

static bool page_differs(const struct ts_workload *workload, uint64_t page, const void *expected)
{
	sigjmp_buf jump;
	bool differs;

	if (sigsetjmp(jump, 0)) {
		ts_worker_guard(NULL);
		return true; /* poisoned */
	}
	ts_worker_guard(&jump);
	differs = memcmp(worker_page(workload, page), expected, CONTENT_PAGE_BYTES) != 0;
	ts_worker_guard(NULL);
	return differs;
}

int64_t ts_workload_compare(struct ts_workload *workload, uint64_t first, uint64_t nr)
{
	uint64_t expected[CONTENT_PAGE_BYTES / 8];
	int64_t nr_bad = 0;

	if (first > workload->nr_pages || nr > workload->nr_pages - first)
		return ts_fail(-EINVAL, "compare: pages %llu+%llu are outside of the region",
			       (unsigned long long)first, (unsigned long long)nr);
	for (uint64_t page = first; page < first + nr; page++) {
		int rc = content_expect(workload, page, workload->entries[page].version,
					expected);

		if (rc < 0)
			return rc;
		if (page_differs(workload, page, expected)) {
			nr_bad++;
			ts_worker_note_bad(workload, page);
		}
	}
	return nr_bad;
}

/* ---- Life ------------------------------------------------------------------------------- */

static int check_options(const struct ts_workload_options *options)
{
	if (options->size != sizeof(*options))
		return ts_fail(TS_EVERSION, "workload: options have another size");
	if (options->len_bytes == 0 || options->len_bytes % CONTENT_PAGE_BYTES ||
	    (uintptr_t)options->addr % CONTENT_PAGE_BYTES)
		return ts_fail(TS_EALIGN, "workload: the region is not made of whole pages");
	if (options->source_bytes < CONTENT_PAGE_BYTES)
		return ts_fail(TS_ECONFIG, "workload: the source is shorter than a page");
	if (options->nr_threads == 0 || options->nr_threads > THREADS_MAX)
		return ts_fail(TS_ECONFIG, "workload: %u threads; 1 to %d will do",
			       options->nr_threads, THREADS_MAX);
	if (options->hot_pct > 100 || options->write_pct > 100 || options->zero_pct > 100)
		return ts_fail(TS_ECONFIG, "workload: a share above 100 %%");
	return 0;
}

int ts_workload_create(const struct ts_workload_options *options, struct ts_workload **out)
{
	struct ts_workload *workload;
	int rc = check_options(options);

	if (rc < 0)
		return rc;
	workload = calloc(1, sizeof(*workload));
	if (!workload)
		return ts_fail(-ENOMEM, "workload: no memory");
	workload->options = *options;
	workload->nr_pages = options->len_bytes / CONTENT_PAGE_BYTES;
	workload->first_bad_page = UINT64_MAX;
	workload->entries = calloc(workload->nr_pages, sizeof(*workload->entries));
	workload->workers = calloc(options->nr_threads, sizeof(*workload->workers));
	if (!workload->entries || !workload->workers) {
		ts_workload_destroy(workload);
		return ts_fail(-ENOMEM, "workload: no memory for the side table");
	}
	pthread_once(&sigbus_once, sigbus_install);
	*out = workload;
	return 0;
}

int ts_workload_start(struct ts_workload *workload)
{
	if (workload->nr_started)
		return ts_fail(TS_ESTATE, "workload: already running");
	__atomic_store_n(&workload->is_stopping, false, __ATOMIC_RELEASE);
	workload->start_ns = ts_now_ns();
	for (unsigned i = 0; i < workload->options.nr_threads; i++) {
		struct worker *worker = &workload->workers[i];
		int rc;

		worker->workload = workload;
		worker->rng = content_mix(workload->options.seed + i + 1);
		rc = pthread_create(&worker->thread, NULL, ts_worker_main, worker);
		if (rc) {
			ts_workload_stop(workload);
			return ts_fail(-rc, "workload: a thread could not be started");
		}
		workload->nr_started++;
	}
	return 0;
}

void ts_workload_stop(struct ts_workload *workload)
{
	__atomic_store_n(&workload->is_stopping, true, __ATOMIC_RELEASE);
	while (workload->nr_started)
		pthread_join(workload->workers[--workload->nr_started].thread, NULL);
}

int ts_workload_stats(struct ts_workload *workload, struct ts_workload_stats *stats)
{
	if (stats->size != sizeof(*stats))
		return ts_fail(TS_EVERSION, "workload: statistics have another size");
	*stats = (struct ts_workload_stats){.size = sizeof(*stats)};
	stats->first_bad_page = __atomic_load_n(&workload->first_bad_page, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < workload->options.nr_threads; i++) {
		const struct worker *worker = &workload->workers[i];

		stats->nr_touches += __atomic_load_n(&worker->nr_touches, __ATOMIC_RELAXED);
		stats->nr_writes += __atomic_load_n(&worker->nr_writes, __ATOMIC_RELAXED);
		stats->nr_mismatches += __atomic_load_n(&worker->nr_mismatches, __ATOMIC_RELAXED);
		stats->nr_lost += __atomic_load_n(&worker->nr_lost, __ATOMIC_RELAXED);
		stats->nr_faults += __atomic_load_n(&worker->nr_faults, __ATOMIC_RELAXED);
		ts_hist_merge(&stats->fault, &worker->fault);
	}
	return 0;
}

void ts_workload_destroy(struct ts_workload *workload)
{
	if (!workload)
		return;
	if (workload->workers)
		ts_workload_stop(workload);
	free(workload->workers);
	free(workload->entries);
	free(workload);
}
