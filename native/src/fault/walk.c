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

#include "util/hook.h"

/* Of a name in recent_ranges: came after another one, so that what comes after it is no chance. */
#define IS_WALK (UINT32_C(1) << 31)

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
	/* What takes less than this to decode is there before another thread is awake. */
	WAKE_UP_NS = 40000,
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
		_Atomic uint32_t *slot = &shard->recent_ranges[i];
		uint32_t entry = atomic_load_explicit(slot, memory_order_relaxed);

		if ((entry & NAME_MASK) != name)
			continue;
		if (flags & ~entry & IS_WALK)
			(void)atomic_compare_exchange_strong_explicit(
				slot, &entry, entry | IS_WALK, memory_order_relaxed,
				memory_order_relaxed);
		return;
	}
	uint32_t hand = atomic_fetch_add_explicit(&shard->recent_hand, 1, memory_order_relaxed);
	_Atomic uint32_t *slot = &shard->recent_ranges[hand % TS_ARRAY_LEN(shard->recent_ranges)];
	note_forgotten(shard, atomic_exchange_explicit(slot, name | flags, memory_order_relaxed));
}

enum nearness {
	IS_LONE,
	IS_NEAR,     /* to one that was lone: the beginning of a walk, or chance */
	IS_WALKING,
};

static enum nearness nearness(struct ts_shard *shard, uint32_t name)
{
	enum nearness found = IS_LONE;

	for (unsigned i = 0; i < TS_ARRAY_LEN(shard->recent_ranges); i++) {
		_Atomic uint32_t *slot = &shard->recent_ranges[i];
		uint32_t entry = atomic_load_explicit(slot, memory_order_relaxed);
		uint32_t recent = entry & NAME_MASK;

		if (!recent || recent + 1 < name || recent > name + 1)
			continue;
		found = TS_MAX(found, entry & IS_WALK ? IS_WALKING : IS_NEAR);
		if (recent <= name)
			note_asked(shard, slot, entry, name);
	}
	return found;
}

/* ---- Ahead ------------------------------------------------------------------------------ */

/* From the last: the first threads are those that wait for faults. */
static struct ts_ahead_place *post(struct ts_ahead *ahead, uint64_t letter)
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
		return place;
	}
	return NULL;
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

/* Where the page of this word is stored; 0 if it is no longer wanted. */
static unsigned tier_of(struct ts_engine *engine, ts_word word)
{
	return is_wanted(word) ?
	       ts_frame_tier(ts_frames_load(&engine->frames, ts_word_payload(word))) : 0;
}

static bool answers_at_once(struct ts_serve_ctx *ctx, unsigned tier)
{
	return ts_fetch_poll_fd(&ctx->fetch, tier) < 0;
}

/* Brings one frame back.  Returns its range's end, for one that is read in the background must not
 * be asked for again; 0 if it can't be had now. */
static uint32_t fetch_one(struct ts_serve_ctx *ctx, struct ts_region *region, uint32_t page,
			  unsigned tier)
{
	enum ts_serve_outcome outcome =
		ts_serve_page(ctx, ts_region_shard(region, page), page,
			      TS_SERVE_PREFETCH | TS_SERVE_WHOLE, ts_now_ns());

	return outcome == TS_SERVE_LATER ? 0 : range_end(ctx->engine, tier, page);
}

/* Brings back what is wanted from here on.  is_quick: nothing that has to be waited for, and
 * nothing a second time. */
static void fetch_from(struct ts_serve_ctx *ctx, struct ts_region *region, uint32_t page,
		       bool is_quick)
{
	uint32_t end = TS_MIN(page + TS_WALK_AHEAD_PAGES, region->nr_pages);
	unsigned nr_later = ctx->nr_later;

	while (page && page < end) {
		ts_word word = ts_word_load(&region->words[page]);
		unsigned tier = tier_of(ctx->engine, word);
		if (!is_wanted(word))
			page++;
		else if (!is_quick || answers_at_once(ctx, tier))
			page = fetch_one(ctx, region, page, tier);
		else
			break;
	}
	if (is_quick)
		ctx->nr_later = nr_later;
}

