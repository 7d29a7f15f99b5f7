/* SPDX-License-Identifier: Apache-2.0
 * share.c — regions' parts of the tiers (share.h). */
#include "engine/share.h"

#include "engine/state.h"
#include "engine/tool.h"

/* ---- The ladder's shares ---------------------------------------------------------------- */

/* Who has at most his part of what is left, is served; the others divide what he leaves. */
void ts_share_judge(struct ts_share_part *parts, unsigned nr_parts, uint64_t total_bytes)
{
	uint64_t weights = 0;
	bool has_changed = true;

	for (unsigned i = 0; i < nr_parts; i++) {
		parts[i].is_over = true;
		weights += parts[i].weight;
	}
	while (has_changed && weights) {
		uint64_t left_bytes = total_bytes, all = weights;
		has_changed = false;
		for (unsigned i = 0; i < nr_parts; i++) {
			struct ts_share_part *part = &parts[i];
			double share_bytes = (double)left_bytes * part->weight / (double)all;
			if (!part->is_over || (double)part->held_bytes > share_bytes)
				continue;
			part->is_over = false;
			has_changed = true;
			total_bytes -= part->held_bytes;
			weights -= part->weight;
		}
	}
}

uint64_t ts_share_over(struct ts_engine *engine, const struct ts_tier *tier, uint64_t total_bytes)
{
	struct ts_share_part parts[TS_REGION_MAX];
	uint64_t owners = TS_SHARE_ALL, over = 0;
	unsigned slots[TS_REGION_MAX], nr_parts = 0;

	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		struct ts_region *region = ts_engine_enter_slot(engine, r);
		if (!region)
			continue;
		uint64_t held_bytes = ts_frames_held_bytes(&engine->frames, r, tier->index);
		if (region->share_weight) {
			slots[nr_parts] = r;
			parts[nr_parts++] = (struct ts_share_part){
				.held_bytes = held_bytes, .weight = region->share_weight };
		} else {
			total_bytes -= TS_MIN(held_bytes, total_bytes);
		}
		ts_region_leave(region);
	}
	ts_share_judge(parts, nr_parts, total_bytes);
	for (unsigned i = 0; i < nr_parts; i++) {
		over |= (uint64_t)parts[i].is_over << slots[i];
		owners &= ~((uint64_t)!parts[i].is_over << slots[i]);
	}
	return over ? owners : TS_SHARE_ALL;
}

/* ---- After a death ---------------------------------------------------------------------- */

/* What a page takes in the tier, on average, as far as its store can say. */
static uint64_t page_bytes_in(struct ts_tier *tier)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };
	uint64_t raw_bytes = atomic_load(&tier->raw_bytes);

	if (ts_store_stat_get(tier->store, &stat) || !raw_bytes)
		return TS_PAGE_BYTES;
	return TS_MIN(stat.frame_bytes * TS_PAGE_BYTES / raw_bytes, (uint64_t)TS_PAGE_BYTES);
}

void ts_share_note_resumed(struct ts_engine *engine, struct ts_region *region)
{
	uint64_t page_bytes[TS_TIER_MAX];
	struct ts_frames *frames = &engine->frames;

	if (!region->share_weight)
		return;
	for (unsigned t = 0; t < engine->nr_tiers; t++)
		page_bytes[t] = page_bytes_in(&engine->tiers[t]);
	for (uint32_t page = 0; page < region->nr_pages; page++) {
		uint32_t id = ts_state_frame_of(ts_word_load(&region->words[page]));
		uint32_t entry = id ? ts_frames_load(frames, id) : 0;
		unsigned nr_pages = ts_frame_nr_pages(entry);
		if (!nr_pages || ts_frames_is_pinned(frames, id) ||
		    ts_frames_owner(frames, id) != TS_REGION_MAX)
			continue;
		ts_frames_note_owner(frames, id, region->slot,
				     page_bytes[ts_frame_tier(entry)] * nr_pages);
	}
}

/* ---- Copies that are given back --------------------------------------------------------- */

/* Lets go of copies that are kept of resident pages; how many. */
static uint64_t drop_kept(struct ts_engine *engine, struct ts_region *region, uint32_t first_page,
			  uint32_t nr_pages)
{
	uint64_t nr_dropped = 0;

	for (uint32_t page = first_page; page < first_page + nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		if (!ts_word_is(word, TS_RESIDENT) || !(word & TS_WORD_KEPT))
			continue;
		uint32_t frame = ts_word_payload(word);
		if (!ts_word_swap(&region->words[page], &word, ts_word_make(TS_RESIDENT, 0, 0)))
			continue;
		ts_frames_unref(&engine->frames, frame);
		nr_dropped++;
	}
	return nr_dropped;
}

/* An image's frames stay in the tiers, whoever brings their pages in. */
static unsigned count_away(struct ts_region *region, uint32_t first_page, uint32_t nr_pages)
{
	unsigned nr_away = 0;

	for (uint32_t page = first_page; page < first_page + nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		nr_away += ts_word_is(word, TS_AWAY) &&
			   !ts_frames_is_pinned(&region->engine->frames, ts_word_payload(word));
	}
	return nr_away;
}

/* Brings the next pages back that are away, up to a frame's worth, and looks at no more than a
 * chunk.  How many, or an error; *nr_seen_out: how many it has looked at. */
static int64_t give_back_some(struct ts_region *region, uint32_t *nr_seen_out)
{
	struct ts_engine *engine = region->engine;
	uint32_t first = region->give_hand, nr_pages, nr_seen = 0;
	unsigned nr_away = 0;
	int64_t nr_back = 0;

	if (first >= region->nr_pages)
		first = 0;
	do {
		nr_pages = TS_MIN(region->nr_pages - first, (uint32_t)TS_FRAME_PAGES_MAX);
		nr_away = count_away(region, first, nr_pages);
		nr_seen += nr_pages;
		if (!nr_away)
			first = first + nr_pages < region->nr_pages ? first + nr_pages : 0;
	} while (!nr_away && nr_seen < TS_CHUNK_PAGES);
	if (nr_away) {
		ts_tool_restore_once(engine->tool, region, first, nr_pages);
		unsigned nr_left = count_away(region, first, nr_pages);
		nr_back = nr_away > nr_left ? nr_away - nr_left : 0;
		(void)drop_kept(engine, region, first, nr_pages);
		first += nr_pages;
	}
	region->give_hand = first;
	*nr_seen_out = nr_seen;
	return nr_back;
}

int64_t ts_region_give_back(struct ts_region *region, uint64_t len_bytes)
{
	struct ts_engine *engine = region->engine;
	uint64_t nr_wanted = len_bytes >> TS_PAGE_SHIFT, nr_done = 0, nr_seen = 0, nr_pages = 1;
	bool is_first = true;

	/* A step at a time under the lock, so that others come and go meanwhile. */
	while (nr_done < nr_wanted && nr_seen < nr_pages) {
		TS_SCOPED_LOCK(&engine->control);
		uint32_t nr_looked = 0;
		if (!ts_region_enter(region))
			return ts_fail(TS_ESTATE, "%s: is being detached", region->name);
		nr_pages = region->nr_pages;
		if (is_first)
			nr_done += drop_kept(engine, region, 0, region->nr_pages);
		else
			nr_done += (uint64_t)give_back_some(region, &nr_looked);
		is_first = false;
		nr_seen += nr_looked;
		ts_region_leave(region);
	}
	return (int64_t)(nr_done << TS_PAGE_SHIFT);
}
