/* SPDX-License-Identifier: Apache-2.0
 *
 * keeper.c — the thread that keeps house (keeper.h).
 *
 * Each round is bounded: so many dead frames, so many demotions, so many maintenance steps of each
 * store. While there is more to do it goes on at once, else it sleeps for ROUND_MS.
 */
#include "engine/keeper.h"

#include <errno.h>
#include <string.h>

#include "engine/share.h"
#include "evict/demote.h"
#include "util/thread.h"

enum {
	ROUND_MS = 50,
	DEAD_BATCHES = 16,      /* of TS_STORE_BATCH_MAX frames, a round */
	DEMOTE_FRAMES = 256,    /* a tier and round */
	MAINTAIN_STEPS = 8,     /* a tier and round */
	KEPT_PAGES = 4096,      /* kept copies dropped a tier and round */
	/* Demotion by fill goes this far below the mark, so that it works in batches. */
	DEMOTE_SLACK_PCT = 3,
	/* A full tier admits again when it is at most this full. */
	FULL_UNTIL_PCT = 98,
};

struct ts_keeper {
	struct ts_engine *engine;
	pthread_t thread;
	atomic_bool is_stopping;
	pthread_mutex_t lock;       /* for wake alone */
	pthread_cond_t wake;
	struct ts_demoter demoter;
	uint64_t nr_poisoned;       /* reported so far */
	uint64_t aged_tick[TS_TIER_MAX];
};

/* ---- Dead frames ------------------------------------------------------------------------ */

static void delete_frames(struct ts_engine *engine, const struct ts_dead_frame *dead,
			  unsigned nr_dead)
{
	for (unsigned t = 0; t < engine->nr_tiers; t++) {
		struct ts_tier *tier = &engine->tiers[t];
		uint64_t keys[TS_STORE_BATCH_MAX];
		unsigned nr_keys = 0;
		for (unsigned i = 0; i < nr_dead; i++)
			if (ts_frame_tier(dead[i].entry) == t)
				keys[nr_keys++] = dead[i].id;
		if (!nr_keys)
			continue;
		/* A store that can't delete keeps garbage under a key that the next frame of that
		 * id replaces: a loss of room, not of data. */
		int rc = ts_store_del(tier->store, keys, nr_keys);
		if (rc < 0)
			ts_log(engine, TS_LOG_WARNING, "tier %s: delete: %s", tier->name,
			       ts_strerror(rc));
		for (unsigned i = 0; i < nr_dead; i++)
			if (ts_frame_tier(dead[i].entry) == t)
				ts_tier_count_frame(tier, -1, ts_frame_nr_pages(dead[i].entry));
	}
	for (unsigned i = 0; i < nr_dead; i++)
		ts_frames_free(&engine->frames, &dead[i]);
}

static bool bury(struct ts_engine *engine, unsigned nr_batches)
{
	struct ts_dead_frame dead[TS_STORE_BATCH_MAX];

	for (unsigned n = 0; n < nr_batches; n++) {
		unsigned nr_dead = ts_frames_take_dead(&engine->frames, dead, TS_STORE_BATCH_MAX);
		if (!nr_dead)
			return false;
		delete_frames(engine, dead, nr_dead);
	}
	return true;
}

/* ---- The ladder ------------------------------------------------------------------------- */

static bool demote_by_fill(struct ts_keeper *keeper, struct ts_tier *tier, uint64_t used_bytes)
{
	struct ts_engine *engine = keeper->engine;
	uint64_t mark = tier->size_bytes / 100 * tier->demote_above_pct;
	uint64_t nr_frames = atomic_load(&tier->nr_frames);

	if (used_bytes <= mark || !nr_frames)
		return false;
	uint64_t excess = used_bytes - mark + tier->size_bytes / 100 * DEMOTE_SLACK_PCT;
	uint64_t frame_bytes = TS_MAX(used_bytes / nr_frames, 1);
	uint64_t nr_wanted = TS_MIN(excess / frame_bytes + 1, (uint64_t)DEMOTE_FRAMES);
	if (ts_demote_drop_kept(&keeper->demoter, tier->index, KEPT_PAGES))
		return true;  /* their frames die first; look again */
	/* Of regions above their shares, however young: who holds little keeps it here. */
	struct ts_demote_choice choice = { tier->index, ts_share_over(engine, tier, mark) };
	unsigned age = ts_demote_oldest(engine, &choice, nr_wanted);
	return ts_demote_frames(&keeper->demoter, &choice, age, (unsigned)nr_wanted) > 0;
}

