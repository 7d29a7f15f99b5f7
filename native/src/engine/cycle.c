/* SPDX-License-Identifier: Apache-2.0
 *
 * cycle.c — deactivate, wait, scan, evict down to a budget: for hosts without Python, which decides
 * the same with policies of its own.
 */
#include <errno.h>
#include <string.h>

#include "core/engine.h"
#include "util/sized.h"
#include "util/thread.h"

struct ts_cycle {
	struct ts_engine *engine;
	struct ts_cycle_options options;
	pthread_t thread;
	pthread_mutex_t lock;  /* Guards is_stopping. */
	pthread_cond_t wake;
	bool is_stopping;
	uint64_t nr_refaults[TS_REGION_MAX];  /* at the last tick, by slot */
};

static uint64_t budget_bytes(const struct ts_cycle_options *options, const struct ts_region *region)
{
	uint64_t size_bytes = (uint64_t)region->nr_pages << TS_PAGE_SHIFT;

	return options->budget_bytes ? options->budget_bytes :
	       size_bytes / 100 * options->budget_pct;
}

static bool is_thrashing(struct ts_cycle *cycle, const struct ts_region *region, unsigned slot)
{
	uint64_t before = cycle->nr_refaults[slot];
	uint64_t now = atomic_load(&region->counters.nr_refaults);

	cycle->nr_refaults[slot] = now;
	if (!cycle->options.refaults_per_s_max || now < before)
		return false;
	return (now - before) * 1000 / cycle->options.interval_ms >
	       cycle->options.refaults_per_s_max;
}

static void tick_region(struct ts_cycle *cycle, struct ts_region *region, unsigned slot)
{
	const struct ts_cycle_options *options = &cycle->options;
	struct ts_scan_result scan = { .size = sizeof(scan) };
	struct ts_evict_options evict = { .size = sizeof(evict), .age_min = options->age_min };
	struct ts_evict_result result = { .size = sizeof(result) };

	int rc = ts_region_scan(region, &scan);
	uint64_t resident = scan.nr_resident << TS_PAGE_SHIFT;
	uint64_t budget = budget_bytes(options, region);
	if (!rc && resident > budget && !is_thrashing(cycle, region, slot)) {
		evict.bytes_max = resident - budget;
		if (options->evict_bytes_per_s)
			evict.bytes_max =
				TS_MIN(evict.bytes_max,
				       options->evict_bytes_per_s / 1000 * options->interval_ms);
		rc = ts_region_evict(region, &evict, &result);
	}
	if (!rc)
		rc = ts_region_deactivate(region);
	if (rc)
		ts_log(cycle->engine, TS_LOG_WARNING, "cycle: %s", ts_last_error());
}

static void tick(struct ts_cycle *cycle)
{
	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		struct ts_region *region = ts_engine_enter_slot(cycle->engine, r);
		if (!region)
			continue;
		if (region->abilities & TS_CAN_EVICT)
			tick_region(cycle, region, r);
		ts_region_leave(region);
	}
}

static void *run(void *arg)
{
	struct ts_cycle *cycle = arg;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	TS_SCOPED_LOCK(&cycle->lock);
	while (!cycle->is_stopping) {
		until.tv_sec += cycle->options.interval_ms / 1000;
		until.tv_nsec += (long)(cycle->options.interval_ms % 1000) * 1000000L;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000L;
		}
		while (!cycle->is_stopping &&
		       pthread_cond_timedwait(&cycle->wake, &cycle->lock, &until) != ETIMEDOUT)
			;
		if (cycle->is_stopping)
			break;
		pthread_mutex_unlock(&cycle->lock);
		tick(cycle);
		pthread_mutex_lock(&cycle->lock);
	}
	return NULL;
}

int ts_cycle_start(struct ts_engine *engine, const struct ts_cycle_options *options)
{
	struct ts_cycle_options known;
	int rc = ts_sized_in(&known, sizeof(known), options, "ts_cycle_options");

	if (rc)
		return rc;
	TS_SCOPED_LOCK(&engine->control);
	if (engine->cycle)
		return ts_fail(TS_ESTATE, "a cycle is running already");
	if (!engine->is_started)
		return ts_fail(TS_ESTATE, "start the engine before its cycle");
	struct ts_cycle *cycle = calloc(1, sizeof(*cycle));
	if (!cycle)
		return ts_fail(-ENOMEM, "cycle: out of memory");
	cycle->options = known;
	cycle->engine = engine;
	cycle->options.interval_ms =
		cycle->options.interval_ms ? cycle->options.interval_ms : 30000;
	cycle->options.age_min = cycle->options.age_min ? cycle->options.age_min : 2;
	cycle->options.budget_pct = cycle->options.budget_pct ? cycle->options.budget_pct : 25;
	pthread_mutex_init(&cycle->lock, NULL);
	ts_cond_init(&cycle->wake);
	rc = ts_thread_start(&cycle->thread, "ts-cycle", run, cycle);
	if (rc) {
		free(cycle);
		return rc;
	}
	engine->cycle = cycle;
	return 0;
}

int ts_cycle_stop(struct ts_engine *engine)
{
	struct ts_cycle *cycle;

	pthread_mutex_lock(&engine->control);
	cycle = engine->cycle;
	engine->cycle = NULL;
	pthread_mutex_unlock(&engine->control);
	if (!cycle)
		return 0;
	/* Not under control: a tick may be waiting for it. */
	pthread_mutex_lock(&cycle->lock);
	cycle->is_stopping = true;
	pthread_cond_signal(&cycle->wake);
	pthread_mutex_unlock(&cycle->lock);
	pthread_join(cycle->thread, NULL);
	pthread_cond_destroy(&cycle->wake);
	pthread_mutex_destroy(&cycle->lock);
	free(cycle);
	return 0;
}
