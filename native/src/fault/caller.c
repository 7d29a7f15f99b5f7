/* SPDX-License-Identifier: Apache-2.0
 *
 * caller.c — contexts for threads that are not the engine's (caller.h).
 *
 * A context has buffers and a reader of every tier, so there are few (TS_CALLER_CONTEXTS), made
 * when they are first needed.  Their lock is held to take one and to give it back, and while one
 * is made; never while a page is served.
 */
#include "fault/caller.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "util/limits.h"

enum {
	DEPTH = 2,
	YIELDS = 32,  /* before a wait for another thread's read becomes naps */
	NAP_US = 20,
};

struct ts_callers {
	struct ts_engine *engine;
	pthread_mutex_t lock;  /* Guards all below but the contexts that are in use. */
	pthread_cond_t has_free;
	unsigned nr_made;
	bool is_busy[TS_CALLER_CONTEXTS];
	struct ts_serve_ctx contexts[TS_CALLER_CONTEXTS];
};

enum ts_serve_outcome ts_serve_to_end(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				      uint32_t page, uint32_t flags, ts_mono_ns start_ns)
{
	enum ts_serve_outcome outcome = ts_serve_page(ctx, shard, page, flags, start_ns);

	while (ctx->fetch.nr_busy)
		ts_serve_reap(ctx, 100);
	if (ctx->nr_later)
		outcome = TS_SERVE_LATER;
	ctx->nr_later = 0;
	return outcome == TS_SERVE_PENDING ? TS_SERVED : outcome;
}

int ts_callers_create(struct ts_engine *engine, struct ts_callers **callers_out)
{
	struct ts_callers *callers = calloc(1, sizeof(*callers));

	if (!callers)
		return -ENOMEM;
	callers->engine = engine;
	pthread_mutex_init(&callers->lock, NULL);
	pthread_cond_init(&callers->has_free, NULL);
	*callers_out = callers;
	return 0;
}

void ts_callers_destroy(struct ts_callers *callers)
{
	if (!callers)
		return;
	for (unsigned i = 0; i < callers->nr_made; i++)
		ts_serve_finish(&callers->contexts[i]);
	pthread_cond_destroy(&callers->has_free);
	pthread_mutex_destroy(&callers->lock);
	free(callers);
}

/* The number of a context that nobody has, now marked as in use; -1: all are in use. */
static int take_free_locked(struct ts_callers *callers)
{
	for (unsigned i = 0; i < callers->nr_made; i++)
		if (!callers->is_busy[i]) {
			callers->is_busy[i] = true;
			return (int)i;
		}
	return -1;
}

static int make_locked(struct ts_callers *callers)
{
	unsigned index = callers->nr_made;
	int rc = ts_serve_init(&callers->contexts[index], callers->engine, DEPTH);

	if (rc)
		return rc;
	callers->nr_made++;
	callers->is_busy[index] = true;
	return (int)index;
}

/* A context's number, or why there is none. */
static int acquire(struct ts_callers *callers)
{
	int index;

	TS_SCOPED_LOCK(&callers->lock);
	while ((index = take_free_locked(callers)) < 0) {
		if (callers->nr_made < TS_CALLER_CONTEXTS) {
			index = make_locked(callers);
			if (index >= 0 || !callers->nr_made)
				break;
		}
		pthread_cond_wait(&callers->has_free, &callers->lock);
	}
	return index;
}

static void release(struct ts_callers *callers, int index)
{
	TS_SCOPED_LOCK(&callers->lock);
	callers->is_busy[index] = false;
	pthread_cond_signal(&callers->has_free);
}

int ts_callers_serve(struct ts_callers *callers, struct ts_shard *shard, uint32_t page,
		     uint32_t flags)
{
	ts_mono_ns start_ns = ts_now_ns();
	int index = acquire(callers);

	if (index < 0)
		return index;
	/* IGNORED: another thread brings it back this moment, and tells those who wait in a fault
	 * only. */
	for (unsigned i = 0; ts_serve_to_end(&callers->contexts[index], shard, page, flags,
					     start_ns) != TS_SERVED; i++)
		if (i < YIELDS)
			sched_yield();
		else
			usleep(NAP_US);
	release(callers, index);
	return ts_word_is(ts_word_load(&shard->region->words[page]), TS_GONE) ? TS_ECORRUPT : 0;
}
