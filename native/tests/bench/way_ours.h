/* SPDX-License-Identifier: Apache-2.0
 *
 * way_ours.h — tierstore with one tier: pages leave by ts_region_evict(), and come back by
 * faults. */
#ifndef TS_TESTS_WAY_OURS_H
#define TS_TESTS_WAY_OURS_H

#include <tierstore/tierstore.h>

#include "way.h"

static struct {
	struct memory *memory;
	struct ts_engine *engine;
	struct ts_region *region;
	uint64_t resident_engine_bytes;  /* before anything left */
	uint64_t other_rss_bytes;        /* of the program, neither guest's nor engine's */
} ours;

static inline void ours_log(void *user, int level, const char *text)
{
	(void)user;
	if (level <= TS_LOG_WARNING)
		fprintf(stderr, "log[%d]: %s\n", level, text);
}

/* fault_cpus=MASK makes the placement fixed. */
static struct ts_engine *ours_engine(const struct measure_args *args)
{
	struct ts_engine_options options = {
		.size = sizeof(options), .log = ours_log,
		.nr_fault_threads = (uint32_t)arg_number(args, "fault_threads", 0),
		.nr_evict_threads = (uint32_t)arg_number(args, "evict_threads", 0),
		.fault_cpus = arg_number(args, "fault_cpus", 0),
		.spin_us = (uint32_t)arg_number(args, "spin_us", 0),
	};
	struct ts_engine *engine;

	if (options.fault_cpus)
		options.placement = TS_PLACEMENT_FIXED;
	CHECK_EQ(ts_engine_open(&options, &engine), 0);
	return engine;
}

static void ours_add_tier(struct ts_engine *engine, const struct measure_args *args,
			  uint64_t guest_bytes)
{
	struct ts_tier_options tier = {
		.size = sizeof(tier), .name = "tier",
		.store = arg_text(args, "store", "ram"), .path = arg_text(args, "path", NULL),
		.size_bytes = guest_bytes * 2 + (64 << 20),
		.codec = arg_is(args, "codec", "zstd")  ? TS_CODEC_ZSTD :
			 arg_is(args, "codec", "raw")   ? TS_CODEC_RAW : TS_CODEC_LZ4,
		.range_bytes = (uint32_t)arg_number(args, "range", MEASURE_PAGE),
		.level = (int32_t)arg_number(args, "level", 0),
	};
	int rc = ts_engine_add_tier(engine, &tier);

	if (rc)
		fprintf(stderr, "tier: %s\n", ts_last_error());
	CHECK_EQ(rc, 0);
}

static struct ts_region *ours_attach(struct ts_engine *engine, const struct measure_args *args,
				     const struct memory *memory)
{
	struct ts_region_options options = {
		.size = sizeof(options), .addr = memory->mem, .len_bytes = memory_bytes(memory),
		.memfd = memory->memfd,
		.memory = memory->memfd >= 0 ? TS_MEMORY_MEMFD : TS_MEMORY_ANON,
		.serve = arg_is(args, "serve", "in-thread") ? TS_SERVE_IN_THREAD : TS_SERVE_MESSAGE,
		.restore = arg_is(args, "restore", "range") ? TS_RESTORE_RANGE :
			   arg_is(args, "restore", "page")  ? TS_RESTORE_PAGE : TS_RESTORE_AUTO,
	};
	struct ts_region *region;
	int rc = ts_region_attach(engine, &options, &region);

	if (rc)
		fprintf(stderr, "attach: %s\n", ts_last_error());
	CHECK_EQ(rc, 0);
	return region;
}

static struct ts_stats *ours_stats(struct ts_engine *engine)
{
	static struct ts_stats stats;

	stats.size = sizeof(stats);
	CHECK_EQ(ts_stats_get(engine, NULL, &stats), 0);
	return &stats;
}

static void ours_open(const struct measure_args *args, struct memory *memory)
{
	ours.memory = memory;
	ours.other_rss_bytes = rss_anon_bytes() -
			       (memory->memfd >= 0 ? 0 : memory_bytes(memory));
	ours.engine = ours_engine(args);
	ours_add_tier(ours.engine, args, memory_bytes(memory));
	CHECK_EQ(ts_engine_start(ours.engine), 0);
	ours.region = ours_attach(ours.engine, args, memory);
	ours.resident_engine_bytes = ours_stats(ours.engine)->engine_bytes;
}

static void ours_leave(void)
{
	struct ts_evict_options options = { .size = sizeof(options), .no_probation = true,
					    .bytes_max = memory_bytes(ours.memory) };
	struct ts_evict_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_evict(ours.region, &options, &result), 0);
	CHECK_EQ(result.nr_evicted, ours.memory->nr_pages);
}

static void ours_settle(void)
{
}

static void ours_report(void)
{
	const struct ts_stats *stats = ours_stats(ours.engine);
	const struct ts_tier_stats *tier = &stats->tiers[0];

	CHECK_EQ(stats->nr_resident, 0);
	json_number("stored_bytes", (double)tier->used_bytes);
	json_number("frame_bytes", (double)tier->stored_bytes);
	json_number("engine_bytes", (double)stats->engine_bytes);
	json_number("resident_engine_bytes", (double)ours.resident_engine_bytes);
	json_number("buffer_bytes", (double)stats->buffer_bytes);
	json_number("index_bytes", (double)tier->index_bytes);
	json_number("memory_bytes", (double)tier->memory_bytes);
	/* All that the engine has in RAM now, frames included, by the kernel's count. */
	json_number("rss_bytes", (double)rss_anon_bytes() - (double)ours.other_rss_bytes);
}

static void ours_close(void)
{
	static const char *const names[] = { "fault", "get", "decode", "install", "rest",
					     "take", "encode", "put", "release", "window" };
	const struct ts_stats *stats = ours_stats(ours.engine);
	char name[32];

	for (unsigned i = 0; i < TS_STAGE_COUNT; i++) {
		snprintf(name, sizeof(name), "stage_%s_ns", names[i]);
		json_number(name, (double)stats->stages[i].sum_ns);
	}
	json_number("faults", (double)stats->nr_faults);
	json_number("restored", (double)stats->nr_restored);
	ts_engine_close(ours.engine);
}

static const struct way way_ours = { ours_open, ours_leave, ours_settle, ours_report, ours_close };

#endif
