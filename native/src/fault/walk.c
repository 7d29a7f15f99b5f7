/* SPDX-License-Identifier: Apache-2.0
 *
 * walk.c — seeing walks, and fetching ahead of them (walk.h).
 *
 * A place is a mailbox of one letter.  It names the region by its id, not by address: the region
 * may be gone by the time the letter is read, and whoever reads it enters the region first.  A read
 * that is still under way when the region is left again is a busy slot of that thread, which detach
 * waits for like for any other (fault/server.c:holds_region).
 */
#include "fault/walk.h"

#include <unistd.h>

enum { RANGE_SHIFT = 4 };  /* pages of 64 KiB */

/* Stored plus one, so that a zeroed slot names no range. */
static uint32_t name_of(uint32_t page)
{
	return (page >> RANGE_SHIFT) + 1;
}

static void remember(struct ts_shard *shard, uint32_t name)
{
	for (unsigned i = 0; i < TS_ARRAY_LEN(shard->recent_ranges); i++)
		if (atomic_load_explicit(&shard->recent_ranges[i], memory_order_relaxed) == name)
			return;
	uint32_t hand = atomic_fetch_add_explicit(&shard->recent_hand, 1, memory_order_relaxed);
	atomic_store_explicit(&shard->recent_ranges[hand % TS_ARRAY_LEN(shard->recent_ranges)],
			      name, memory_order_relaxed);
}

static bool is_near(const struct ts_shard *shard, uint32_t name)
{
	bool found = false;

	for (unsigned i = 0; i < TS_ARRAY_LEN(shard->recent_ranges); i++) {
		uint32_t recent = atomic_load_explicit(&shard->recent_ranges[i],
						       memory_order_relaxed);
		found |= recent && recent + 1 >= name && recent <= name + 1;
	}
	return found;
}

/* ---- Ahead ------------------------------------------------------------------------------ */

/* From the last: the first threads are those that wait for faults. */
static bool post(struct ts_ahead *ahead, uint64_t letter)
{
	uint64_t one = 1;

	for (unsigned i = ahead->nr_threads; i-- > 0;) {
		struct ts_ahead_place *place = &ahead->places[i];
		uint64_t none = 0;
		if (!atomic_load_explicit(&place->is_idle, memory_order_relaxed) ||
		    !atomic_compare_exchange_strong(&place->wanted, &none, letter))
			continue;
		/* The counter can't overflow: it is read every round. */
		(void)!write(place->kick_fd, &one, sizeof(one));
		return true;
	}
	return false;
}

static bool is_wanted(ts_word word)
{
	return ts_word_is(word, TS_AWAY) && !(word & TS_WORD_RELEASING);
}

/* The end of the range that a frame of this tier holds pages of. */
static uint32_t range_end(const struct ts_engine *engine, unsigned tier, uint32_t page)
{
	uint32_t range_pages = engine->tiers[tier].range_pages;

	return (page / range_pages + 1) * range_pages;
}

/* Somebody else, if there is anybody idle, shall fetch what comes after the range. */
static void ask_ahead(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t next,
		      unsigned tier)
{
	struct ts_region *region = shard->region;
	uint32_t end = TS_MIN(next + TS_WALK_AHEAD_PAGES, region->nr_pages);

	while (next < end && !is_wanted(ts_word_load(&region->words[next])))
		next++;
	if (next < end && ctx->ahead && post(ctx->ahead, (uint64_t)region->id << 32 | next))
		remember(shard, name_of(TS_MAX(range_end(ctx->engine, tier, next),
					       next + TS_WALK_AHEAD_PAGES) - 1));
}

void ts_walk_note(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_shard *shard = slot->shard;
	enum ts_restore restore = shard->region->restore;

	if ((slot->flags & TS_SERVE_PREFETCH) || restore == TS_RESTORE_PAGE)
		return;
	bool is_walk = is_near(shard, name_of(slot->page));
	uint32_t next = range_end(ctx->engine, slot->tier, slot->page);
	remember(shard, name_of(slot->page));
	if (!is_walk && restore != TS_RESTORE_RANGE)
		return;
	slot->flags |= TS_SERVE_WHOLE;
	remember(shard, name_of(next - 1));
	if (is_walk)
		ask_ahead(ctx, shard, next, slot->tier);
}

/* Brings one frame back.  Returns its range's end, for one that is read in the background must not
 * be asked for again; 0 if it can't be had now. */
static uint32_t fetch_one(struct ts_serve_ctx *ctx, struct ts_region *region, uint32_t page,
			  ts_word word)
{
	uint32_t entry = ts_frames_load(&ctx->engine->frames, ts_word_payload(word));
	enum ts_serve_outcome outcome =
		ts_serve_page(ctx, ts_region_shard(region, page), page,
			      TS_SERVE_PREFETCH | TS_SERVE_WHOLE, ts_now_ns());

	return outcome == TS_SERVE_LATER ? 0 :
	       range_end(ctx->engine, ts_frame_tier(entry), page);
}

void ts_ahead_serve(struct ts_ahead_place *place, struct ts_serve_ctx *ctx)
{
	uint64_t letter = atomic_exchange(&place->wanted, 0);

	if (TS_LIKELY(!letter))
		return;
	struct ts_region *region = ts_engine_enter_region(ctx->engine, (uint32_t)(letter >> 32));
	if (!region)
		return;
	uint32_t page = (uint32_t)letter;
	uint32_t end = TS_MIN(page + TS_WALK_AHEAD_PAGES, region->nr_pages);

	while (page && page < end) {
		ts_word word = ts_word_load(&region->words[page]);
		page = is_wanted(word) ? fetch_one(ctx, region, page, word) : page + 1;
	}
	ts_region_leave(region);
}
