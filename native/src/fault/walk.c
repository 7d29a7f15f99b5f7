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

enum {
	RANGE_SHIFT = 4,         /* pages of 64 KiB */
	/* Of a name in recent_ranges: its first fault got its page alone, and nothing was fetched
	 * ahead of it.  What the guest asks for next says whether that was right. */
	GOT_PAGE = 1 << 30,
	GOT_NO_AHEAD = 1 << 29,
	NAME_MASK = GOT_NO_AHEAD - 1,
	/* A guess is made from a score of SCORE_MIN on, and paid off at four of five. */
	SCORE_MIN = 8,
	SCORE_MAX = 16,
	MISS = 4,
	/* Every so many lone faults one is answered as if nothing were known, to see. */
	PROBE_EVERY = 16,
};

/* Stored plus one, so that a zeroed slot names no range. */
static uint32_t name_of(uint32_t page)
{
	return (page >> RANGE_SHIFT) + 1;
}

/* ---- What lone faults come to -------------------------------------------------------------- */

static void note_score(_Atomic int *score, int change)
{
	int value = atomic_load_explicit(score, memory_order_relaxed) + change;

	atomic_store_explicit(score, value < 0 ? 0 : TS_MIN(value, (int)SCORE_MAX),
			      memory_order_relaxed);
}

static bool is_likely(_Atomic int *score)
{
	return atomic_load_explicit(score, memory_order_relaxed) >= SCORE_MIN;
}

/* Forgotten before the guest came back to it. */
static void note_forgotten(struct ts_shard *shard, uint32_t entry)
{
	if (entry & GOT_PAGE)
		note_score(&shard->whole_score, -MISS);
	if (entry & GOT_NO_AHEAD)
		note_score(&shard->ahead_score, -MISS);
}

/* The guest asks for another page of the range, or for one of the next. */
static void note_asked(struct ts_shard *shard, _Atomic uint32_t *slot, uint32_t entry,
		       uint32_t name)
{
	uint32_t flag = (entry & NAME_MASK) == name ? GOT_PAGE : GOT_NO_AHEAD;

	if (!(entry & flag) ||
	    !atomic_compare_exchange_strong_explicit(slot, &entry, entry & ~flag,
						     memory_order_relaxed, memory_order_relaxed))
		return;
	note_score(flag == GOT_PAGE ? &shard->whole_score : &shard->ahead_score, 1);
}

static void remember(struct ts_shard *shard, uint32_t name, uint32_t flags)
{
	for (unsigned i = 0; i < TS_ARRAY_LEN(shard->recent_ranges); i++) {
		uint32_t entry = atomic_load_explicit(&shard->recent_ranges[i],
						      memory_order_relaxed);
		if ((entry & NAME_MASK) == name)
			return;
	}
	uint32_t hand = atomic_fetch_add_explicit(&shard->recent_hand, 1, memory_order_relaxed);
	_Atomic uint32_t *slot = &shard->recent_ranges[hand % TS_ARRAY_LEN(shard->recent_ranges)];
	note_forgotten(shard, atomic_exchange_explicit(slot, name | flags, memory_order_relaxed));
}

static bool is_near(struct ts_shard *shard, uint32_t name)
{
	bool found = false;

	for (unsigned i = 0; i < TS_ARRAY_LEN(shard->recent_ranges); i++) {
		_Atomic uint32_t *slot = &shard->recent_ranges[i];
		uint32_t entry = atomic_load_explicit(slot, memory_order_relaxed);
		uint32_t recent = entry & NAME_MASK;

		if (!recent || recent + 1 < name || recent > name + 1)
			continue;
		found = true;
		if (recent <= name)
			note_asked(shard, slot, entry, name);
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
					       next + TS_WALK_AHEAD_PAGES) - 1), 0);
}

/* Not near anything: does it begin a walk?  What such faults came to says so. */
static void note_lone(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot, uint32_t next)
{
	struct ts_shard *shard = slot->shard;
	uint32_t nr = atomic_fetch_add_explicit(&shard->nr_lone, 1, memory_order_relaxed);
	bool is_probe = nr % PROBE_EVERY == 0;
	bool is_whole = shard->region->restore == TS_RESTORE_RANGE ||
			(!is_probe && is_likely(&shard->whole_score));
	bool has_ahead = is_whole && !is_probe && is_likely(&shard->ahead_score);

	remember(shard, name_of(slot->page), (is_whole ? 0 : GOT_PAGE) |
		 (has_ahead ? 0 : GOT_NO_AHEAD));
	if (!is_whole)
		return;
	slot->flags |= TS_SERVE_WHOLE;
	remember(shard, name_of(next - 1), 0);
	if (has_ahead)
		ask_ahead(ctx, shard, next, slot->tier);
}

void ts_walk_note(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_shard *shard = slot->shard;

	if ((slot->flags & TS_SERVE_PREFETCH) || shard->region->restore == TS_RESTORE_PAGE)
		return;
	uint32_t next = range_end(ctx->engine, slot->tier, slot->page);
	if (!is_near(shard, name_of(slot->page))) {
		note_lone(ctx, slot, next);
		return;
	}
	remember(shard, name_of(slot->page), 0);
	slot->flags |= TS_SERVE_WHOLE;
	remember(shard, name_of(next - 1), 0);
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
