/* SPDX-License-Identifier: Apache-2.0
 *
 * frames.h — the table of frames: 32 bits each, and one bit of the allocation map.
 *
 *   bits 0..3    tier
 *   bits 4..11   refs: pages whose word names the frame, plus temporary references
 *   bits 12..18  pages the frame was made of (1..64); 0: the keeper is deleting it
 *   bits 19..30  birth, in ticks (engine clock, modulo 4096)
 *   bit  31      in use
 *
 * A frame never changes tier or contents.  A reference is held by each page word that names it
 * (AWAY, COMING, RESIDENT|KEPT) and by whoever reads it without such a word.  Frames of an image
 * (engine/image.h) have 255: they are pinned, references to them are not counted.
 * The thread that drops the last one hands the id to the dead list; the keeper deletes the frame
 * from its store and only then frees the id, so an id is never reused while its old bytes can still
 * be read.
 */
#ifndef TS_PAGE_FRAMES_H
#define TS_PAGE_FRAMES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <tierstore/tierstore.h>

#include "os/mapfile.h"
#include "util/limits.h"

/* Of a frame that a region's pages made (an image's are nobody's). */
struct ts_holding {
	_Atomic uint8_t owner;   /* the region's slot + 1; 0: nobody's, or not known */
	_Atomic uint8_t length;  /* in 1/255 of its pages' own bytes */
};

struct ts_frames {
	_Atomic uint32_t *entries;
	const struct ts_mapfile *map; /* where the entries lie, if they outlive the process */
	uint32_t id_reserved;        /* map: ids below have room in it; guarded by lock */
	uint64_t *used_map;          /* one bit an id; guarded by lock */
	uint32_t nr_ids;             /* ids are 1 .. nr_ids - 1; 0 is never used */
	uint32_t hand;               /* where the next search starts; guarded by lock */
	_Atomic uint32_t id_end; /* no id >= this was ever used: the keeper's sweeps stop there */
	_Atomic uint32_t nr_used;
	/* Ids that were freed, ever: while it stands still an id names the frame that it named. */
	_Atomic uint64_t nr_freed;
	/* By tier: pages whose words name one of its frames, KEPT aside. */
	_Atomic uint64_t nr_pages[TS_TIER_MAX];
	/* Whose each frame is, and how long it is stored: two bytes a frame, and their sums.  Of
	 * regions that have shares; where there are none the table is never written to. */
	struct ts_holding *holdings;  /* [nr_ids] */
	atomic_bool has_holdings;
	_Atomic int64_t held_bytes[TS_REGION_MAX][TS_TIER_MAX];
	pthread_mutex_t lock;        /* Guards used_map, hand.  Evictors and keeper; innermost. */

	/* Dead frames on their way to the keeper: a bounded ring that any thread may push to.
	 * When it is full nothing is lost: the frame stays in the table with refs == 0,
	 * is_overflown is set, and the keeper sweeps the table. */
	_Atomic uint32_t *dead_ring;
	_Atomic uint64_t dead_head, dead_tail;
	atomic_bool is_overflown;
};

enum { TS_DEAD_RING_LEN = 1 << 16 };

/* map: NULL, or a file of ts_frames_map_bytes() whose entries are taken over as they are. */
int ts_frames_init(struct ts_frames *frames, uint32_t nr_ids, const struct ts_mapfile *map);
static inline size_t ts_frames_map_bytes(uint32_t nr_ids)
{
	return (size_t)nr_ids * sizeof(uint32_t);
}
void ts_frames_finish(struct ts_frames *frames);

/* A new frame with one reference.  Its id, or TS_ELIMIT. */
int64_t ts_frames_alloc(struct ts_frames *frames, unsigned tier, unsigned nr_pages, uint32_t tick);
/* Says whose a frame is that nobody else knows yet, and how long; its bytes are its region's until
 * it is freed. */
