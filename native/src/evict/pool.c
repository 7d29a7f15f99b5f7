/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c — evict threads (pool.h).
 *
 * A job walks a region chunk by chunk; every thread that is free takes the next chunk, so chunks of
 * one job are encoded in parallel.  Batches whose probation is over go first: they hold staging
 * segments that the jobs need.
 */
#include "evict/pool.h"

#include <errno.h>
#include <string.h>

#include "track/track.h"
#include "util/hook.h"
#include "util/thread.h"

struct job {
	struct ts_region *region;
	unsigned age_min;
	bool no_probation;
	uint32_t nr_chunks, first_chunk;
	uint32_t next_chunk;             /* guarded by lock */
	unsigned nr_workers;             /* guarded by lock */
	_Atomic int64_t pages_left;
	struct ts_evict_tally tally;
	struct job *next;
};

struct pool_thread {
	struct ts_evict_pool *pool;
	pthread_t thread;
	bool is_started;
	struct ts_evictor evictor;
};

struct ts_evict_pool {
	struct ts_engine *engine;
	/* Guards jobs, parked, is_stopping.  Never held while pages are moved, encoded or
	 * stored. */
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	struct job *jobs;
	struct ts_batch *parked, **parked_end;  /* on probation, oldest first */
	bool is_stopping;
	unsigned nr_threads;
	struct pool_thread threads[];
};

/* ---- Probation -------------------------------------------------------------------------- */

static void park(struct ts_evict_pool *pool, struct ts_batch *batch)
{
	batch->due_ns = ts_now_ns() + (uint64_t)batch->region->probation_ms * 1000000u;
	TS_SCOPED_LOCK(&pool->lock);
	batch->next = NULL;
	*pool->parked_end = batch;
	pool->parked_end = &batch->next;
	pthread_cond_signal(&pool->work);
}

static void unlink_parked(struct ts_evict_pool *pool, struct ts_batch **link)
{
	struct ts_batch *batch = *link;

	*link = batch->next;
	if (pool->parked_end == &batch->next)
		pool->parked_end = link;
}

/* Regions may differ in probation, so the list is not sorted by due time; it is short. */
static struct ts_batch *take_due_locked(struct ts_evict_pool *pool, uint64_t now_ns,
					uint64_t *next_due_ns)
{
	*next_due_ns = UINT64_MAX;
	for (struct ts_batch **link = &pool->parked; *link; link = &(*link)->next) {
		struct ts_batch *batch = *link;
		if (batch->due_ns <= now_ns) {
			unlink_parked(pool, link);
			return batch;
		}
		*next_due_ns = TS_MIN(*next_due_ns, batch->due_ns);
	}
	return NULL;
}

void ts_evict_pool_return(struct ts_evict_pool *pool, struct ts_region *region)
{
	for (;;) {
		struct ts_batch *batch = NULL;
		pthread_mutex_lock(&pool->lock);
		for (struct ts_batch **link = &pool->parked; *link && !batch;) {
			if ((*link)->region == region) {
				batch = *link;
				unlink_parked(pool, link);
			} else {
				link = &(*link)->next;
			}
		}
		pthread_mutex_unlock(&pool->lock);
		if (!batch)
			return;
		ts_batch_abort(batch);
	}
}

/* ---- Jobs ------------------------------------------------------------------------------- */

/* A chunk, and with it as many pages of the job's bound as it may need; what it does not need goes
 * back.  So all threads together keep to the bound, and no chunk is taken without pages for it. */
static struct job *take_job_locked(struct ts_evict_pool *pool, uint32_t *chunk_out,
				   uint32_t *pages_out)
{
	for (struct job *job = pool->jobs; job; job = job->next) {
		int64_t pages_left = atomic_load(&job->pages_left);
		if (job->next_chunk == job->nr_chunks || pages_left <= 0)
			continue;
		*chunk_out = (job->first_chunk + job->next_chunk++) % job->nr_chunks;
		uint32_t nr_left = job->region->nr_pages - *chunk_out * TS_CHUNK_PAGES;
		uint32_t chunk_pages = TS_MIN(nr_left, (uint32_t)TS_CHUNK_PAGES);
		*pages_out = (uint32_t)TS_MIN(pages_left, (int64_t)chunk_pages);
		atomic_fetch_sub(&job->pages_left, *pages_out);
		job->nr_workers++;
		return job;
	}
	return NULL;
}

