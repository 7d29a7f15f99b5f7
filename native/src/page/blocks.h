/* SPDX-License-Identifier: Apache-2.0
 *
 * blocks.h — what was read last time from each 64 words of a region, so that nobody reads them
 * again before one has changed.
 *
 * Scan and deactivate go over all pages, and in a large region the words alone are more than a
 * cache holds; most have not changed since the last scan.  Each word has a counter of its changes
 * (word.h:ts_word_counter()).  Who has read a block of words writes down what he found with the
 * counter as it was before he read: as long as it stands there, that holds.  A change that is under
 * way, its word swapped and not yet counted, is one that could as well come later.
 *
 * `resident` belongs to one scan at a time, which has taken it (ts_blocks_take()); `seen` may be
 * read by anybody, for it is one load. */
#ifndef TS_PAGE_BLOCKS_H
#define TS_PAGE_BLOCKS_H

#include "page/word.h"

struct ts_blocks {
	_Atomic uint64_t *seen;  /* the counter, shifted, and the flags below */
	uint64_t *resident;      /* bit i: page i of the block is RESIDENT */
	uint32_t nr_blocks;
	atomic_bool is_taken;
};

enum {
	TS_BLOCK_KNOWN = 1,
	/* No page is GONE, none in somebody's hands: all are RESIDENT, or AWAY or ZERO and not
	 * RELEASING. */
	TS_BLOCK_PLAIN = 2,
	TS_BLOCK_SHIFT = 2,
};

/* For pages of which the first has its word on an address that is a block's, too. */
int ts_blocks_init(struct ts_blocks *blocks, uint32_t nr_pages);
void ts_blocks_finish(struct ts_blocks *blocks);
uint64_t ts_blocks_bytes(const struct ts_blocks *blocks);

/* False: somebody else has it. */
static inline bool ts_blocks_take(struct ts_blocks *blocks)
{
	return !atomic_exchange_explicit(&blocks->is_taken, true, memory_order_acquire);
}

static inline void ts_blocks_give(struct ts_blocks *blocks)
{
	atomic_store_explicit(&blocks->is_taken, false, memory_order_release);
}

/* To be taken before the words are read. */
static inline uint64_t ts_block_stamp(const ts_word_slot *words)
{
	return atomic_load_explicit(ts_word_counter(words), memory_order_acquire)
	       << TS_BLOCK_SHIFT;
}

/* The flags of what is known of a block whose stamp is this; 0: nothing. */
static inline unsigned ts_block_flags(const struct ts_blocks *blocks, uint32_t block,
				      uint64_t stamp)
{
	uint64_t seen = atomic_load_explicit(&blocks->seen[block], memory_order_relaxed) ^ stamp;

	return seen >> TS_BLOCK_SHIFT ? 0 : (unsigned)seen;
}

#endif
