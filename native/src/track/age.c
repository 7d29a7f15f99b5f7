/* SPDX-License-Identifier: Apache-2.0
 *
 * age.c — a scan's result for each page (age.h).
 *
 * A scan asks the kernel for 4 to 5 ns a page, so what is done here for each page counts: 64 pages
 * at a time where the CPU has AVX2 (block.h), else four, their heat in one 64-bit load, as long as
 * they are what nearly all are: resident, or not touched.  The rest one by one.  Each of these
 * accesses is as relaxed and racy as heat.h says; the words are only looked at, and only where one
 * of 64 has changed since the last scan (page/blocks.h).
 */
#include "track/age.h"

#include "track/block.h"

enum {
	LANES = 4,   /* pages whose heat fits 64 bits */
	BLOCK = TS_WORD_BLOCK,  /* pages of one word of a bitmap */
};

static_assert(sizeof(ts_heat) * LANES == 8 && sizeof(ts_word_slot) * 2 == 8, "lanes of 64 bits");
static_assert(TS_RESIDENT == 0, "a resident page's word has no bit of state");

/* All bits of lane i where bit i is set. */
#define LANE(i) (UINT64_C(0xffff) << 16 * (i))
#define LANES_OF(bits) (((bits) & 1 ? LANE(0) : 0) | ((bits) & 2 ? LANE(1) : 0) | \
			((bits) & 4 ? LANE(2) : 0) | ((bits) & 8 ? LANE(3) : 0))
static const uint64_t lane_mask[16] = {
	LANES_OF(0), LANES_OF(1), LANES_OF(2), LANES_OF(3), LANES_OF(4), LANES_OF(5),
	LANES_OF(6), LANES_OF(7), LANES_OF(8), LANES_OF(9), LANES_OF(10), LANES_OF(11),
	LANES_OF(12), LANES_OF(13), LANES_OF(14), LANES_OF(15),
};

#define EACH_LANE(value) (UINT64_C(0x0001000100010001) * (value))

static void count_page(struct ts_ages *ages, uint16_t heat, bool is_touched)
{
	if (ts_heat_guard(heat)) {
		ages->nr_guarded++;
		ages->nr_guarded_touched += is_touched;
	} else {
		ages->nr[0][ts_heat_age(heat)]++;
	}
}

/* A page that was given up may be there until it is zapped: not within the guard's scans. */
static bool still_guarded(ts_heat *heat)
{
	uint16_t before = ts_heat_load(heat);

	ts_heat_store(heat, ts_heat_scanned(before, true));
	return ts_heat_guard(before) > 0;
}

static void age_page(struct ts_region *region, uint32_t page, bool is_touched,
		     struct ts_ages *ages)
{
	ts_word word = ts_word_load(&region->words[page]);

	/* Shared memory can be populated behind our back, through another mapping or by a write to
	 * the descriptor: what we took for a hole is a page.  (The fault server finds the other
	 * way round, a hole we take for a page, and hugetlb pages, which come whole.) */
	if (is_touched && region->unit_pages == 1 && word == ts_word_make(TS_ZERO, 0, 0) &&
	    !still_guarded(&region->heat[page]) &&
	    ts_word_swap(&region->words[page], &word, ts_word_make(TS_RESIDENT, 0, 0)))
		word = ts_word_make(TS_RESIDENT, 0, 0);
	if (!ts_word_is(word, TS_RESIDENT))
		return;
	uint16_t heat = ts_heat_scanned(ts_heat_load(&region->heat[page]), is_touched);
	ts_heat_store(&region->heat[page], heat);
	count_page(ages, heat, is_touched);
}

/* Which of the 64 pages are resident. */
static uint64_t read_resident(struct ts_region *region, uint32_t page, bool *is_plain_out)
{
	uint64_t resident = 0, flags = 0;

	if (TS_BLOCK_HAS_AVX2())
		return ts_block_resident_avx2(region, page, is_plain_out);
	for (unsigned i = 0; i < BLOCK; i++) {
		ts_word word = atomic_load_explicit(&region->words[page + i],
						    memory_order_relaxed);
		bool is_resident = ts_word_is(word, TS_RESIDENT);

		resident |= (uint64_t)is_resident << i;
		flags |= is_resident ? 0 : word;
	}
	*is_plain_out = !(flags & (1 | TS_WORD_RELEASING));
	return resident;
}

