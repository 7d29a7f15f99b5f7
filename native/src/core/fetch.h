/* SPDX-License-Identifier: Apache-2.0
 *
 * fetch.h — frames out of the tiers' stores, for one thread: readers, buffers, decoder.
 *
 * Everything is allocated by init; start, reap and decode allocate nothing, log nothing and take no
 * lock of the control plane.
 */
#ifndef TS_CORE_FETCH_H
#define TS_CORE_FETCH_H

#include "core/engine.h"

struct ts_unit;

/* One read under way.  The fields from `around_bytes` on are the caller's. */
struct ts_fetch_slot {
	struct ts_get get;
	uint32_t frame;
	uint8_t tier, nr_tries;
	bool is_busy;
	bool is_decoded;              /* it is the frame in raw */
	uint32_t around_bytes;        /* to be read with it, for its mates; or 0 */
	struct ts_unit *unit;         /* a part of it (fault/unit.c); NULL: the page alone */
	struct ts_shard *shard;
	uint32_t page;
	uint32_t flags;
	ts_mono_ns start_ns, get_ns;
	ts_mono_ns got_ns;            /* 0: completed in the background */
};

struct ts_fetch {
	struct ts_engine *engine;
	struct ts_stages *stages;
	struct ts_reader *readers[TS_TIER_MAX];
	struct ts_decoder *decoder;
	unsigned depth, nr_busy;
	unsigned nr_busy_tier[TS_TIER_MAX];
	bool is_starved;              /* a shortage has outlasted all pauses */
	unsigned last_tier;           /* that was read from */
	unsigned reap_tier;           /* that is asked first by the next reap */
	struct ts_fetch_slot *slots;  /* [depth] */
	uint8_t *arena;               /* depth buffers, then the decoded pages */
	size_t buf_bytes, arena_bytes;
	uint8_t *raw;                 /* the last decoded frame */
	/* Which that is; 0: none.  Its id names it as long as no id has been freed since. */
	uint32_t raw_frame;
	uint64_t raw_nr_freed;
	struct ts_frame_head raw_head;
	ts_mono_ns raw_ns;            /* when it was decoded, or found to be */
	uint64_t decode_ns[TS_TIER_MAX]; /* what a frame takes lately; 0: not known */
};

int ts_fetch_init(struct ts_fetch *fetch, struct ts_engine *engine, unsigned depth);
/* No read may be under way.  Accepts a zeroed struct. */
void ts_fetch_finish(struct ts_fetch *fetch);

/* A free slot, or NULL: depth reads are under way. */
struct ts_fetch_slot *ts_fetch_acquire(struct ts_fetch *fetch);
void ts_fetch_release(struct ts_fetch *fetch, struct ts_fetch_slot *slot);

/* This frame is about to be read, unless all is different then: what must be looked up one after
 * the other for that is asked for at once. */
void ts_fetch_expect(struct ts_fetch *fetch, uint32_t frame);

/* Starts reading slot->frame from slot->tier.  0: complete, see slot->get.status; 1: reap reports
 * it. */
int ts_fetch_start(struct ts_fetch *fetch, struct ts_fetch_slot *slot);

/* Completed slots, at most slots_max; waits up to wait_ms for the first (0: not at all).  With
 * several tiers busy it does not wait: their descriptors are to be polled (ts_fetch_poll_fd). */
unsigned ts_fetch_reap(struct ts_fetch *fetch, struct ts_fetch_slot **slots, unsigned slots_max,
		       int wait_ms);
/* The descriptor of a tier's reader, or -1. */
int ts_fetch_poll_fd(struct ts_fetch *fetch, unsigned tier);

/* Starts and waits: for threads that have nothing else to do.  Returns slot->get.status. */
int ts_fetch_wait(struct ts_fetch *fetch, struct ts_fetch_slot *slot);

/* Is slot->frame, which can't go away now, the frame that was decoded last?  Then it needs no read,
 * and ts_fetch_decode() none either. */
bool ts_fetch_is_decoded(struct ts_fetch *fetch, struct ts_fetch_slot *slot);

/* Decodes what the slot has read into fetch->raw and checks that it is what the page's word
 * promised: the region's or its image's, and containing the page.  Returns the page's index in raw,
 * or TS_ECORRUPT. */
int ts_fetch_decode(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
		    const struct ts_region *region, uint32_t page, struct ts_frame_head *head_out);

/* Frames that the slot's read has brought along: at most mates_max, or TS_EUNSUPPORTED. */
int ts_fetch_mates(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
		   struct ts_store_mate *mates, unsigned mates_max);
/* ts_fetch_decode() of one of them, into the same fetch->raw. */
int ts_fetch_decode_mate(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
			 const struct ts_store_mate *mate, const struct ts_region *region,
			 uint32_t page);

#endif
