/* SPDX-License-Identifier: Apache-2.0
 *
 * mates.c — deciding about the pages of a block, and bringing them back (mates.h). */
#include "fault/mates.h"

#include "fault/install.h"

enum {
	MATES_MAX = 128,
	GROUP_SHIFT = 9,      /* 2 MiB: what leaves together, and shares blocks */
	CONTROL_SHIFT = 27,   /* a thirty-second of the hashes */
	SAMPLE_MATES = 128,   /* a decision's basis */
	WORTH_OF = 12,        /* one in so many */
	WELL_WORTH_OF = 5,    /* a wider read is */
	/* Wide reads of examples are in vain, and dear; once there were enough, one in so many
	 * keeps the answer true. */
	EXAMPLES_OF = 8,
};

static bool is_control(uint32_t page)
{
	return (page >> GROUP_SHIFT) * UINT32_C(0x9e3779b1) >> CONTROL_SHIFT == 0;
}

static void remember(struct ts_lately *lately, uint32_t page)
{
	atomic_store_explicit(&lately->pages[page % TS_LATELY_PAGES], page + 1,
			      memory_order_relaxed);
}

static bool is_remembered(struct ts_lately *lately, uint32_t page)
{
	return atomic_load_explicit(&lately->pages[page % TS_LATELY_PAGES],
				    memory_order_relaxed) == page + 1;
}

/* The page that the mate holds, if it is one of this region's, alone in its frame. */
static bool page_of(struct ts_region *region, const struct ts_fetch_slot *slot,
		    const struct ts_store_mate *mate, uint32_t *page_out)
{
	const uint8_t *frame = (const uint8_t *)slot->get.buf + mate->off_bytes;
	struct ts_frame_head head;

	if (ts_frame_parse(frame, mate->len_bytes, &head) || head.region != region->id ||
	    !head.page_bits || (head.page_bits & (head.page_bits - 1)))
		return false;
	*page_out = head.base_page + (uint32_t)__builtin_ctzll(head.page_bits);
	return *page_out < region->nr_pages;
}

/* How wide a read pays.  What is yet to be wanted is not among the hits: they are the least. */
static uint32_t worth_bytes(uint32_t nr_hits, uint32_t nr_mates)
{
	return nr_hits * WELL_WORTH_OF >= nr_mates ? TS_MATES_AROUND_MAX_BYTES :
	       nr_hits * WORTH_OF >= nr_mates ? TS_MATES_AROUND_BYTES : 0;
}

/* Would it have been wanted?  Only those count that this frame is the truth about: what is away in
 * it, and what has come back from it and is still there. */
static void learn(struct ts_region *region, uint32_t page, uint32_t frame)
{
	struct ts_lately *lately = region->lately;
	ts_word word = ts_word_load(&region->words[page]);
	bool is_back = ts_word_is(word, TS_RESIDENT) && (word & TS_WORD_KEPT);

	if ((!is_back && !ts_word_is(word, TS_AWAY)) || ts_word_payload(word) != frame)
		return;
	if (is_back && is_remembered(lately, page))
		atomic_fetch_add_explicit(&lately->nr_hits, 1, memory_order_relaxed);
	if (atomic_fetch_add_explicit(&lately->nr_mates, 1, memory_order_relaxed) + 1 <
	    SAMPLE_MATES)
		return;
	/* Of two threads that come here at once one decides by too few. */
	uint32_t nr_mates = atomic_exchange(&lately->nr_mates, 0);
	uint32_t nr_hits = atomic_exchange(&lately->nr_hits, 0);
	if (nr_mates >= SAMPLE_MATES)
		atomic_store_explicit(&lately->around_bytes, worth_bytes(nr_hits, nr_mates),
				      memory_order_relaxed);
}

/* The frame's id named what the buffer holds when the store said so, and names it still if no id
 * has been freed since and the page, which is ours now, names it. */
static void bring(struct ts_serve_ctx *ctx, const struct ts_fetch_slot *slot,
		  const struct ts_store_mate *mate, uint32_t page, uint64_t nr_freed)
{
	struct ts_region *region = slot->shard->region;
	uint32_t frame = (uint32_t)mate->key;

	if (!ts_install_claim(region, page, frame))
		return;
	int idx = atomic_load(&ctx->engine->frames.nr_freed) == nr_freed ?
		  ts_fetch_decode_mate(&ctx->fetch, slot, mate, region, page) : TS_ECORRUPT;
	if (idx >= 0) {
		ts_install_neighbour(ctx->engine, region, page, frame, slot->tier,
				     ctx->fetch.raw + ((size_t)idx << TS_PAGE_SHIFT));
		return;
	}
	/* If it is really corrupt its own fault will find out, and say so. */
	ts_install_retreat(ctx->engine, region, page, frame, slot->tier);
	ts_install_wake(ts_region_shard(region, page), page);
}

static uint32_t around_bytes(const struct ts_region *region)
{
	return atomic_load_explicit(&region->lately->around_bytes, memory_order_relaxed);
}

static bool may_have_mates(const struct ts_fetch_slot *slot)
{
	return slot->shard->region->restore == TS_RESTORE_AUTO &&
	       !(slot->flags & TS_SERVE_PREFETCH);
}

static uint32_t plan_example(struct ts_region *region)
{
	uint32_t nr_before = atomic_fetch_add_explicit(&region->lately->nr_examples, 1,
						       memory_order_relaxed);

	return !around_bytes(region) || nr_before % EXAMPLES_OF == 0 ? TS_MATES_EXAMPLE_BYTES : 0;
}

void ts_mates_plan(struct ts_fetch_slot *slot)
{
	struct ts_region *region = slot->shard->region;

	slot->around_bytes = 0;
	if (may_have_mates(slot) && region->engine->tiers[slot->tier].range_pages == 1)
		slot->around_bytes = is_control(slot->page) ? plan_example(region) :
				     around_bytes(region);
}

void ts_mates_serve(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_region *region = slot->shard->region;
	struct ts_store_mate mates[MATES_MAX];
	uint64_t nr_freed = atomic_load(&ctx->engine->frames.nr_freed);
	bool is_example = is_control(slot->page);

	if (!may_have_mates(slot) || (!is_example && !around_bytes(region)))
		return;
	int nr_mates = ts_fetch_mates(&ctx->fetch, slot, mates, MATES_MAX);
	for (int i = 0; i < nr_mates; i++) {
		uint32_t page;
		if (!page_of(region, slot, &mates[i], &page))
			continue;
		if (is_example && is_control(page))
			learn(region, page, (uint32_t)mates[i].key);
		else if (!is_example && !is_control(page))
			bring(ctx, slot, &mates[i], page, nr_freed);
	}
	if (is_example && nr_mates >= 0)
		remember(region->lately, slot->page);
}
