/* SPDX-License-Identifier: Apache-2.0
 *
 * demote.c — frames down the ladder (demote.h).
 *
 * New frames are collected and put together: to a store a put is a transaction, or a write.
 * Between the look at a page's word and its swing the old frame may die, but its id is not reused,
 * for it is the keeper, this very thread, that frees ids: a word that still names the old frame
 * names the same contents.
 */
#include "evict/demote.h"

#include <errno.h>
#include <string.h>

#include "os/sys.h"
#include "util/hook.h"

/* The pages of one aligned range that are to share a new frame. */
struct ts_merge {
	struct ts_region *region;             /* entered until the batch is published */
	uint32_t first_page;
	unsigned nr_pages;
	uint64_t bits;                        /* pages first_page + i whose contents are at hand */
	uint32_t frames[TS_FRAME_PAGES_MAX];  /* the frame that page i is in now */
	uint8_t *pages;                       /* page i at pages + i * 4 KiB */
};

enum { OUT_BYTES = 4 << 20 };

int ts_demoter_init(struct ts_demoter *demoter, struct ts_engine *engine)
{
	*demoter = (struct ts_demoter){ .engine = engine };
	int rc = ts_fetch_init(&demoter->fetch, engine, 1);
	if (rc)
		return rc;
	/* Room for the pages in place, and for the same pages made contiguous. */
	demoter->raw = ts_sys_alloc_pages(2 * TS_FRAME_RAW_MAX);
	demoter->out = ts_sys_alloc_pages(OUT_BYTES);
	demoter->merges = calloc(TS_DEMOTE_BATCH, sizeof(*demoter->merges));
	rc = demoter->raw && demoter->out && demoter->merges ? 0 : -ENOMEM;
	if (!rc)
		rc = ts_encoder_create(engine->dicts, &demoter->encoder);
	if (rc)
		ts_demoter_finish(demoter);
	return rc;
}

void ts_demoter_finish(struct ts_demoter *demoter)
{
	if (demoter->fetch.engine)
		ts_fetch_finish(&demoter->fetch);
	ts_encoder_destroy(demoter->encoder);
	ts_sys_free_pages(demoter->raw, 2 * TS_FRAME_RAW_MAX);
	ts_sys_free_pages(demoter->out, OUT_BYTES);
	free(demoter->merges);
	*demoter = (struct ts_demoter){ 0 };
}

/* Reads and decodes a frame that the caller holds a reference to.  0, or an error: it stays where
 * it is, and the fault that needs it will report what is wrong with it. */
static int read_frame(struct ts_demoter *demoter, unsigned tier, uint32_t frame,
		      struct ts_frame_head *head)
{
	struct ts_fetch_slot *slot = ts_fetch_acquire(&demoter->fetch);

	TS_ASSERT(slot);
	slot->frame = frame;
	slot->tier = (uint8_t)tier;
	int rc = ts_fetch_wait(&demoter->fetch, slot);
	const uint8_t *bytes = (const uint8_t *)slot->get.buf + slot->get.off_bytes;
	if (!rc)
		rc = ts_decode(demoter->fetch.decoder, bytes, slot->get.len_bytes, head,
			       demoter->fetch.raw, demoter->engine->frame_raw_max);
	ts_fetch_release(&demoter->fetch, slot);
	return rc < 0 ? rc : 0;
}

/* Copies those pages of the decoded frame that are still AWAY in it and lie in the merge's
 * range. */
static void collect_pages(struct ts_demoter *demoter, struct ts_merge *merge, uint32_t frame,
			  const struct ts_frame_head *head)
{
	unsigned idx = 0;

	if (head->region != merge->region->id)
		return;
	for (uint64_t bits = head->page_bits; bits; bits &= bits - 1, idx++) {
		uint32_t page = head->base_page + (uint32_t)__builtin_ctzll(bits);
		uint32_t i = page - merge->first_page;
		if (page < merge->first_page || i >= merge->nr_pages)
			continue;
		if (ts_word_load(&merge->region->words[page]) != ts_word_make(TS_AWAY, 0, frame))
			continue;
		memcpy(merge->pages + ((size_t)i << TS_PAGE_SHIFT),
		       demoter->fetch.raw + ((size_t)idx << TS_PAGE_SHIFT), TS_PAGE_BYTES);
		merge->frames[i] = frame;
		merge->bits |= UINT64_C(1) << i;
	}
}

