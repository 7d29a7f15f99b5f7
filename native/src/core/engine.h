/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h — what the ways out (evict/) and back (fault/) share: tiers, frames, regions, counters.
 *
 * Locks, in order; a later one may be taken while an earlier one is held, never the other way:
 *   engine.control    control plane: start, attach, detach, tiers, the tool context
 *   evict pool lock   jobs and batches on probation (evict/pool.h)
 *   shard.gate        one ioctl (page/gate.h)
 *   frames.lock, fills.lock, staging.lock   tables (innermost)
 * The fault path takes shard.gate alone.
 */
#ifndef TS_CORE_ENGINE_H
#define TS_CORE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include <tierstore/store.h>
#include <tierstore/tierstore.h>

#include "codec/codec.h"
#include "codec/dict_gain.h"
#include "memory/memory.h"
#include "memory/staging.h"
#include "page/fills.h"
#include "page/frames.h"
#include "page/region.h"

struct ts_fault_server;
struct ts_evict_pool;
struct ts_keeper;
struct ts_cycle;
struct ts_tool;
struct ts_callers;
struct ts_statedir;
struct ts_image;

/* For a tier of an engine whose frames outlive it. */
struct ts_tier_state {
	const char *path;             /* as in ts_store_config */
	bool is_resume;
	uint32_t range_pages, frame_max_bytes; /* of frames that may lie there already */
};

struct ts_tier {
	unsigned index;
	char name[32], store_name[32];
	struct ts_store *store;
	uint64_t size_bytes;
	uint32_t codec;
	int32_t level;
	_Atomic uint32_t dict_id;
	struct ts_dict_gain gain;     /* judges the dictionary in use */
	uint32_t range_pages;
	uint32_t frame_max_bytes;
	uint32_t demote_after_ms;
	uint32_t demote_above_pct, admit_ratio_pct;
	bool is_keeping;              /* copies of pages that were read back */
	atomic_bool is_failed;        /* admits nothing; until a put works again (tier.c) */
	atomic_bool is_full;
	_Atomic uint32_t nr_put_errors; /* in a row */
	_Atomic uint64_t failed_at_ns;
	_Atomic uint64_t raw_bytes, nr_frames;
	_Atomic uint64_t nr_faults, nr_admitted, nr_demoted_in, nr_demoted_out;
};

/* Histograms of one thread, its only writer. */
struct ts_stages {
	struct ts_hist hist[TS_STAGE_COUNT];
	atomic_bool is_free;          /* the next writer goes on where the last ended */
	struct ts_stages *next;       /* in the engine's list; never removed while it runs */
};

struct ts_engine {
	struct ts_engine_options options;
	struct ts_probe probe;
	ts_mono_ns start_ns;
	bool is_started;
	pthread_mutex_t control;      /* see above */

	struct ts_tier tiers[TS_TIER_MAX];
	unsigned nr_tiers;
	uint32_t frame_raw_max;       /* largest range of any tier, bytes */
	uint32_t frame_buf_bytes;     /* what a read of any tier's frame may need, whole pages */
	struct ts_dict_table *dicts;
	struct ts_frames frames;
	struct ts_fills fills;
	struct ts_statedir *state;       /* what outlives us (engine/state.h); NULL: nothing */
	struct ts_image *images;      /* a list (engine/image.h); guarded by control */
	struct ts_staging staging;
	uint64_t secret;
	uint32_t tick_ms;             /* unit of frame ages */
	ts_mono_ns tick_start_ns;     /* what they count from */
	_Atomic uint32_t tick;        /* keeper's clock */

	pthread_mutex_t
		regions_lock; /* Guards regions[].  Innermost; held to enter one, no longer. */
	struct ts_region *regions[TS_REGION_MAX];
	uint32_t nr_regions;
	uint32_t next_region_id;

	struct ts_fault_server *faults;
	struct ts_evict_pool *evict;
	struct ts_keeper *keeper;
	struct ts_cycle *cycle;
	struct ts_tool *tool;         /* prefetch, detach: one at a time, under control */
	struct ts_callers *callers;   /* ts_region_serve() */
	_Atomic(struct ts_stages *) stages;
	_Atomic uint64_t buffer_bytes;
	/* Totals of regions that are detached. */
	struct ts_region_counters past;
};

/* A line for the log, if there is one.  Control threads only. */
void ts_log(struct ts_engine *engine, int level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A histogram set for the calling thread; lives as long as the engine.  NULL: no memory. */
struct ts_stages *ts_stages_create(struct ts_engine *engine);
/* Lets another thread have it; what was counted stays.  NULL is accepted. */
void ts_stages_release(struct ts_stages *stages);

/* The region in this slot, entered; NULL if there is none, or it is draining. */
struct ts_region *ts_engine_enter_slot(struct ts_engine *engine, unsigned slot);
/* The region with this id, entered (ts_region_leave() when done); NULL if gone or draining. */
struct ts_region *ts_engine_enter_region(struct ts_engine *engine, uint32_t region_id);

/* ---- tier.c ----------------------------------------------------------------------------- */

/* state: NULL if nothing outlives the engine. */
int ts_tier_open(struct ts_engine *engine, struct ts_tier *tier,
		 const struct ts_tier_options *options, const struct ts_tier_state *state);
void ts_tier_close(struct ts_tier *tier);

/* Does the tier take frames now? */
bool ts_tier_admits(const struct ts_tier *tier);
/* What a put's item status means for the tier: counts failures, marks it full or failed, or
 * well. */
void ts_tier_note_put(struct ts_engine *engine, struct ts_tier *tier, int status);
/* The codec setting for the next frame. */
struct ts_codec_setting ts_tier_setting(struct ts_tier *tier);
/* A frame made of nr_pages was stored (sign > 0) or deleted. */
void ts_tier_count_frame(struct ts_tier *tier, int sign, unsigned nr_pages);

#endif