void ts_frames_note_owner(struct ts_frames *frames, uint32_t id, unsigned slot, uint64_t len_bytes);
/* The slot of the region whose frame it is; TS_REGION_MAX: not known. */
unsigned ts_frames_owner(struct ts_frames *frames, uint32_t id);
/* What a region's frames take in a tier, to a hundredth, without the store's overhead. */
static inline uint64_t ts_frames_held_bytes(struct ts_frames *frames, unsigned slot, unsigned tier)
{
	int64_t held_bytes = atomic_load_explicit(&frames->held_bytes[slot][tier],
						  memory_order_relaxed);

	return held_bytes > 0 ? (uint64_t)held_bytes : 0;
}

/* Takes a reference; the caller holds one, or the page word that names it can't change. */
void ts_frames_ref(struct ts_frames *frames, uint32_t id);
/* Takes a reference unless the frame is dead, free, or not of this tier. */
bool ts_frames_try_ref(struct ts_frames *frames, uint32_t id, unsigned tier);
/* Any thread, also on the fault path. */
void ts_frames_unref(struct ts_frames *frames, uint32_t id);

bool ts_frames_is_pinned(struct ts_frames *frames, uint32_t id);
/* From now on references are not counted, and the frame lives until it is unpinned: the caller
 * holds its only reference; nobody holds one then. */
void ts_frames_pin(struct ts_frames *frames, uint32_t id);
void ts_frames_unpin(struct ts_frames *frames, uint32_t id);

/* A dead frame and what its entry was. */
struct ts_dead_frame {
	uint32_t id, entry;
};
/* The same for a page that is away in the frame, which is counted as well: its word is about to
 * name the frame; names it no more; is RESIDENT again, and the frame only keeps a copy (the
 * reference stays).  Any thread, also on the fault path. */
void ts_frames_add_page(struct ts_frames *frames, uint32_t id);
void ts_frames_drop_page(struct ts_frames *frames, uint32_t id);
void ts_frames_keep_page(struct ts_frames *frames, uint32_t id);

/* Takes up to dead_max dead frames off the list.  Keeper only. */
unsigned ts_frames_take_dead(struct ts_frames *frames, struct ts_dead_frame *dead,
			     unsigned dead_max);
/* Keeper only: the store has deleted it (or never had it). */
void ts_frames_free(struct ts_frames *frames, const struct ts_dead_frame *dead);

static inline uint32_t ts_frames_load(struct ts_frames *frames, uint32_t id)
{
	return atomic_load_explicit(&frames->entries[id], memory_order_acquire);
}
static inline unsigned ts_frame_tier(uint32_t entry) { return entry & 15; }
static inline unsigned ts_frame_refs(uint32_t entry) { return entry >> 4 & 255; }
static inline unsigned ts_frame_nr_pages(uint32_t entry) { return entry >> 12 & 127; }
static inline unsigned ts_frame_birth(uint32_t entry) { return entry >> 19 & 4095; }
static inline bool ts_frame_is_used(uint32_t entry) { return entry >> 31; }
/* Ticks since birth, at most 4095. */
static inline unsigned ts_frame_age(uint32_t entry, uint32_t tick)
{
	return (tick - ts_frame_birth(entry)) & 4095;
}

/* ---- Entries of a process that died (engine/state.c), before anybody else uses the table ---- */

/* Forgets all references: those that the process held for a while went with it. */
void ts_frames_recount_begin(struct ts_frames *frames);
/* A page's word names the frame.  False: there is no such frame, or no such tier. */
bool ts_frames_recount_page(struct ts_frames *frames, uint32_t id, unsigned nr_tiers);
/* An image's word names the frame. */
bool ts_frames_recount_pinned(struct ts_frames *frames, uint32_t id, unsigned nr_tiers);
/* Frames that no word names are free.  Calls fn for the others. */
void ts_frames_recount_end(struct ts_frames *frames,
			   void (*fn)(void *user, uint32_t id, uint32_t entry), void *user);

/* RAM that the table occupies, touched parts only. */
uint64_t ts_frames_bytes(struct ts_frames *frames);

#endif