/* The range's other pages that are AWAY in frames of the same tier. */
static void collect_neighbours(struct ts_demoter *demoter, struct ts_merge *merge, unsigned tier)
{
	struct ts_engine *engine = demoter->engine;
	struct ts_frame_head head;

	for (unsigned i = 0; i < merge->nr_pages; i++) {
		ts_word word = ts_word_load(&merge->region->words[merge->first_page + i]);
		uint32_t frame = ts_word_payload(word);
		if (merge->bits >> i & 1 || word != ts_word_make(TS_AWAY, 0, frame))
			continue;
		if (!ts_frames_try_ref(&engine->frames, frame, tier))
			continue;
		if (!read_frame(demoter, tier, frame, &head))
			collect_pages(demoter, merge, frame, &head);
		ts_frames_unref(&engine->frames, frame);
	}
}

static const uint8_t *make_contiguous(struct ts_merge *merge)
{
	uint8_t *dst = merge->pages + TS_FRAME_RAW_MAX;
	unsigned n = 0;

	for (uint64_t bits = merge->bits; bits; bits &= bits - 1)
		memcpy(dst + ((size_t)n++ << TS_PAGE_SHIFT),
		       merge->pages + ((size_t)__builtin_ctzll(bits) << TS_PAGE_SHIFT),
		       TS_PAGE_BYTES);
	return dst;
}

/* Swings the words.  A page that was fetched, removed or unmapped meanwhile is not ours to move. */
static uint64_t publish(struct ts_engine *engine, const struct ts_merge *merge, uint32_t frame)
{
	uint64_t nr_moved = 0;

	for (uint64_t bits = merge->bits; bits; bits &= bits - 1) {
		unsigned i = (unsigned)__builtin_ctzll(bits);
		ts_word word = ts_word_make(TS_AWAY, 0, merge->frames[i]);
		ts_frames_add_page(&engine->frames, frame);
		bool is_moved = ts_word_swap(&merge->region->words[merge->first_page + i], &word,
					     ts_word_make(TS_AWAY, 0, frame));
		ts_frames_drop_page(&engine->frames, is_moved ? merge->frames[i] : frame);
		nr_moved += is_moved;
	}
	return nr_moved;
}

/* Puts what was collected and publishes what was stored.  How many pages moved. */
static uint64_t flush(struct ts_demoter *demoter)
{
	struct ts_engine *engine = demoter->engine;
	struct ts_tier *tier = &engine->tiers[demoter->to];
	uint64_t nr_moved = 0;

	if (!demoter->nr_items)
		return 0;
	int rc = ts_store_put(tier->store, demoter->items, demoter->nr_items);
	TS_PHASE(TS_PHASE_DEMOTE);
	for (unsigned n = 0; n < demoter->nr_items; n++) {
		struct ts_merge *merge = &demoter->merges[n];
		uint32_t frame = (uint32_t)demoter->items[n].key;
		int status = rc < 0 ? rc : demoter->items[n].status;
		ts_tier_count_frame(tier, 1, (unsigned)__builtin_popcountll(merge->bits));
		ts_tier_note_put(engine, tier, status);
		if (!status)
			nr_moved += publish(engine, merge, frame);
		ts_frames_unref(&engine->frames, frame);
		ts_region_leave(merge->region);
	}
	atomic_fetch_add(&engine->tiers[demoter->from].nr_demoted_out, nr_moved);
	atomic_fetch_add(&tier->nr_demoted_in, nr_moved);
	demoter->nr_items = 0;
	demoter->out_used = 0;
	return nr_moved;
}

/* Encodes the merged pages as a new frame of the lower tier and adds it to the batch, which is put
 * when it is full. */