static bool is_over(const struct job *job)
{
	return !job->nr_workers &&
	       (job->next_chunk == job->nr_chunks || atomic_load(&job->pages_left) <= 0);
}

static void evict_chunk(struct pool_thread *thread, struct job *job, uint32_t chunk,
			uint32_t nr_pages)
{
	struct ts_region *region = job->region;
	bool is_blocked;

	if (atomic_load(&region->is_draining))
		return;
	struct ts_batch *batch =
		ts_batch_claim(&thread->evictor, region, chunk * TS_CHUNK_PAGES, job->age_min,
			       nr_pages, &is_blocked);
	unsigned nr_claimed = batch ? ts_pageset_count(&batch->owned) : 0;
	/* Blocked: all segments are on probation, enough for now. */
	if (is_blocked)
		atomic_store(&job->pages_left, 0);
	else
		atomic_fetch_add(&job->pages_left, nr_pages - nr_claimed);
	if (!batch)
		return;
	ts_bump(&job->tally.nr_claimed, nr_claimed);
	ts_batch_take(&thread->evictor, batch);
	if (region->memory->has_probation && region->tracker->needs_probation &&
	    region->probation_ms && !job->no_probation) {
		ts_bump(&job->tally.nr_probation, ts_pageset_count(&batch->owned));
		ts_bump(&job->tally.nr_cancelled, batch->nr_cancelled);
		ts_bump(&job->tally.nr_failed, batch->nr_failed);
		park(thread->pool, batch);
		return;
	}
	ts_batch_store(&thread->evictor, batch, &job->tally);
}

/* One piece of work, if there is any.  The lock is held, and let go meanwhile. */
static bool work_locked(struct pool_thread *thread, uint64_t *next_due_ns)
{
	struct ts_evict_pool *pool = thread->pool;
	struct ts_evict_tally ignored = { 0 };
	uint32_t chunk, nr_pages;

	struct ts_batch *batch = take_due_locked(pool, ts_now_ns(), next_due_ns);
	struct job *job = batch ? NULL : take_job_locked(pool, &chunk, &nr_pages);
	if (!batch && !job)
		return false;
	pthread_mutex_unlock(&pool->lock);
	if (batch)
		ts_batch_store(&thread->evictor, batch, &ignored);
	else
		evict_chunk(thread, job, chunk, nr_pages);
	pthread_mutex_lock(&pool->lock);
	if (job && (job->nr_workers--, is_over(job)))
		pthread_cond_broadcast(&pool->done);
	return true;
}

static void wait_locked(struct ts_evict_pool *pool, uint64_t until_ns)
{
	struct timespec until = { (time_t)(until_ns / 1000000000u),
				  (long)(until_ns % 1000000000u) };

	if (until_ns == UINT64_MAX)
		pthread_cond_wait(&pool->work, &pool->lock);
	else
		pthread_cond_timedwait(&pool->work, &pool->lock, &until);
}

static void *run(void *arg)
{
	struct pool_thread *thread = arg;
	struct ts_evict_pool *pool = thread->pool;
	uint64_t next_due_ns;

	TS_SCOPED_LOCK(&pool->lock);
	while (!pool->is_stopping)
		if (!work_locked(thread, &next_due_ns))
			wait_locked(pool, next_due_ns);
	return NULL;
}

/* The oldest pages first: the greatest age at which there are enough, by the last scan. */
static unsigned threshold(struct ts_region *region, unsigned age_min, uint64_t pages_wanted)
{
	uint64_t nr_pages = 0;

	for (unsigned age = 63; age > age_min; age--) {
		nr_pages += atomic_load_explicit(&region->ages[age], memory_order_relaxed);
		if (nr_pages >= pages_wanted)
			return age;
	}
	return age_min;
}

