/* SPDX-License-Identifier: Apache-2.0
 * tier.c — one configured, opened store: its settings, its health, its counts (engine.h). */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "core/engine.h"
#include "util/hook.h"

enum {
	/* Errors in a row after which a tier admits nothing more. */
	PUT_ERRORS_MAX = 3,
	/* A failed tier is tried again with one batch after this long: a remote store may be
	 * back. */
	RETRY_AFTER_S = 30,
};

static int check_options(const struct ts_engine *engine, const struct ts_tier_options *options)
{
	uint32_t range = options->range_bytes ? options->range_bytes : TS_PAGE_BYTES;

	if (!options->name || !options->name[0] || strlen(options->name) > 31)
		return ts_fail(TS_ECONFIG, "tier: needs a name of 1 to 31 characters");
	for (unsigned t = 0; t < engine->nr_tiers; t++)
		if (!strcmp(engine->tiers[t].name, options->name))
			return ts_fail(TS_ECONFIG, "tier %s: the name is taken; names are unique",
				       options->name);
	if (!options->size_bytes)
		return ts_fail(TS_ECONFIG, "tier %s: needs a size", options->name);
	if (range < TS_PAGE_BYTES || range > TS_FRAME_RAW_MAX || (range & (range - 1)))
		return ts_fail(TS_ECONFIG,
			       "tier %s: range %u: a power of two from 4 KiB to 256 KiB",
			       options->name, range);
	if (options->codec > TS_CODEC_ZSTD)
		return ts_fail(TS_ECONFIG, "tier %s: codec %u: raw (0), lz4 (1) or zstd (2)",
			       options->name, options->codec);
	if (options->codec == TS_CODEC_ZSTD && (options->level < -50 || options->level > 19))
		return ts_fail(TS_ECONFIG, "tier %s: zstd level %d: -50 to 19", options->name,
			       options->level);
	if (options->codec == TS_CODEC_LZ4 && (options->level < 0 || options->level > 64))
		return ts_fail(TS_ECONFIG, "tier %s: lz4 acceleration %d: 1 to 64", options->name,
			       options->level);
	if (options->demote_above_pct > 100 || options->admit_ratio_pct > 100)
		return ts_fail(TS_ECONFIG, "tier %s: percentages go up to 100", options->name);
	return 0;
}

/* A zstd tier also has to take its dictionaries. */
static uint32_t frame_max_bytes(const struct ts_tier_options *options)
{
	uint32_t raw_max = options->range_bytes ? options->range_bytes : TS_PAGE_BYTES;

	if (options->codec == TS_CODEC_ZSTD)
		raw_max = TS_MAX(raw_max, (uint32_t)TS_DICT_BYTES_MAX);
	return raw_max + TS_FRAME_HEAD_BYTES;
}

/* Frames that a store kept (keep=1) belong to a guest that is gone, under keys that the engine is
 * about to use; and nobody would ever delete the rest of them. */
static int check_empty(struct ts_tier *tier)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };

	if (ts_store_stat_get(tier->store, &stat) || !stat.nr_frames)
		return 0;
	ts_tier_close(tier);
	return ts_fail(TS_ESTATE, "tier %s: its store holds %llu frames that an earlier run kept; "
		       "open it without keep=1, or with init=1, to drop them", tier->name,
		       (unsigned long long)stat.nr_frames);
}

/* By measurement (bench/README.md, "Density"): zstd at 3 takes a third longer than at 1 and stores
 * 5 % less; beyond, 1 % costs 10 % and soon more. */
static int32_t level_default(uint32_t codec)
{
	return codec == TS_CODEC_ZSTD ? 3 : 1;
}

/* Allowed, for it is taken as it is needed; but the host would end before it is full. */
static void warn_of_size(struct ts_engine *engine, const struct ts_tier *tier)
{
	long nr_pages = sysconf(_SC_PHYS_PAGES);
	uint64_t host_bytes = nr_pages > 0 ? (uint64_t)nr_pages * TS_PAGE_BYTES : UINT64_MAX;

	if (!strcmp(tier->store_name, "ram") && tier->size_bytes > host_bytes)
		ts_log(engine, TS_LOG_WARNING,
		       "tier %s: %" PRIu64 " MiB of RAM, and this host has %" PRIu64
		       "; give it less, and a tier of the store file below it",
		       tier->name, tier->size_bytes >> 20, host_bytes >> 20);
}