static uint64_t add_merged(struct ts_demoter *demoter, struct ts_merge *merge)
{
	struct ts_engine *engine = demoter->engine;
	struct ts_tier *tier = &engine->tiers[demoter->to];
	unsigned nr_pages = (unsigned)__builtin_popcountll(merge->bits);
	struct ts_codec_setting setting = ts_tier_setting(tier);
	struct ts_frame_owner owner = { merge->region->id, merge->first_page, merge->bits };
	const uint8_t *raw = make_contiguous(merge);
	uint8_t *out = demoter->out + demoter->out_used;
	size_t cap_bytes = OUT_BYTES - demoter->out_used;

	int len = setting.dict_id ?
		  ts_encode_with_gain(demoter->encoder, &setting, &owner, raw, out, cap_bytes,
				      &tier->gain) :
		  ts_encode(demoter->encoder, &setting, &owner, raw, out, cap_bytes);
	if (len < 0 || !ts_region_enter(merge->region))
		return 0;
	int64_t frame = ts_frames_alloc(&engine->frames, tier->index, nr_pages,
					atomic_load(&engine->tick));
	if (frame < 0) {
		ts_region_leave(merge->region);
		return 0;
	}
	if (merge->region->share_weight)
		ts_frames_note_owner(&engine->frames, (uint32_t)frame, merge->region->slot,
				     (uint64_t)len);
	demoter->items[demoter->nr_items] = (struct ts_put){
		.key = (uint64_t)frame, .data = out, .len_bytes = (uint32_t)len };
	demoter->merges[demoter->nr_items++] = *merge;
	demoter->out_used += ((size_t)len + 7) & ~(size_t)7;
	bool is_full = demoter->nr_items == TS_DEMOTE_BATCH ||
		       demoter->out_used + TS_FRAME_BYTES_MAX > OUT_BYTES;
	return is_full ? flush(demoter) : 0;
}

/* Resident pages that the frame keeps copies of hold it in its tier; they can do without. */
static void drop_kept_of(struct ts_engine *engine, struct ts_region *region, uint32_t frame,
			 const struct ts_frame_head *head)
{
	for (uint64_t bits = head->page_bits; bits; bits &= bits - 1) {
		uint32_t page = head->base_page + (uint32_t)__builtin_ctzll(bits);
		ts_word word = ts_word_make(TS_RESIDENT, TS_WORD_KEPT, frame);
		if (page < region->nr_pages &&
		    ts_word_swap(&region->words[page], &word, ts_word_make(TS_RESIDENT, 0, 0)))
			ts_frames_unref(&engine->frames, frame);
	}
}

/* The tier that frames of this one go to; 0: none takes any. */
static unsigned tier_below(const struct ts_engine *engine, unsigned tier)
{
	for (unsigned t = tier + 1; t < engine->nr_tiers; t++)
		if (ts_tier_admits(&engine->tiers[t]))
			return t;
	return 0;
}

/* Do all of its pages lie in one range?  A frame of an earlier process may be longer than what its
 * tier's range is now (engine/state.c). */
static bool is_in_one_range(const struct ts_frame_head *head, unsigned range_pages)
{
	uint32_t low = head->base_page + (uint32_t)__builtin_ctzll(head->page_bits);
	uint32_t high = head->base_page + 63 - (uint32_t)__builtin_clzll(head->page_bits);

	return low / range_pages == high / range_pages;
}

/* Those pages of the decoded frame that lie in one range of the lower tier. */
static uint64_t demote_range(struct ts_demoter *demoter, struct ts_region *region, unsigned tier,
			     uint32_t frame, const struct ts_frame_head *head, uint32_t first_page,
			     unsigned range_pages)
{
	struct ts_merge merge = { .region = region,
				  .first_page = first_page,
				  .pages = demoter->raw };

	uint32_t nr_left = region->nr_pages - first_page;
	merge.nr_pages = TS_MIN(range_pages, nr_left);
	collect_pages(demoter, &merge, frame, head);
	if (!merge.bits)
		return 0;
	/* Not for a part of a frame, whose other parts must stay decoded. */
	if (range_pages >= demoter->engine->tiers[tier].range_pages &&
	    is_in_one_range(head, range_pages))
		collect_neighbours(demoter, &merge, tier);
	return add_merged(demoter, &merge);
}

/* The frame is held by a reference.  Where the lower tier's range is smaller, it is cut up. */
static uint64_t demote_frame(struct ts_demoter *demoter, unsigned tier, uint32_t frame,
			     unsigned range_pages)
{
	struct ts_engine *engine = demoter->engine;
	struct ts_frame_head head;
	uint64_t nr_moved = 0;

	if (read_frame(demoter, tier, frame, &head))
		return 0;
	struct ts_region *region = ts_engine_enter_region(engine, head.region);
	if (!region)
		return 0;
	drop_kept_of(engine, region, frame, &head);
	uint32_t end = head.base_page + 64 - (uint32_t)__builtin_clzll(head.page_bits);
	for (uint32_t first = head.base_page / range_pages * range_pages; first < end;
	     first += range_pages)
		nr_moved += demote_range(demoter, region, tier, frame, &head, first, range_pages);
	ts_region_leave(region);
	return nr_moved;
}