/* The same, from what the last scan has written down if none of the words has changed. */
static uint64_t resident_pages(struct ts_region *region, uint32_t page,
			       const struct ts_ages *ages)
{
	struct ts_blocks *blocks = &region->blocks;
	uint64_t stamp = ts_block_stamp(&region->words[page]);
	uint32_t block = page / BLOCK;
	bool is_plain;

	if (!ages->has_blocks || page % BLOCK)
		return read_resident(region, page, &is_plain);
	if (ts_block_flags(blocks, block, stamp))
		return blocks->resident[block];
	blocks->resident[block] = read_resident(region, page, &is_plain);
	atomic_store_explicit(&blocks->seen[block],
			      stamp | TS_BLOCK_KNOWN | (is_plain ? TS_BLOCK_PLAIN : 0),
			      memory_order_relaxed);
	return blocks->resident[block];
}

/* Four pages, of which `resident` are that; false if some are guarded. */
static inline bool age_lanes(struct ts_region *region, uint32_t page, unsigned resident,
			     unsigned touched, struct ts_ages *ages)
{
	_Atomic uint64_t *slot = (_Atomic uint64_t *)(void *)&region->heat[page];
	uint64_t lanes = lane_mask[resident];
	uint64_t heat = atomic_load_explicit(slot, memory_order_relaxed);

	if (heat & lanes & EACH_LANE(0x0f00))
		return false;
	/* Ages one more, and back to 255 where that carries into the next bit. */
	uint64_t age = (heat & EACH_LANE(0x00ff)) + EACH_LANE(1);
	age = (age - (age >> 8 & EACH_LANE(1))) & ~lane_mask[touched];
	uint64_t to = (heat & ~lanes) | (heat & EACH_LANE(0xf000) & lanes) | (age & lanes);
	atomic_store_explicit(slot, to, memory_order_relaxed);
	for (unsigned i = 0; i < LANES; i++)
		ages->nr[i][age >> 16 * i & 0xff] += resident >> i & 1;
	return true;
}

/* Four pages of any kind. */
static void age_group(struct ts_region *region, uint32_t page, unsigned resident,
		      unsigned touched, struct ts_ages *ages)
{
	if (!(touched | resident) ||
	    (!(touched & ~resident) && age_lanes(region, page, resident, touched, ages)))
		return;
	for (unsigned i = 0; i < LANES; i++)
		age_page(region, page + i, touched >> i & 1, ages);
}

static void age_block(struct ts_region *region, uint32_t page, uint64_t touched,
		      struct ts_ages *ages)
{
	uint64_t resident = resident_pages(region, page, ages);

	if (TS_BLOCK_HAS_AVX2() && ts_block_age_avx2(region, page, resident, touched, ages))
		return;
	for (unsigned i = 0; i < BLOCK; i += LANES, touched >>= LANES, resident >>= LANES)
		age_group(region, page + i, resident & 15, touched & 15, ages);
}

void ts_age_pages(struct ts_region *region, uint32_t first_page, uint32_t nr_pages,
		  const uint64_t *touched, struct ts_ages *ages)
{
	bool is_aligned = first_page % LANES == 0 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
	uint32_t i = 0;

	for (; is_aligned && nr_pages - i >= BLOCK; i += BLOCK)
		age_block(region, first_page + i, touched[i / BLOCK], ages);
	for (; i < nr_pages; i++)
		age_page(region, first_page + i, touched[i / 64] >> i % 64 & 1, ages);
}

void ts_ages_report(const struct ts_ages *ages, struct ts_scan_result *result)
{
	for (unsigned age = 0; age < 256; age++)
		for (unsigned i = 0; i < LANES; i++) {
			result->nr_by_age[TS_MIN(age, 63u)] += ages->nr[i][age];
			result->nr_resident += ages->nr[i][age];
			/* A scan leaves nobody but the touched at 0. */
			result->nr_touched += age ? 0 : ages->nr[i][age];
		}
	result->nr_resident += ages->nr_guarded;
	result->nr_guarded += ages->nr_guarded;
	result->nr_touched += ages->nr_guarded_touched;
	result->nr_by_age[0] += ages->nr_guarded;
	result->nr_cold = result->nr_resident - result->nr_touched;
}