int ts_tier_open(struct ts_engine *engine, struct ts_tier *tier,
		 const struct ts_tier_options *options, const struct ts_tier_state *state)
{
	int rc = check_options(engine, options);
	if (rc)
		return rc;
	uint32_t range = options->range_bytes ? options->range_bytes : TS_PAGE_BYTES;
	struct ts_store_config config = {
		.size = sizeof(config),
		.name = options->name,
		.path = options->path,
		.size_bytes = options->size_bytes,
		.frame_max_bytes = frame_max_bytes(options),
		.key_max = TS_KEY_MAX,
		.batch_max = TS_STORE_BATCH_MAX,
		.reader_max = TS_READER_MAX,
		.depth_max = TS_FAULT_DEPTH_MAX,
		.options = options->store_options ? options->store_options : "",
		.user = options->store_user,
		.state_path = state ? state->path : NULL,
		.is_resume = state && state->is_resume,
	};
	if (state)
		config.frame_max_bytes = TS_MAX(config.frame_max_bytes, state->frame_max_bytes);
	/* Counted when the state was taken over. */
	uint64_t nr_frames = atomic_load(&tier->nr_frames);
	uint64_t raw_bytes = atomic_load(&tier->raw_bytes);
	*tier = (struct ts_tier){
		.nr_frames = nr_frames,
		.raw_bytes = raw_bytes,
		.index = engine->nr_tiers,
		.size_bytes = options->size_bytes,
		.codec = options->codec,
		.level = options->level ? options->level : level_default(options->codec),
		.range_pages = range / TS_PAGE_BYTES,
		.frame_max_bytes = config.frame_max_bytes,
		.demote_after_ms = options->demote_after_ms,
		.demote_above_pct = options->demote_above_pct ? options->demote_above_pct : 90,
		.admit_ratio_pct = options->admit_ratio_pct ? options->admit_ratio_pct : 100,
		.is_keeping = !options->no_keep,
	};
	snprintf(tier->name, sizeof(tier->name), "%s", options->name);
	snprintf(tier->store_name, sizeof(tier->store_name), "%s",
		 options->store ? options->store : "");
	int opened = ts_store_open(options->store, options->store_ops,
				    options->wrap ? options->wrap : "", &config, &tier->store);
	if (!opened && !config.is_resume)
		opened = check_empty(tier);
	if (!opened)
		warn_of_size(engine, tier);
	return opened;
}

void ts_tier_close(struct ts_tier *tier)
{
	if (tier->store)
		ts_store_close(tier->store);
	tier->store = NULL;
}

bool ts_tier_admits(const struct ts_tier *tier)
{
	if (atomic_load_explicit(&tier->is_full, memory_order_relaxed))
		return false;
	if (!atomic_load_explicit(&tier->is_failed, memory_order_relaxed))
		return true;
	ts_mono_ns failed_at_ns = atomic_load_explicit(&tier->failed_at_ns, memory_order_relaxed);
	return ts_now_ns() - failed_at_ns >
	       TS_KNOB(TS_KNOB_TIER_RETRY_MS, RETRY_AFTER_S * 1000) * 1000000u;
}

void ts_tier_note_put(struct ts_engine *engine, struct ts_tier *tier, int status)
{
	if (status == 0) {
		atomic_store(&tier->nr_put_errors, 0);
		if (atomic_exchange(&tier->is_failed, false))
			ts_log(engine, TS_LOG_INFO, "tier %s: works again, admits frames",
			       tier->name);
		return;
	}
	/* Fullness is the store's daily business, not a fault: the ladder has a next rung. */
	if (status == TS_EFULL) {
		atomic_store(&tier->is_full, true);
		return;
	}
	atomic_store(&tier->failed_at_ns, ts_now_ns());
	if (atomic_fetch_add(&tier->nr_put_errors, 1) + 1 < PUT_ERRORS_MAX)
		return;
	if (!atomic_exchange(&tier->is_failed, true))
		ts_log(engine, TS_LOG_ERROR,
		       "tier %s: %s: admits nothing more, goes on serving what it holds; is tried "
		       "again every %d s", tier->name, ts_strerror(status), RETRY_AFTER_S);
}

struct ts_codec_setting ts_tier_setting(struct ts_tier *tier)
{
	return (struct ts_codec_setting){
		.codec = tier->codec,
		.level = tier->level,
		.dict_id = atomic_load_explicit(&tier->dict_id, memory_order_acquire),
	};
}

void ts_tier_count_frame(struct ts_tier *tier, int sign, unsigned nr_pages)
{
	uint64_t raw_bytes = (uint64_t)nr_pages << TS_PAGE_SHIFT;

	if (sign > 0) {
		atomic_fetch_add(&tier->nr_frames, 1);
		atomic_fetch_add(&tier->raw_bytes, raw_bytes);
	} else {
		atomic_fetch_sub(&tier->nr_frames, 1);
		atomic_fetch_sub(&tier->raw_bytes, raw_bytes);
	}
}