static uint32_t first_wanted(const struct ts_region *region, uint32_t page)
{
	uint32_t end = TS_MIN(page + TS_WALK_AHEAD_PAGES, region->nr_pages);

	while (page < end && !is_wanted(ts_word_load(&region->words[page])))
		page++;
	return page < end ? page : 0;
}

static void remember_ahead(struct ts_shard *shard, uint32_t next, uint32_t range_end)
{
	remember(shard, name_of(TS_MAX(range_end, next + TS_WALK_AHEAD_PAGES) - 1), IS_WALK);
}

/* Somebody else, if there is anybody idle, shall fetch what comes after the range. */
static void ask_ahead(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t next)
{
	struct ts_region *region = shard->region;
	uint32_t page = first_wanted(region, next);

	if (!page || !ctx->ahead)
		return;
	unsigned tier = tier_of(ctx->engine, ts_word_load(&region->words[page]));
	uint64_t letter = (uint64_t)region->id << 32 | page;
	struct ts_ahead_place *place = post(ctx->ahead, letter);
	if (!place)
		return;
	remember_ahead(shard, page, range_end(ctx->engine, tier, page));
	if (!ctx->is_beside && answers_at_once(ctx, tier)) {
		ctx->asked = place;
		ctx->asked_letter = letter;
	}
}

/* The guest runs here as soon as it is woken, what comes next is as good as asked for, and decoding
 * it takes less than waking another thread: it is installed before the page that the guest waits
 * for.  Later it would take a second fault, which is dearer than that wait. */
static bool fetch_before(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t next)
{
	struct ts_region *region = shard->region;
	uint32_t page = ctx->is_beside ? first_wanted(region, next) : 0;

	if (!page)
		return false;
	unsigned tier = tier_of(ctx->engine, ts_word_load(&region->words[page]));
	unsigned nr_frames = TS_MAX(TS_WALK_AHEAD_PAGES / ctx->engine->tiers[tier].range_pages, 1u);
	if (!answers_at_once(ctx, tier) || ctx->fetch.decode_ns[tier] * nr_frames >
					     TS_KNOB(TS_KNOB_WAKE_UP_NS, WAKE_UP_NS))
		return false;
	fetch_from(ctx, region, page, true);
	remember_ahead(shard, page, range_end(ctx->engine, tier, page));
	return true;
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
	if (has_ahead && !fetch_before(ctx, shard, next))
		ask_ahead(ctx, shard, next);
}

void ts_walk_note(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_shard *shard = slot->shard;

	if ((slot->flags & TS_SERVE_PREFETCH) || shard->region->restore == TS_RESTORE_PAGE)
		return;
	uint32_t next = range_end(ctx->engine, slot->tier, slot->page);
	enum nearness how = nearness(shard, name_of(slot->page));
	if (how == IS_LONE) {
		note_lone(ctx, slot, next);
		return;
	}
	remember(shard, name_of(slot->page), IS_WALK);
	slot->flags |= TS_SERVE_WHOLE;
	remember(shard, name_of(next - 1), IS_WALK);
	/* Another thread's wake-up is too dear for what may be chance. */
	if (how == IS_WALKING)
		ask_ahead(ctx, shard, next);
}

static void serve_letter(struct ts_serve_ctx *ctx, uint64_t letter, bool is_quick)
{
	struct ts_region *region = ts_engine_enter_region(ctx->engine, (uint32_t)(letter >> 32));

	if (!region)
		return;
	fetch_from(ctx, region, (uint32_t)letter, is_quick);
	ts_region_leave(region);
}

void ts_ahead_serve(struct ts_ahead_place *place, struct ts_serve_ctx *ctx)
{
	uint64_t letter = atomic_exchange(&place->wanted, 0);

	if (TS_UNLIKELY(letter))
		serve_letter(ctx, letter, false);
}

void ts_walk_go_on(struct ts_serve_ctx *ctx)
{
	uint64_t letter = ctx->asked_letter;
	struct ts_ahead_place *place = ctx->asked;

	ctx->asked = NULL;
	if (atomic_compare_exchange_strong(&place->wanted, &letter, 0))
		serve_letter(ctx, letter, true);
}
