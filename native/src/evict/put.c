/* SPDX-License-Identifier: Apache-2.0
 *
 * put.c — down the ladder: encode for a tier, put, publish; what it does not take goes to the next.
 *
 * What can go wrong: the store refuses a frame (full, an error): its pages stay owned and are
 * encoded again for the next tier.  A page is cancelled while its frame is being stored: the frame
 * is published without it.  Nothing is published before the store has acknowledged.
 */
#include <string.h>

#include "evict/evict.h"
#include "util/hist.h"
#include "util/hook.h"

struct group {
	unsigned first;      /* of the batch's pages */
	uint64_t bits;       /* pages first + i that are in the frame */
};

struct put {
	struct ts_evictor *evictor;
	struct ts_batch *batch;
	struct ts_tier *tier;
	struct ts_evict_tally *tally;
	struct ts_put items[TS_STORE_BATCH_MAX];
	struct group groups[TS_STORE_BATCH_MAX];
	unsigned nr_items;
	size_t out_used;
	bool is_over;        /* the tier takes nothing more of this batch */
};

bool ts_evict_publish(struct ts_engine *engine, struct ts_batch *batch, unsigned i, uint32_t frame)
{
	bool is_late = batch->region->memory->releases_late;

	/* Reference and count first: a fault may take the page out of the frame at once. */
	ts_frames_add_page(&engine->frames, frame);
	ts_word away = ts_word_make(TS_AWAY, is_late ? TS_WORD_RELEASING : 0, frame);
	if (!ts_batch_swap_owned(batch, i, away)) {
		ts_frames_drop_page(&engine->frames, frame);
		return false;
	}
	if (is_late)
		ts_pageset_add(&batch->releasing, i);
	ts_bump(&batch->region->counters.nr_evicted, 1);
	return true;
}

/* The pages of one aligned range that are still owned, as bits. */
static uint64_t group_bits(const struct ts_pageset *owned, unsigned first, unsigned nr_pages)
{
	uint64_t bits = owned->bits[first / 64] >> (first % 64);

	/* Ranges are powers of two and aligned, so one never crosses a word of the set. */
	return nr_pages == 64 ? bits : bits & ((UINT64_C(1) << nr_pages) - 1);
}

static const uint8_t *contiguous(struct put *put, const struct group *group)
{
	const uint8_t *base = put->batch->data + ((size_t)group->first << TS_PAGE_SHIFT);
	unsigned low = (unsigned)__builtin_ctzll(group->bits), n = 0;
	uint64_t run = group->bits >> low;

	if (!(run & (run + 1)))
		return base + ((size_t)low << TS_PAGE_SHIFT);
	for (uint64_t bits = group->bits; bits; bits &= bits - 1)
		memcpy(put->evictor->gather + ((size_t)n++ << TS_PAGE_SHIFT),
		       base + ((size_t)__builtin_ctzll(bits) << TS_PAGE_SHIFT), TS_PAGE_BYTES);
	return put->evictor->gather;
}

static void publish_group(struct put *put, const struct group *group, uint32_t frame)
{
	for (uint64_t bits = group->bits; bits; bits &= bits - 1) {
		unsigned i = group->first + (unsigned)__builtin_ctzll(bits);
		if (ts_evict_publish(put->evictor->engine, put->batch, i, frame))
			ts_bump(&put->tally->nr_evicted, 1);
		else
			put->batch->nr_cancelled++;
		ts_pageset_remove(&put->batch->owned, i);
	}
}

static void finish_item(struct put *put, unsigned n)
{
	struct ts_engine *engine = put->evictor->engine;
	struct ts_tier *tier = put->tier;
	uint32_t frame = (uint32_t)put->items[n].key;
	int status = put->items[n].status;
	unsigned nr_pages = (unsigned)__builtin_popcountll(put->groups[n].bits);

	/* Counted whether stored or not: the keeper counts down when it deletes the frame, and
	 * deletes also what the store refused, for a refused put may have left an older value. */
	ts_tier_count_frame(tier, 1, nr_pages);
	ts_tier_note_put(engine, tier, status);
	if (!status) {
		atomic_fetch_add(&tier->nr_admitted, 1);
		publish_group(put, &put->groups[n], frame);
	} else {
		put->is_over = true;
		if (status != TS_EFULL)
			ts_bump(&put->batch->region->counters.failures[TS_FAIL_PUT], 1);
	}
	ts_frames_unref(&engine->frames, frame);
}