static void fill_result(struct ts_evict_result *result, struct ts_evict_tally *tally)
{
	result->nr_claimed = atomic_load(&tally->nr_claimed);
	result->nr_evicted = atomic_load(&tally->nr_evicted);
	result->nr_filled = atomic_load(&tally->nr_filled);
	result->nr_reused = atomic_load(&tally->nr_reused);
	result->nr_probation = atomic_load(&tally->nr_probation);
	result->nr_cancelled = atomic_load(&tally->nr_cancelled);
	result->nr_failed = atomic_load(&tally->nr_failed);
}

static void run_job(struct ts_evict_pool *pool, struct job *job)
{
	TS_SCOPED_LOCK(&pool->lock);
	job->next = pool->jobs;
	pool->jobs = job;
	pthread_cond_broadcast(&pool->work);
	while (!is_over(job))
		pthread_cond_wait(&pool->done, &pool->lock);
	struct job **link = &pool->jobs;
	while (*link != job)
		link = &(*link)->next;
	*link = job->next;
}

int ts_evict_pool_run(struct ts_evict_pool *pool, struct ts_region *region,
		      const struct ts_evict_options *options, struct ts_evict_result *result)
{
	uint32_t nr_pages = region->nr_pages;
	uint64_t pages_max = TS_MIN(options->bytes_max >> TS_PAGE_SHIFT, (uint64_t)nr_pages);
	uint32_t nr_chunks = (nr_pages + TS_CHUNK_PAGES - 1) / TS_CHUNK_PAGES;
	struct job job = {
		.region = region,
		.age_min = threshold(region, TS_MIN(options->age_min, 63u), pages_max),
		.no_probation = options->no_probation,
		.nr_chunks = nr_chunks,
		.first_chunk = atomic_load(&region->evict_hand) % nr_chunks,
	};

	/* Ages beyond the histogram's last bucket are compared as they are. */
	if (options->age_min > 63)
		job.age_min = TS_MIN(options->age_min, (uint32_t)TS_HEAT_AGE_MAX);
	atomic_store(&job.pages_left, (int64_t)pages_max);
	if (pages_max)
		run_job(pool, &job);
	/* Where this one stopped the next one begins, so that all parts get their turn. */
	atomic_store(&region->evict_hand, (job.first_chunk + job.next_chunk) % nr_chunks);
	fill_result(result, &job.tally);
	return 0;
}

/* ---- Life ------------------------------------------------------------------------------- */

static int start_thread(struct pool_thread *thread, unsigned index)
{
	char name[32];
	int rc = ts_evictor_init(&thread->evictor, thread->pool->engine, index);

	if (rc)
		return rc;
	snprintf(name, sizeof(name), "ts-evict-%u", index);
	rc = ts_thread_start(&thread->thread, name, run, thread);
	thread->is_started = !rc;
	return rc;
}

int ts_evict_pool_create(struct ts_engine *engine, unsigned nr_threads,
			 struct ts_evict_pool **pool_out)
{
	struct ts_evict_pool *pool = calloc(1, sizeof(*pool) +
					    nr_threads * sizeof(pool->threads[0]));

	if (!pool)
		return -ENOMEM;
	pool->engine = engine;
	pool->parked_end = &pool->parked;
	pthread_mutex_init(&pool->lock, NULL);
	ts_cond_init(&pool->work);
	ts_cond_init(&pool->done);
	for (unsigned i = 0; i < nr_threads; i++) {
		pool->threads[i].pool = pool;
		pool->nr_threads++;
		int rc = start_thread(&pool->threads[i], i);
		if (rc) {
			ts_evict_pool_destroy(pool);
			return rc;
		}
	}
	*pool_out = pool;
	return 0;
}

void ts_evict_pool_destroy(struct ts_evict_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	TS_ASSERT(!pool->jobs && !pool->parked);
	pool->is_stopping = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->nr_threads; i++) {
		if (pool->threads[i].is_started)
			pthread_join(pool->threads[i].thread, NULL);
		if (pool->threads[i].evictor.engine)
			ts_evictor_finish(&pool->threads[i].evictor);
	}
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->done);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
