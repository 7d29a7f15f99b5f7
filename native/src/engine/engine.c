/* SPDX-License-Identifier: Apache-2.0
 * engine.c — opening, tiers, starting, closing. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "core/engine.h"
#include "engine/adopt.h"
#include "engine/image.h"
#include "engine/keeper.h"
#include "engine/state.h"
#include "engine/tool.h"
#include "evict/pool.h"
#include "fault/caller.h"
#include "fault/server.h"
#include "os/sys.h"
#include "util/sized.h"

enum {
	STAGING_DEFAULT_MIB = 1024,
	TICK_MS_MIN = 100,
	EVICT_THREADS_AUTO_MAX = 4,
};

static int check_options(const struct ts_engine_options *options)
{
	if (options->placement > TS_PLACEMENT_FIXED)
		return ts_fail(TS_ECONFIG, "placement %u: auto (0) or fixed (1)",
			       options->placement);
	if (options->placement == TS_PLACEMENT_FIXED && !options->fault_cpus)
		return ts_fail(TS_ECONFIG, "placement fixed needs fault_cpus");
	if (options->nr_fault_threads > TS_FAULT_THREAD_MAX)
		return ts_fail(TS_ECONFIG, "nr_fault_threads %u: at most %d",
			       options->nr_fault_threads, TS_FAULT_THREAD_MAX);
	if (options->nr_evict_threads > TS_EVICT_THREAD_MAX)
		return ts_fail(TS_ECONFIG, "nr_evict_threads %u: at most %d",
			       options->nr_evict_threads, TS_EVICT_THREAD_MAX);
	if (options->spin_us > 1000)
		return ts_fail(TS_ECONFIG, "spin_us %u: at most 1000", options->spin_us);
	if (options->get_timeout_ms)
		return ts_fail(TS_ECONFIG, "get_timeout_ms is reserved and must be 0");
	/* Half of the slot numbers; the other half tells batches of memfd pages apart. */
	if (options->staging_bytes > UINT64_C(128) << 30)
		return ts_fail(TS_ECONFIG, "staging_bytes: at most 128 GiB");
	return 0;
}

int ts_engine_open(const struct ts_engine_options *options, struct ts_engine **engine_out)
{
	struct ts_engine *engine = calloc(1, sizeof(*engine));

	if (!engine)
		return ts_fail(-ENOMEM, "engine: out of memory");
	int rc = ts_sized_in(&engine->options, sizeof(engine->options), options,
			     "ts_engine_options");
	if (!rc)
		rc = check_options(&engine->options);
	engine->probe.size = sizeof(engine->probe);
	if (!rc)
		rc = ts_probe(&engine->probe);
	if (!rc && getrandom(&engine->secret, sizeof(engine->secret), 0) !=
	    (ssize_t)sizeof(engine->secret))
		rc = ts_fail(-errno, "getrandom: %m");
	if (!rc)
		rc = ts_dict_table_create(&engine->dicts);
	if (rc) {
		free(engine);
		return rc;
	}
	engine->staging.uffd = -1;
	engine->start_ns = engine->tick_start_ns = ts_now_ns();
	engine->tick_ms = TICK_MS_MIN;
	engine->frame_raw_max = TS_PAGE_BYTES;
	pthread_mutex_init(&engine->control, NULL);
	pthread_mutex_init(&engine->regions_lock, NULL);
	if (engine->options.state_dir)
		rc = ts_state_open(engine, engine->options.state_dir);
	ts_fills_init(&engine->fills, engine->state ? &engine->state->head->fills : NULL);
	engine->options.state_dir = NULL;  /* the caller's */
	if (rc) {
		ts_engine_close(engine);
		return rc;
	}
	*engine_out = engine;
	return 0;
}

static int open_tier(struct ts_engine *engine, struct ts_tier *tier,
		     const struct ts_tier_options *options)
{
	char path[4096];
	struct ts_tier_state state;

	if (!engine->state)
		return ts_tier_open(engine, tier, options, NULL);
	int rc = ts_state_tier_begin(engine, options, path, sizeof(path), &state);
	if (!rc)
		rc = ts_tier_open(engine, tier, options, &state);
	if (rc)
		return rc;
	engine->frame_raw_max = TS_MAX(engine->frame_raw_max, state.range_pages * TS_PAGE_BYTES);
	rc = ts_state_tier_end(engine, tier, options, state.is_resume);
	if (rc)
		ts_tier_close(tier);
	return rc;
}