static void flush(struct put *put)
{
	ts_mono_ns start_ns = ts_now_ns();

	if (!put->nr_items)
		return;
	int rc = ts_store_put(put->tier->store, put->items, put->nr_items);
	ts_hist_add(&put->evictor->stages->hist[TS_STAGE_PUT], ts_now_ns() - start_ns);
	TS_PHASE(TS_PHASE_PUT);
	for (unsigned n = 0; n < put->nr_items; n++) {
		if (rc < 0)
			put->items[n].status = rc;
		finish_item(put, n);
	}
	put->nr_items = 0;
	put->out_used = 0;
}

static int encode(struct put *put, const struct group *group, uint8_t *dst, size_t cap_bytes)
{
	struct ts_codec_setting setting = ts_tier_setting(put->tier);
	struct ts_frame_owner owner = {
		.region = put->batch->region->id,
		.base_page = put->batch->first_page + group->first,
		.page_bits = group->bits,
	};
	ts_mono_ns start_ns = ts_now_ns();
	const uint8_t *raw = contiguous(put, group);
	int len = setting.dict_id ?
		  ts_encode_with_gain(put->evictor->encoder, &setting, &owner, raw, dst, cap_bytes,
				      &put->tier->gain) :
		  ts_encode(put->evictor->encoder, &setting, &owner, raw, dst, cap_bytes);

	ts_hist_add(&put->evictor->stages->hist[TS_STAGE_ENCODE], ts_now_ns() - start_ns);
	return len;
}

static void add_group(struct put *put, const struct group *group)
{
	struct ts_engine *engine = put->evictor->engine;
	unsigned nr_pages = (unsigned)__builtin_popcountll(group->bits);
	size_t raw_bytes = (size_t)nr_pages << TS_PAGE_SHIFT;

	if (put->nr_items == TS_STORE_BATCH_MAX ||
	    put->out_used + raw_bytes + TS_FRAME_HEAD_BYTES > put->evictor->out_bytes)
		flush(put);
	if (put->is_over)
		return;
	uint8_t *dst = put->evictor->out + put->out_used;
	int len = encode(put, group, dst, put->evictor->out_bytes - put->out_used);
	if (len < 0 || (uint64_t)len * 100 > (uint64_t)(raw_bytes + TS_FRAME_HEAD_BYTES) *
					     put->tier->admit_ratio_pct)
		return;
	int64_t frame = ts_frames_alloc(&engine->frames, put->tier->index, nr_pages,
					atomic_load(&engine->tick));
	if (frame < 0) {
		put->is_over = true;
		return;
	}
	if (put->batch->region->share_weight)
		ts_frames_note_owner(&engine->frames, (uint32_t)frame, put->batch->region->slot,
				     (uint64_t)len);
	put->items[put->nr_items] = (struct ts_put){ .key = (uint64_t)frame, .data = dst,
						     .len_bytes = (uint32_t)len };
	put->groups[put->nr_items++] = *group;
	put->out_used += ((size_t)len + 7) & ~(size_t)7;
}

static void put_tier(struct put *put)
{
	unsigned range_pages = put->tier->range_pages;

	for (unsigned first = 0; first < TS_CHUNK_PAGES && !put->is_over; first += range_pages) {
		struct group group = { first, group_bits(&put->batch->owned, first, range_pages) };
		if (group.bits)
			add_group(put, &group);
	}
	flush(put);
}

void ts_evict_put(struct ts_evictor *evictor, struct ts_batch *batch, struct ts_evict_tally *tally)
{
	struct ts_engine *engine = evictor->engine;
	struct put put = { .evictor = evictor, .batch = batch, .tally = tally };

	for (unsigned t = 0; t < engine->nr_tiers; t++) {
		if (ts_pageset_next(&batch->owned, 0) == TS_CHUNK_PAGES)
			return;
		put.tier = &engine->tiers[t];
		put.is_over = false;
		if (ts_tier_admits(put.tier))
			put_tier(&put);
	}
}
