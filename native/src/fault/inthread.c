/* SPDX-License-Identifier: Apache-2.0
 *
 * inthread.c — the SIGBUS handler (inthread.h).
 *
 * What the kernel gives us: UFFD_FEATURE_SIGBUS turns a fault of user-mode code into SIGBUS in the
 * faulting thread; after the handler has returned the access is tried again.
 * What that means here: the handler may use nothing that is not async-signal-safe.  It takes one of
 * a fixed number of contexts, each with readers and buffers of its own, serves the page as a fault
 * thread would, and gives the context back.  A SIGBUS that is not ours goes to the handler that was
 * there.
 *
 * SIGBUS stays unblocked meanwhile, because to block it and unblock it again costs as much as to
 * look a page up.  A fault inside the handler, of which there is none but by a bug or in a handler
 * that has interrupted ours, ends the process all the same: nothing of ours may be served twice at
 * a time in one thread, which may hold the very page.  The handler that was there finds SIGBUS
 * blocked.
 */
#include "fault/inthread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "fault/caller.h"
#include "fault/sigframe.h"
#include "util/limits.h"

enum {
	FADING_MAX = 8,
	FADING_RETRIES = 4096,
};

struct inthread {
	struct ts_region *region;
	atomic_bool is_ready;
	atomic_bool is_busy[TS_INTHREAD_CONTEXTS];
	struct ts_serve_ctx contexts[TS_INTHREAD_CONTEXTS];
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards additions, removals. */
static struct place {
	_Alignas(64) _Atomic(struct inthread *) inthread;
	_Atomic uint32_t nr_inside;  /* threads that may be using it */
} table[TS_REGION_MAX];
static struct sigaction previous;
static bool is_installed;
/* The C library keeps errno in the same way: no allocation at the first use. */
static _Thread_local volatile sig_atomic_t is_serving __attribute__((tls_model("initial-exec")));

/* Where regions have been of late.  A signal that was raised while one was registered may reach its
 * handler when it is no more: the access is tried again, a bounded number of times, because what
 * is meant by a SIGBUS there may also be a page that was lost. */
static struct fading {
	_Atomic uint64_t start, end;
	_Atomic int32_t nr_retries;
} fading[FADING_MAX];
static unsigned fading_hand;  /* guarded by table_lock */

static struct ts_serve_ctx *acquire(struct inthread *inthread, unsigned *index_out)
{
	for (;; sched_yield())
		for (unsigned i = 0; i < TS_INTHREAD_CONTEXTS; i++)
			if (!atomic_exchange_explicit(&inthread->is_busy[i], true,
						      memory_order_acquire)) {
				*index_out = i;
				return &inthread->contexts[i];
			}
}

static bool is_ours(struct ts_region *region, uint64_t addr, struct ts_shard **shard_out,
		    uint32_t *page_out)
{
	for (unsigned s = 0; s < region->nr_shards; s++) {
		struct ts_shard *shard = &region->shards[s];
		ts_gate_share(&shard->gate);
		bool found = ts_shard_page(shard, addr, page_out);
		ts_gate_unshare(&shard->gate);
		*shard_out = shard;
		if (found)
			return true;
	}
	return false;
}

/* What is looked up in the end is asked for in the beginning, for the thread has no other work
 * meanwhile.  (A fault thread has, and gains nothing by it.) */
static void expect(struct ts_serve_ctx *ctx, struct ts_region *region, uint32_t page)
{
	ts_word word = ts_word_load(&region->words[page]);

	__builtin_prefetch(&region->heat[page], 1);
	if (ts_word_is(word, TS_AWAY))
		ts_fetch_expect(&ctx->fetch, ts_word_payload(word));
}

/* One page, to the end.  False: it is lost, and the signal is meant. */
static bool serve(struct inthread *inthread, struct ts_shard *shard, uint32_t page)
{
	unsigned index;
	ts_mono_ns start_ns = ts_now_ns();
	struct ts_serve_ctx *ctx = acquire(inthread, &index);
	enum ts_serve_outcome outcome;

	expect(ctx, shard->region, page);
	do {
		outcome = ts_serve_to_end(ctx, shard, page, 0, start_ns);
		if (outcome == TS_SERVE_LATER || outcome == TS_SERVE_IGNORED)
			sched_yield();
	} while (outcome == TS_SERVE_LATER);
	atomic_store_explicit(&inthread->is_busy[index], false, memory_order_release);
	return !ts_word_is(ts_word_load(&shard->region->words[page]), TS_GONE);
}

static bool is_fading(uint64_t addr)
{
	for (unsigned i = 0; i < FADING_MAX; i++) {
		struct fading *range = &fading[i];
		int32_t left = atomic_load(&range->nr_retries);
		bool is_hit = addr >= atomic_load(&range->start) &&
				 addr < atomic_load(&range->end);
		while (is_hit && left > 0)
			if (atomic_compare_exchange_weak(&range->nr_retries, &left, left - 1))
				return true;
	}
	return false;
}

/* What is there, and stays until leave(); NULL: nothing. */
static struct inthread *enter(struct place *place)
{
	/* Whoever faults on a region's memory has seen it being added. */
	if (!atomic_load_explicit(&place->inthread, memory_order_relaxed))
		return NULL;
	atomic_fetch_add(&place->nr_inside, 1);
	struct inthread *inthread = atomic_load(&place->inthread);
	if (!inthread)
		atomic_fetch_sub(&place->nr_inside, 1);
	return inthread;
}

static void leave(struct place *place)
{
	atomic_fetch_sub(&place->nr_inside, 1);
}

static bool try_serve(uint64_t addr)
{
	struct ts_shard *shard;
	bool is_served = false;
	uint32_t page;

	for (unsigned i = 0; i < TS_REGION_MAX && !is_served; i++) {
		struct inthread *inthread = enter(&table[i]);
		if (!inthread)
			continue;
		if (is_ours(inthread->region, addr, &shard, &page)) {
			/* Not ready: the access is tried again until attach is through. */
			bool is_ready = atomic_load(&inthread->is_ready);
			is_served = is_ready ? serve(inthread, shard, page) : !sched_yield();
		}
		leave(&table[i]);
	}
	return is_served;
}

/* The access is tried again, and ends the process. */
static void die(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	sigaction(SIGBUS, &dfl, NULL);
}

static void chain(int signal, siginfo_t *info, void *context)
{
	sigset_t sigbus, before;

	if (!(previous.sa_flags & SA_SIGINFO) &&
	    (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN)) {
		/* Ignoring would fault for ever: die of it, as without us. */
		die();
		return;
	}
	sigemptyset(&sigbus);
	sigaddset(&sigbus, SIGBUS);
	pthread_sigmask(SIG_BLOCK, &sigbus, &before);
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(signal, info, context);
	else
		previous.sa_handler(signal);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	uint64_t addr = (uintptr_t)info->si_addr & ~(uint64_t)(TS_PAGE_BYTES - 1);

	if (is_serving && info->si_code > 0) {
		die();
		return;
	}
	bool is_nested = is_serving, is_served = false;
	if (!is_nested) {
		is_serving = true;
		is_served = try_serve(addr);
		is_serving = false;
	}
	if (!is_served && (is_nested || !is_fading(addr)))
		chain(signal, info, context);
	errno = saved_errno;
	if (is_served && ts_sigframe_may_leave(__builtin_dwarf_cfa(), info, context))
		ts_sigframe_leave(context);
}

static int install_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	if (is_installed)
		return 0;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &previous))
		return -errno;
	is_installed = true;
	return 0;
}