int ts_engine_add_tier(struct ts_engine *engine, const struct ts_tier_options *options)
{
	struct ts_tier_options known;

	TS_SCOPED_LOCK(&engine->control);
	int rc = ts_sized_in(&known, sizeof(known), options, "ts_tier_options");
	if (rc)
		return rc;
	if (engine->is_started)
		return ts_fail(TS_ESTATE, "tier %s: tiers are added before the engine is started",
			       known.name ? known.name : "");
	if (engine->nr_tiers == TS_TIER_MAX)
		return ts_fail(TS_ELIMIT, "tier %s: at most %d tiers", known.name ? known.name : "",
			       TS_TIER_MAX);
	struct ts_tier *tier = &engine->tiers[engine->nr_tiers];
	rc = open_tier(engine, tier, &known);
	if (rc)
		return rc;
	engine->frame_raw_max = TS_MAX(engine->frame_raw_max, tier->range_pages * TS_PAGE_BYTES);
	uint32_t buf_bytes = (tier->frame_max_bytes + 3 * TS_PAGE_BYTES - 1) & ~(uint32_t)
			     (TS_PAGE_BYTES - 1);
	/* A block more: the frame may begin in the last one of the stretch. */
	buf_bytes = TS_MAX(buf_bytes, (uint32_t)(TS_MATES_AROUND_BYTES + TS_PAGE_BYTES));
	engine->frame_buf_bytes = TS_MAX(engine->frame_buf_bytes, buf_bytes);
	/* 12 bits of age must reach well beyond the longest demote_after. */
	engine->tick_ms = TS_MAX(engine->tick_ms, tier->demote_after_ms / 1024);
	return (int)engine->nr_tiers++;
}

static unsigned evict_threads(const struct ts_engine_options *options)
{
	long nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (options->nr_evict_threads)
		return options->nr_evict_threads;
	return (unsigned)TS_MAX(1, TS_MIN(nr_cpus, (long)EVICT_THREADS_AUTO_MAX));
}

static void stop(struct ts_engine *engine)
{
	ts_evict_pool_destroy(engine->evict);
	ts_fault_server_destroy(engine->faults);
	ts_tool_destroy(engine->tool);
	ts_callers_destroy(engine->callers);
	ts_keeper_destroy(engine->keeper);
	engine->evict = NULL;
	engine->faults = NULL;
	engine->tool = NULL;
	engine->callers = NULL;
	engine->keeper = NULL;
	if (engine->staging.uffd >= 0)
		ts_staging_finish(&engine->staging);
	if (!engine->state)
		ts_frames_finish(&engine->frames);
	engine->is_started = false;
}

static int start(struct ts_engine *engine)
{
	uint64_t staging_bytes = engine->options.staging_bytes;

	if (!staging_bytes)
		staging_bytes = (uint64_t)STAGING_DEFAULT_MIB << 20;
	int rc = engine->state ? ts_state_check_tiers(engine) :
		 ts_frames_init(&engine->frames, (uint32_t)TS_FRAME_ID_MAX + 1, NULL);
	if (!rc)
		rc = ts_staging_init(&engine->staging, staging_bytes);
	if (!rc)
		rc = ts_fault_server_create(engine, &engine->faults);
	if (!rc)
		rc = ts_evict_pool_create(engine, evict_threads(&engine->options), &engine->evict);
	if (!rc)
		rc = ts_tool_create(engine, &engine->tool);
	if (!rc)
		rc = ts_callers_create(engine, &engine->callers);
	if (!rc)
		rc = ts_keeper_create(engine, &engine->keeper);
	return rc;
}

int ts_engine_start(struct ts_engine *engine)
{
	TS_SCOPED_LOCK(&engine->control);
	if (engine->is_started)
		return ts_fail(TS_ESTATE, "the engine is started already");
	if (!engine->nr_tiers)
		return ts_fail(TS_ESTATE, "the engine has no tier: add one before it is started");
	int rc = start(engine);
	if (rc) {
		if (!ts_last_error()[0])
			ts_fail(rc, "engine: %s", ts_strerror(rc));
		stop(engine);
		return rc;
	}
	engine->is_started = true;
	return 0;
}

static void free_stages(struct ts_engine *engine)
{
	struct ts_stages *stages = atomic_load(&engine->stages);

	while (stages) {
		struct ts_stages *next = stages->next;
		free(stages);
		stages = next;
	}
}

void ts_engine_close(struct ts_engine *engine)
{
	if (!engine)
		return;
	(void)ts_cycle_stop(engine);
	for (unsigned r = 0; r < TS_REGION_MAX; r++)
		if (engine->regions[r] && engine->regions[r]->is_remote &&
		    engine->regions[r]->state.base) {
			ts_adopt_leave(engine->regions[r]);
		} else if (engine->regions[r]) {
			int rc = ts_region_detach(engine->regions[r]);
			if (rc)
				ts_log(engine, TS_LOG_ERROR, "close: detach: %s", ts_last_error());
		}
	stop(engine);
	for (unsigned t = 0; t < engine->nr_tiers; t++)
		ts_tier_close(&engine->tiers[t]);
	ts_images_free(engine);
	ts_state_close(engine);
	ts_dict_table_destroy(engine->dicts);
	ts_fills_finish(&engine->fills);
	free_stages(engine);
	pthread_mutex_destroy(&engine->control);
	pthread_mutex_destroy(&engine->regions_lock);
	free(engine);
}