static bool is_chosen(struct ts_engine *engine, const struct ts_demote_choice *choice, uint32_t id,
		      uint32_t entry)
{
	if (!ts_frame_is_used(entry) || ts_frame_tier(entry) != choice->tier ||
	    !ts_frame_refs(entry))
		return false;
	unsigned owner = ts_frames_owner(&engine->frames, id);
	return owner == TS_REGION_MAX || choice->owners >> owner & 1;
}

/* Is this frame one to be moved? */
static bool is_due(struct ts_engine *engine, uint32_t id, const struct ts_demote_choice *choice,
		   unsigned age_min_ticks)
{
	uint32_t entry = id ? ts_frames_load(&engine->frames, id) : 0;

	return is_chosen(engine, choice, id, entry) &&
	       ts_frame_age(entry, atomic_load(&engine->tick)) >= age_min_ticks;
}

/* Have its pages been collected with its neighbours', in a merge that is yet to be put?  Until then
 * it looks as due as before. */
static bool is_collected(const struct ts_demoter *demoter, uint32_t frame)
{
	for (unsigned n = demoter->nr_items; n-- > 0;) {
		const struct ts_merge *merge = &demoter->merges[n];
		for (uint64_t bits = merge->bits; bits; bits &= bits - 1)
			if (merge->frames[__builtin_ctzll(bits)] == frame)
				return true;
	}
	return false;
}

uint64_t ts_demote_frames(struct ts_demoter *demoter, const struct ts_demote_choice *choice,
			  unsigned age_min_ticks, unsigned nr_max)
{
	unsigned tier = choice->tier;
	struct ts_engine *engine = demoter->engine;
	uint32_t end = atomic_load(&engine->frames.id_end);
	uint64_t nr_moved = 0;
	unsigned nr_frames = 0;

	demoter->from = tier;
	for (uint32_t n = 1; n < end && nr_frames < nr_max; n++) {
		/* The batch is for one tier; when that is full, what is collected goes first. */
		unsigned to = tier_below(engine, tier);
		if (demoter->nr_items && to != demoter->to)
			nr_moved += flush(demoter);
		if (!to)
			break;
		demoter->to = to;
		uint32_t id = demoter->hand[tier] % end;
		demoter->hand[tier] = id + 1;
		if (!is_due(engine, id, choice, age_min_ticks) || is_collected(demoter, id) ||
		    !ts_frames_try_ref(&engine->frames, id, tier))
			continue;
		nr_moved += demote_frame(demoter, tier, id, engine->tiers[to].range_pages);
		ts_frames_unref(&engine->frames, id);
		nr_frames++;
	}
	return nr_moved + flush(demoter);
}

unsigned ts_demote_oldest(struct ts_engine *engine, const struct ts_demote_choice *choice,
			  uint64_t nr_frames)
{
	uint32_t nr_by_age[4096] = { 0 };
	uint32_t end = atomic_load(&engine->frames.id_end), tick = atomic_load(&engine->tick);
	uint64_t nr_older = 0;

	for (uint32_t id = 1; id < end; id++) {
		uint32_t entry = ts_frames_load(&engine->frames, id);
		if (is_chosen(engine, choice, id, entry))
			nr_by_age[ts_frame_age(entry, tick)]++;
	}
	for (unsigned age = 4095; age > 0; age--) {
		nr_older += nr_by_age[age];
		if (nr_older >= nr_frames)
			return age;
	}
	return 0;
}

uint64_t ts_demote_drop_kept(struct ts_demoter *demoter, unsigned tier, uint64_t nr_max)
{
	struct ts_engine *engine = demoter->engine;
	uint64_t nr_dropped = 0;

	for (unsigned r = 0; r < TS_REGION_MAX && nr_dropped < nr_max; r++) {
		struct ts_region *region = ts_engine_enter_slot(engine, r);
		if (!region)
			continue;
		for (uint32_t page = 0; page < region->nr_pages && nr_dropped < nr_max; page++) {
			ts_word word = ts_word_load(&region->words[page]);
			if (!ts_word_is(word, TS_RESIDENT) || !(word & TS_WORD_KEPT))
				continue;
			uint32_t frame = ts_word_payload(word);
			if (ts_frame_tier(ts_frames_load(&engine->frames, frame)) != tier ||
			    !ts_word_swap(&region->words[page], &word,
					  ts_word_make(TS_RESIDENT, 0, 0)))
				continue;
			ts_frames_unref(&engine->frames, frame);
			nr_dropped++;
		}
		ts_region_leave(region);
	}
	return nr_dropped;
}