static void destroy(struct inthread *inthread)
{
	for (unsigned i = 0; i < TS_INTHREAD_CONTEXTS; i++)
		if (inthread->contexts[i].engine)
			ts_serve_finish(&inthread->contexts[i]);
	free(inthread);
}

int ts_inthread_add(struct ts_region *region)
{
	struct inthread *inthread = calloc(1, sizeof(*inthread));
	int rc = inthread ? 0 : -ENOMEM;

	if (rc)
		return rc;
	inthread->region = region;
	for (unsigned i = 0; i < TS_INTHREAD_CONTEXTS && !rc; i++)
		rc = ts_serve_init(&inthread->contexts[i], region->engine, 2);
	if (rc)
		rc = ts_fail(rc,
			     "%s: no readers left for one more in-thread region: detach one, or "
			     "serve this one by messages",
			     region->name);
	TS_SCOPED_LOCK(&table_lock);
	if (!rc)
		rc = install_handler();
	for (unsigned i = 0; i < TS_REGION_MAX && !rc; i++) {
		if (atomic_load(&table[i].inthread))
			continue;
		atomic_store(&table[i].inthread, inthread);
		return 0;
	}
	destroy(inthread);
	return rc ? rc : TS_ELIMIT;
}

static struct inthread *find_locked(const struct ts_region *region)
{
	for (unsigned i = 0; i < TS_REGION_MAX; i++) {
		struct inthread *inthread = atomic_load(&table[i].inthread);
		if (inthread && inthread->region == region)
			return inthread;
	}
	return NULL;
}

/* The addresses from the region's first to its last. */
static void span_of(struct ts_region *region, uint64_t *start, uint64_t *end)
{
	*start = UINT64_MAX;
	*end = 0;
	for (unsigned s = 0; s < region->nr_shards; s++) {
		struct ts_shard *shard = &region->shards[s];
		ts_gate_share(&shard->gate);
		for (unsigned i = 0; i < shard->nr_extents; i++) {
			uint64_t len_bytes = (uint64_t)shard->extents[i].nr_pages << TS_PAGE_SHIFT;
			*start = TS_MIN(*start, shard->extents[i].addr);
			*end = TS_MAX(*end, shard->extents[i].addr + len_bytes);
		}
		ts_gate_unshare(&shard->gate);
	}
}

void ts_inthread_ready(struct ts_region *region)
{
	uint64_t start, end;

	span_of(region, &start, &end);
	TS_SCOPED_LOCK(&table_lock);
	for (unsigned i = 0; i < FADING_MAX; i++)
		if (atomic_load(&fading[i].start) < end && start < atomic_load(&fading[i].end))
			atomic_store(&fading[i].nr_retries, 0);
	struct inthread *inthread = find_locked(region);
	TS_ASSERT(inthread);
	atomic_store(&inthread->is_ready, true);
}

void ts_inthread_fade(struct ts_region *region)
{
	uint64_t start, end;

	span_of(region, &start, &end);
	TS_SCOPED_LOCK(&table_lock);
	struct fading *range = &fading[fading_hand++ % FADING_MAX];
	atomic_store(&range->nr_retries, 0);
	atomic_store(&range->start, start);
	atomic_store(&range->end, end);
	atomic_store(&range->nr_retries, FADING_RETRIES);
}

void ts_inthread_remove(struct ts_region *region)
{
	TS_SCOPED_LOCK(&table_lock);
	for (unsigned i = 0; i < TS_REGION_MAX; i++) {
		struct inthread *inthread = atomic_load(&table[i].inthread);
		if (!inthread || inthread->region != region)
			continue;
		atomic_store(&table[i].inthread, NULL);
		/* The handler stays installed: it chains what it does not know. */
		while (atomic_load(&table[i].nr_inside))
			sched_yield();
		destroy(inthread);
		return;
	}
}