static bool demote_by_age(struct ts_keeper *keeper, struct ts_tier *tier)
{
	uint64_t tick = atomic_load(&keeper->engine->tick);

	/* Ages change with the tick; between two a sweep that found nothing finds nothing again. */
	if (!tier->demote_after_ms || keeper->aged_tick[tier->index] == tick)
		return false;
	unsigned age = tier->demote_after_ms / keeper->engine->tick_ms;
	struct ts_demote_choice choice = { tier->index, TS_SHARE_ALL };
	bool is_busy = ts_demote_frames(&keeper->demoter, &choice, TS_MAX(age, 1u),
					DEMOTE_FRAMES) > 0;
	if (!is_busy)
		keeper->aged_tick[tier->index] = tick;
	return is_busy;
}

static bool keep_tier(struct ts_keeper *keeper, struct ts_tier *tier)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };
	bool is_busy = false;

	for (unsigned i = 0; i < MAINTAIN_STEPS; i++) {
		int rc = ts_store_maintain(tier->store);
		is_busy = rc > 0;
		if (rc <= 0)
			break;
	}
	if (ts_store_stat_get(tier->store, &stat))
		return is_busy;
	is_busy |= demote_by_fill(keeper, tier, stat.used_bytes);
	is_busy |= demote_by_age(keeper, tier);
	if (stat.used_bytes <= tier->size_bytes / 100 * FULL_UNTIL_PCT)
		atomic_store(&tier->is_full, false);
	return is_busy;
}

/* The fault path does not log; what it counted is reported from here. */
static void report(struct ts_keeper *keeper)
{
	struct ts_engine *engine = keeper->engine;
	uint64_t nr_poisoned = atomic_load(&engine->past.failures[TS_FAIL_POISONED]);

	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		struct ts_region *region = ts_engine_enter_slot(engine, r);
		if (!region)
			continue;
		nr_poisoned += atomic_load(&region->counters.failures[TS_FAIL_POISONED]);
		ts_region_leave(region);
	}
	if (nr_poisoned > keeper->nr_poisoned)
		ts_log(engine, TS_LOG_ERROR,
		       "%llu pages could not be read back unharmed and were poisoned: the guest "
		       "gets SIGBUS (a machine check under KVM) on touch; see failures in the "
		       "statistics",
		       (unsigned long long)(nr_poisoned - keeper->nr_poisoned));
	keeper->nr_poisoned = TS_MAX(nr_poisoned, keeper->nr_poisoned);
}

static bool round_of_work(struct ts_keeper *keeper)
{
	struct ts_engine *engine = keeper->engine;

	ts_mono_ns age_ns = ts_now_ns() - engine->tick_start_ns;
	atomic_store(&engine->tick, (uint32_t)(age_ns / 1000000u / engine->tick_ms));
	bool is_busy = bury(engine, DEAD_BATCHES);
	for (unsigned t = 0; t < engine->nr_tiers; t++)
		is_busy |= keep_tier(keeper, &engine->tiers[t]);
	report(keeper);
	return is_busy;
}

static void pause_until_next(struct ts_keeper *keeper)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ROUND_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	TS_SCOPED_LOCK(&keeper->lock);
	if (!atomic_load(&keeper->is_stopping))
		pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until);
}

static void *run(void *arg)
{
	struct ts_keeper *keeper = arg;

	while (!atomic_load(&keeper->is_stopping))
		if (!round_of_work(keeper))
			pause_until_next(keeper);
	while (bury(keeper->engine, DEAD_BATCHES))
		;
	report(keeper);  /* what was lost since the last round must not go unsaid */
	return NULL;
}

/* ---- Life ------------------------------------------------------------------------------- */

int ts_keeper_create(struct ts_engine *engine, struct ts_keeper **keeper_out)
{
	struct ts_keeper *keeper = calloc(1, sizeof(*keeper));

	if (!keeper)
		return -ENOMEM;
	keeper->engine = engine;
	int rc = ts_demoter_init(&keeper->demoter, engine);
	if (rc) {
		free(keeper);
		return rc;
	}
	pthread_mutex_init(&keeper->lock, NULL);
	ts_cond_init(&keeper->wake);
	rc = ts_thread_start(&keeper->thread, "ts-keeper", run, keeper);
	if (rc) {
		ts_demoter_finish(&keeper->demoter);
		free(keeper);
		return rc;
	}
	*keeper_out = keeper;
	return 0;
}

void ts_keeper_destroy(struct ts_keeper *keeper)
{
	if (!keeper)
		return;
	pthread_mutex_lock(&keeper->lock);
	atomic_store(&keeper->is_stopping, true);
	pthread_cond_signal(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
	pthread_join(keeper->thread, NULL);
	ts_demoter_finish(&keeper->demoter);
	pthread_cond_destroy(&keeper->wake);
	pthread_mutex_destroy(&keeper->lock);
	free(keeper);
}
