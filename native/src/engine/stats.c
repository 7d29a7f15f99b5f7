/* SPDX-License-Identifier: Apache-2.0
 * stats.c — one versioned snapshot of everything that is counted. */
#include <errno.h>
#include <string.h>

#include "core/engine.h"
#include "util/hist.h"
#include "util/sized.h"

static uint64_t load(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void count_word(struct ts_stats *stats, ts_word word)
{
	switch (ts_word_state(word)) {
	case TS_RESIDENT:
		stats->nr_resident++;
		stats->nr_kept += !!(word & TS_WORD_KEPT);
		break;
	case TS_LEAVING: stats->nr_leaving++; break;
	case TS_AWAY: stats->nr_away++; break;
	case TS_COMING: stats->nr_coming++; break;
	case TS_ZERO:
		if (ts_word_payload(word))
			stats->nr_filled++;
		else
			stats->nr_zero++;
		break;
	case TS_GONE: stats->nr_gone++; break;
	case TS_STATE_COUNT: break;
	}
}

static void add_counters(struct ts_stats *stats, struct ts_region_counters *counters)
{
	stats->nr_faults += load(&counters->nr_faults);
	stats->nr_faults_zero += load(&counters->nr_faults_zero);
	stats->nr_faults_staged += load(&counters->nr_faults_staged);
	stats->nr_faults_guard += load(&counters->nr_faults_guard);
	stats->nr_stale += load(&counters->nr_stale);
	stats->nr_refaults += load(&counters->nr_refaults);
	stats->nr_restored += load(&counters->nr_restored);
	stats->nr_prefetched += load(&counters->nr_prefetched);
	stats->nr_evicted += load(&counters->nr_evicted);
	stats->nr_reused += load(&counters->nr_reused);
	stats->nr_cancelled += load(&counters->nr_cancelled);
	stats->nr_removed += load(&counters->nr_removed);
	for (unsigned i = 0; i < TS_FAIL_COUNT; i++)
		stats->failures[i] += load(&counters->failures[i]);
}

static void add_region(struct ts_stats *stats, struct ts_region *region)
{
	struct ts_frames *frames = &region->engine->frames;

	for (unsigned t = 0; t < region->engine->nr_tiers; t++)
		stats->held_bytes[t] += ts_frames_held_bytes(frames, region->slot, t);
	stats->nr_regions++;
	for (uint32_t page = 0; page < region->nr_pages; page++)
		count_word(stats, atomic_load_explicit(&region->words[page], memory_order_relaxed));
	add_counters(stats, &region->counters);
	stats->engine_bytes += ts_region_pages_bytes(region);
}

static void fill_tier(struct ts_tier_stats *out, struct ts_engine *engine, struct ts_tier *tier)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };

	memcpy(out->name, tier->name, sizeof(out->name));
	memcpy(out->store, tier->store_name, sizeof(out->store));
	/* A store that can't say leaves zeros; the engine's own counts are still right. */
	(void)ts_store_stat_get(tier->store, &stat);
	out->capacity_bytes = tier->size_bytes;
	out->used_bytes = stat.used_bytes;
	out->memory_bytes = stat.memory_bytes;
	out->index_bytes = stat.index_bytes;
	out->stored_bytes = stat.frame_bytes;
	out->written_bytes = stat.written_bytes;
	out->device_bytes = stat.device_bytes;
	out->moved_bytes = stat.moved_bytes;
	out->discarded_bytes = stat.discarded_bytes;
	out->nr_errors = stat.nr_errors;
	out->nr_frames = load(&tier->nr_frames);
	out->nr_pages = load(&engine->frames.nr_pages[tier->index]);
	out->raw_bytes = load(&tier->raw_bytes);
	out->nr_faults = load(&tier->nr_faults);
	out->nr_admitted = load(&tier->nr_admitted);
	out->nr_demoted_in = load(&tier->nr_demoted_in);
	out->nr_demoted_out = load(&tier->nr_demoted_out);
	out->codec = tier->codec;
	out->level = tier->level;
	out->range_bytes = tier->range_pages * TS_PAGE_BYTES;
	if (!ts_dict_gain_is_off(&tier->gain))
		out->dict_id = atomic_load(&tier->dict_id);
	out->is_failed = atomic_load(&tier->is_failed);
	out->is_full = atomic_load(&tier->is_full);
}

static int fill(struct ts_engine *engine, struct ts_region *only, struct ts_stats *stats)
{
	stats->version = TS_STATS_VERSION;
	stats->page_bytes = TS_PAGE_BYTES;
	stats->uptime_ns = ts_now_ns() - engine->start_ns;
	for (unsigned r = 0; r < TS_REGION_MAX && !only; r++) {
		struct ts_region *region = ts_engine_enter_slot(engine, r);
		if (!region)
			continue;
		add_region(stats, region);
		ts_region_leave(region);
	}
	if (only) {
		if (!ts_region_enter(only))
			return ts_fail(TS_ESTATE, "%s: is being detached", only->name);
		add_region(stats, only);
		ts_region_leave(only);
	} else {
		add_counters(stats, &engine->past);
	}
	if (engine->is_started)
		stats->engine_bytes += ts_frames_bytes(&engine->frames);
	stats->buffer_bytes = load(&engine->buffer_bytes);
	stats->nr_tiers = engine->nr_tiers;
	for (unsigned t = 0; t < engine->nr_tiers; t++)
		fill_tier(&stats->tiers[t], engine, &engine->tiers[t]);
	for (struct ts_stages *stages = atomic_load(&engine->stages); stages; stages = stages->next)
		for (unsigned i = 0; i < TS_STAGE_COUNT; i++)
			ts_hist_merge(&stats->stages[i], &stages->hist[i]);
	return 0;
}

int ts_stats_get(struct ts_engine *engine, struct ts_region *region, struct ts_stats *stats)
{
	int rc = ts_sized_check(stats->size, "ts_stats");

	if (rc)
		return rc;
	struct ts_stats *full = calloc(1, sizeof(*full));
	if (!full)
		return ts_fail(-ENOMEM, "statistics: out of memory");
	rc = fill(engine, region, full);
	if (!rc)
		ts_sized_out(stats, full, sizeof(*full));
	free(full);
	return rc;
}
