/* SPDX-License-Identifier: Apache-2.0
 *
 * word.h — a page's state, one 32-bit word each, and the edges between states.
 *
 * Evictor, fault server and control plane meet only here, by compare-and-swap on the word.  Whoever
 * wins the swap into LEAVING or COMING owns the page until it swaps it out again; the only thing
 * others may do to an owned page is told by the flags below.
 *
 *   bits 0..2   state
 *   bit  3      flag A, meaning by state
 *   bit  4      flag B, meaning by state
 *   bits 5..31  payload, meaning by state
 *
 *   state     payload           flag A                        flag B
 *   RESIDENT  kept frame if A   KEPT: payload's frame still   -
 *                               holds a copy (maybe outdated)
 *   LEAVING   staging slot      -                             -
 *   AWAY      frame id          RELEASING: the evictor has    -
 *                               not finished giving back RAM
 *   COMING    what it was       STAGED: payload is a slot     REMOVED: the guest gave the page up
 *             (see below)                                     meanwhile; install zeros
 *   ZERO      fill index        RELEASING                     -
 *             (0: zeros)
 *   GONE      -                 -                             -
 *
 * COMING's payload says what the page is if its owner dies (engine/state.c): a frame id: AWAY in
 * that frame, unless it has been installed; TS_COMING_FILL + a fill: ZERO with that fill, unless
 * installed; 0, or a slot: the guest's memory holds it, or it is a hole.
 *
 *          claim                publish             fault                  install
 * RESIDENT ─────> LEAVING ────────────────> AWAY ───────────> COMING ───────────────> RESIDENT
 *                  │ │ └─ (all one value) ─> ZERO ──────────>   │
 *                  │ └── fault cancels ───────────────────────> │ (STAGED)
 *                  └──── evictor gives up ──────────────────────────────────────────> RESIDENT
 * any ── unmapped, poisoned ──> GONE        any ── removed (balloon) ──> ZERO
 */
#ifndef TS_PAGE_WORD_H
#define TS_PAGE_WORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/base.h"
#include "util/limits.h"

enum ts_state {
	TS_RESIDENT = 0,
	TS_LEAVING = 1,
	TS_AWAY = 2,
	TS_COMING = 3,
	TS_ZERO = 4,
	TS_GONE = 5,
	TS_STATE_COUNT = 6,
};

enum {
	TS_WORD_KEPT = 1 << 3,      /* RESIDENT */
	TS_WORD_RELEASING = 1 << 3, /* AWAY, ZERO */
	TS_WORD_STAGED = 1 << 3,    /* COMING */
	TS_WORD_REMOVED = 1 << 4,   /* COMING */
	TS_WORD_PAYLOAD_SHIFT = 5,
};

typedef uint32_t ts_word;
typedef _Atomic uint32_t ts_word_slot;

static inline enum ts_state ts_word_state(ts_word word)
{
	return (enum ts_state)(word & 7);
}

static inline uint32_t ts_word_payload(ts_word word)
{
	return word >> TS_WORD_PAYLOAD_SHIFT;
}

static inline ts_word ts_word_make(enum ts_state state, uint32_t flags, uint32_t payload)
{
	return (ts_word)state | flags | payload << TS_WORD_PAYLOAD_SHIFT;
}

static inline bool ts_word_is(ts_word word, enum ts_state state)
{
	return ts_word_state(word) == state;
}

static inline ts_word ts_word_load(ts_word_slot *slot)
{
	return atomic_load_explicit(slot, memory_order_acquire);
}

/* Legal edges: bit `to` of row `from`.  Also the source of the drawing in ARCHITECTURE.md. */
#define TS_TO(state) (1u << TS_##state)
static const uint8_t ts_word_edges[TS_STATE_COUNT] = {
	[TS_RESIDENT] =
		TS_TO(RESIDENT) | TS_TO(LEAVING) | TS_TO(COMING) | TS_TO(ZERO) | TS_TO(GONE),
	[TS_LEAVING] = TS_TO(RESIDENT) | TS_TO(AWAY) | TS_TO(COMING) | TS_TO(ZERO) | TS_TO(GONE),
	[TS_AWAY] = TS_TO(AWAY) | TS_TO(COMING) | TS_TO(ZERO) | TS_TO(GONE),
	[TS_COMING] = TS_TO(COMING) | TS_TO(RESIDENT) | TS_TO(LEAVING) | TS_TO(AWAY) | TS_TO(ZERO) |
		      TS_TO(GONE),
	[TS_ZERO] = TS_TO(ZERO) | TS_TO(COMING) | TS_TO(RESIDENT) | TS_TO(GONE),
	[TS_GONE] = TS_TO(GONE),
};

static inline bool ts_word_edge_is_legal(ts_word from, ts_word to)
{
	return ts_word_edges[ts_word_state(from)] & (1u << ts_word_state(to));
}

/* How often the 64 words in a row that this is one of have changed, for who remembers what he read
 * (blocks.h).  Found by the address, since those who change words do not know their region; words
 * of regions that have more than 16 GiB together may share a counter, and are read once too often.
 * The counters of 512 pages fill a cache line, so that evict threads at neighbouring chunks do not
 * share one. */
enum { TS_WORD_BLOCK = 64, TS_WORD_COUNTERS = 1 << 16 };
extern _Atomic uint64_t ts_word_counters[TS_WORD_COUNTERS];

static inline _Atomic uint64_t *ts_word_counter(const ts_word_slot *slot)
{
	return &ts_word_counters[(uintptr_t)slot / (TS_WORD_BLOCK * sizeof(*slot)) %
				 TS_WORD_COUNTERS];
}

/* Counted once it has happened: who reads the counter first can't miss it for good. */
static inline void ts_word_count(const ts_word_slot *slot)
{
	atomic_fetch_add_explicit(ts_word_counter(slot), 1, memory_order_release);
}

/* The only way a word changes.  On failure *expected holds what is there now. */
static inline bool ts_word_swap(ts_word_slot *slot, ts_word *expected, ts_word desired)
{
	TS_ASSERT(ts_word_edge_is_legal(*expected, desired));
	if (!atomic_compare_exchange_strong_explicit(slot, expected, desired,
						     memory_order_acq_rel, memory_order_acquire))
		return false;
	ts_word_count(slot);
	return true;
}

/* The end of COMING, by its owner: nobody else may have changed the word, except to set REMOVED.
 * A page that was removed meanwhile becomes ZERO instead of RESIDENT: what is installed there may
 * yet be zapped, and must not be evicted before.  Returns the word as it was; if it says REMOVED, a
 * frame that `desired` was to keep is the caller's to drop.
 * Sequentially consistent: see nr_ignored (region.h). */
static inline ts_word ts_word_finish(ts_word_slot *slot, ts_word desired)
{
	ts_word before = ts_word_load(slot), to;

	do {
		TS_ASSERT(ts_word_is(before, TS_COMING));
		to = desired;
		if ((before & TS_WORD_REMOVED) &&
		    (ts_word_is(to, TS_RESIDENT) || ts_word_is(to, TS_ZERO)))
			to = ts_word_make(TS_ZERO, 0, 0);
	} while (!atomic_compare_exchange_weak(slot, &before, to));
	ts_word_count(slot);
	return before;
}

#endif
