/* SPDX-License-Identifier: Apache-2.0
 * frames.c — the table of frames (frames.h). */
#include "page/frames.h"

#include <errno.h>

#include "os/sys.h"
#include "util/base.h"

enum {
	REF_ONE = 1 << 4,
	REFS_PINNED = 255,
	RESERVE_IDS = 1 << 16,  /* a mapped table gets room for so many at a time */
};

static size_t entries_bytes(const struct ts_frames *frames)
{
	return (size_t)frames->nr_ids * sizeof(uint32_t);
}

static size_t holdings_bytes(const struct ts_frames *frames)
{
	return (size_t)frames->nr_ids * sizeof(struct ts_holding);
}

static size_t map_bytes(const struct ts_frames *frames)
{
	return ((size_t)frames->nr_ids + 63) / 64 * 8;
}

int ts_frames_init(struct ts_frames *frames, uint32_t nr_ids, const struct ts_mapfile *map)
{
	*frames = (struct ts_frames){ .nr_ids = nr_ids, .hand = 1, .map = map };
	TS_ASSERT(nr_ids > 1 && nr_ids <= (uint32_t)TS_FRAME_ID_MAX + 1);
	frames->entries = map ? map->base : ts_sys_alloc_pages(entries_bytes(frames));
	frames->used_map = ts_sys_alloc_pages(map_bytes(frames));
	frames->holdings = ts_sys_alloc_pages(holdings_bytes(frames));
	frames->dead_ring = ts_sys_alloc_pages(TS_DEAD_RING_LEN * sizeof(uint32_t));
	pthread_mutex_init(&frames->lock, NULL);
	atomic_store(&frames->id_end, 1);
	if (!frames->entries || !frames->used_map || !frames->holdings || !frames->dead_ring) {
		ts_frames_finish(frames);
		return -ENOMEM;
	}
	return 0;
}

void ts_frames_finish(struct ts_frames *frames)
{
	if (!frames->nr_ids)
		return;
	if (!frames->map)
		ts_sys_free_pages((void *)frames->entries, entries_bytes(frames));
	ts_sys_free_pages(frames->used_map, map_bytes(frames));
	ts_sys_free_pages(frames->holdings, holdings_bytes(frames));
	ts_sys_free_pages((void *)frames->dead_ring, TS_DEAD_RING_LEN * sizeof(uint32_t));
	pthread_mutex_destroy(&frames->lock);
	*frames = (struct ts_frames){ 0 };
}

/* The lowest free id at or after `from`, below `to`; 0 if there is none. */
static uint32_t find_free(const struct ts_frames *frames, uint32_t from, uint32_t to)
{
	for (uint32_t id = from; id < to;) {
		uint64_t free_bits = ~frames->used_map[id / 64] >> (id % 64);
		if (free_bits) {
			id += (uint32_t)__builtin_ctzll(free_bits);
			return id < to ? id : 0;
		}
		id = (id / 64 + 1) * 64;
	}
	return 0;
}

/* Room in the file for the entry, or false: a page that the file system can't give is a SIGBUS. */
static bool reserve(struct ts_frames *frames, uint32_t id)
{
	if (!frames->map || id < frames->id_reserved)
		return true;
	uint32_t first = id / RESERVE_IDS * RESERVE_IDS;
	uint32_t nr_ids = TS_MIN(frames->nr_ids - first, (uint32_t)RESERVE_IDS);
	if (ts_mapfile_reserve(frames->map, first * sizeof(uint32_t), nr_ids * sizeof(uint32_t)))
		return false;
	frames->id_reserved = first + nr_ids;
	return true;
}

int64_t ts_frames_alloc(struct ts_frames *frames, unsigned tier, unsigned nr_pages, uint32_t tick)
{
	TS_ASSERT(tier < TS_TIER_MAX && nr_pages >= 1 && nr_pages <= TS_FRAME_PAGES_MAX);
	TS_SCOPED_LOCK(&frames->lock);
	/* Low ids first keeps the table, and the stores' indexes, dense. */
	uint32_t id = find_free(frames, frames->hand, frames->nr_ids);
	if (!id)
		id = find_free(frames, 1, frames->hand);
	if (!id || !reserve(frames, id))
		return TS_ELIMIT;
	frames->used_map[id / 64] |= UINT64_C(1) << (id % 64);
	frames->hand = id + 1 < frames->nr_ids ? id + 1 : 1;
	uint32_t entry = tier | REF_ONE | nr_pages << 12 | (tick & 4095) << 19 | 1u << 31;
	atomic_store_explicit(&frames->entries[id], entry, memory_order_release);
	if (id >= atomic_load(&frames->id_end))
		atomic_store(&frames->id_end, id + 1);
	atomic_fetch_add(&frames->nr_used, 1);
	return id;
}

/* The same for noting and forgetting, so that sums return to zero. */
static int64_t length_bytes(unsigned length, uint32_t entry)
{
	return (int64_t)length * (ts_frame_nr_pages(entry) << TS_PAGE_SHIFT) / UINT8_MAX;
}

void ts_frames_note_owner(struct ts_frames *frames, uint32_t id, unsigned slot, uint64_t len_bytes)
{
	uint32_t entry = ts_frames_load(frames, id);
	uint64_t raw_bytes = (uint64_t)ts_frame_nr_pages(entry) << TS_PAGE_SHIFT;
	uint64_t length = (len_bytes * UINT8_MAX + raw_bytes / 2) / raw_bytes;
	struct ts_holding *holding = &frames->holdings[id];

	TS_ASSERT(slot < TS_REGION_MAX && ts_frame_is_used(entry) && !atomic_load(&holding->owner));
	length = TS_MIN(length, (uint64_t)UINT8_MAX);
	atomic_store_explicit(&frames->has_holdings, true, memory_order_relaxed);
	atomic_store(&holding->length, (uint8_t)length);
	atomic_store(&holding->owner, (uint8_t)(slot + 1));
	atomic_fetch_add(&frames->held_bytes[slot][ts_frame_tier(entry)],
			 length_bytes((unsigned)length, entry));
}

unsigned ts_frames_owner(struct ts_frames *frames, uint32_t id)
{
	bool has_holdings = atomic_load_explicit(&frames->has_holdings, memory_order_relaxed);
	unsigned owner = has_holdings ? atomic_load_explicit(&frames->holdings[id].owner,
							     memory_order_relaxed) : 0;

	return owner ? owner - 1 : TS_REGION_MAX;
}

static void forget_owner(struct ts_frames *frames, const struct ts_dead_frame *dead)
{
	struct ts_holding *holding = &frames->holdings[dead->id];

	/* The table takes no memory where nothing is written to it. */
	if (!atomic_load_explicit(&frames->has_holdings, memory_order_relaxed))
		return;
	unsigned owner = atomic_exchange(&holding->owner, 0);
	if (owner)
		atomic_fetch_sub(&frames->held_bytes[owner - 1][ts_frame_tier(dead->entry)],
				 length_bytes(atomic_load(&holding->length), dead->entry));
}

void ts_frames_free(struct ts_frames *frames, const struct ts_dead_frame *dead)
{
	uint32_t id = dead->id;

	forget_owner(frames, dead);
	TS_SCOPED_LOCK(&frames->lock);
	uint32_t entry = ts_frames_load(frames, id);
	TS_ASSERT(ts_frame_is_used(entry) && ts_frame_refs(entry) == 0);
	/* Before the id can be had again. */
	atomic_fetch_add_explicit(&frames->nr_freed, 1, memory_order_release);
	atomic_store_explicit(&frames->entries[id], 0, memory_order_release);
	frames->used_map[id / 64] &= ~(UINT64_C(1) << (id % 64));
	if (id < frames->hand)
		frames->hand = id;
	atomic_fetch_sub(&frames->nr_used, 1);
}

bool ts_frames_is_pinned(struct ts_frames *frames, uint32_t id)
{
	return ts_frame_refs(ts_frames_load(frames, id)) == REFS_PINNED;
}

void ts_frames_ref(struct ts_frames *frames, uint32_t id)
{
	if (ts_frames_is_pinned(frames, id))
		return;
	uint32_t before = atomic_fetch_add_explicit(&frames->entries[id], REF_ONE,
						    memory_order_relaxed);
	TS_ASSERT(ts_frame_is_used(before) && ts_frame_refs(before) > 0 &&
		  ts_frame_refs(before) < REFS_PINNED - 1);
}

bool ts_frames_try_ref(struct ts_frames *frames, uint32_t id, unsigned tier)
{
	uint32_t entry = ts_frames_load(frames, id);

	while (ts_frame_is_used(entry) && ts_frame_refs(entry) > 0 && ts_frame_refs(entry) < 200 &&
	       ts_frame_tier(entry) == tier)
		if (atomic_compare_exchange_weak_explicit(&frames->entries[id], &entry,
							  entry + REF_ONE, memory_order_acq_rel,
							  memory_order_acquire))
			return true;
	return false;
}

/* A slot holds id + 1 states of life: 0 is empty.  The producer claims an index, then fills it; the
 * consumer stops at a slot that is claimed but not filled yet. */
static void push_dead(struct ts_frames *frames, uint32_t id)
{
	uint64_t tail = atomic_load_explicit(&frames->dead_tail, memory_order_relaxed);

	do {
		uint64_t head = atomic_load_explicit(&frames->dead_head, memory_order_acquire);
		if (tail - head >= TS_DEAD_RING_LEN) {
			atomic_store(&frames->is_overflown, true);
			return;
		}
	} while (!atomic_compare_exchange_weak_explicit(
		&frames->dead_tail, &tail, tail + 1, memory_order_acq_rel, memory_order_relaxed));
	atomic_store_explicit(&frames->dead_ring[tail % TS_DEAD_RING_LEN], id,
			      memory_order_release);
}

void ts_frames_pin(struct ts_frames *frames, uint32_t id)
{
	TS_ASSERT(ts_frame_refs(ts_frames_load(frames, id)) == 1);
	atomic_fetch_or(&frames->entries[id], (uint32_t)REFS_PINNED << 4);
}

void ts_frames_unpin(struct ts_frames *frames, uint32_t id)
{
	TS_ASSERT(ts_frames_is_pinned(frames, id));
	atomic_fetch_and(&frames->entries[id], ~((uint32_t)REFS_PINNED << 4));
	push_dead(frames, id);
}

void ts_frames_unref(struct ts_frames *frames, uint32_t id)
{
	if (ts_frames_is_pinned(frames, id))
		return;
	uint32_t before = atomic_fetch_sub_explicit(&frames->entries[id], REF_ONE,
						    memory_order_acq_rel);
	TS_ASSERT(ts_frame_is_used(before) && ts_frame_refs(before) > 0);
	if (ts_frame_refs(before) == 1)
		push_dead(frames, id);
}

static _Atomic uint64_t *pages_of(struct ts_frames *frames, uint32_t id)
{
	return &frames->nr_pages[ts_frame_tier(ts_frames_load(frames, id))];
}

void ts_frames_add_page(struct ts_frames *frames, uint32_t id)
{
	ts_frames_ref(frames, id);
	atomic_fetch_add_explicit(pages_of(frames, id), 1, memory_order_relaxed);
}

void ts_frames_keep_page(struct ts_frames *frames, uint32_t id)
{
	atomic_fetch_sub_explicit(pages_of(frames, id), 1, memory_order_relaxed);
}

void ts_frames_drop_page(struct ts_frames *frames, uint32_t id)
{
	ts_frames_keep_page(frames, id);
	ts_frames_unref(frames, id);
}

/* Takes the frame over for deletion, once: its id may be in the ring and be found by a sweep, and
 * by the time the ring is read it may belong to a new frame. */
static bool reap(struct ts_frames *frames, uint32_t id, struct ts_dead_frame *dead)
{
	uint32_t entry = ts_frames_load(frames, id);

	if (!ts_frame_is_used(entry) || ts_frame_refs(entry) > 0 || ts_frame_nr_pages(entry) == 0)
		return false;
	/* Nobody can raise refs from 0, so this store races with nothing. */
	atomic_store_explicit(&frames->entries[id], entry & ~(127u << 12), memory_order_release);
	*dead = (struct ts_dead_frame){ id, entry };
	return true;
}

/* After an overflow: everything that is used and without references is dead. */
static unsigned sweep_dead(struct ts_frames *frames, struct ts_dead_frame *dead, unsigned dead_max)
{
	unsigned nr_dead = 0;
	uint32_t end = atomic_load(&frames->id_end);

	atomic_store(&frames->is_overflown, false);
	for (uint32_t id = 1; id < end && nr_dead < dead_max; id++)
		nr_dead += reap(frames, id, &dead[nr_dead]);
	if (nr_dead == dead_max)
		atomic_store(&frames->is_overflown, true);
	return nr_dead;
}

unsigned ts_frames_take_dead(struct ts_frames *frames, struct ts_dead_frame *dead,
			     unsigned dead_max)
{
	uint64_t head = atomic_load_explicit(&frames->dead_head, memory_order_relaxed);
	unsigned nr_dead = 0;

	while (nr_dead < dead_max && head != atomic_load_explicit(&frames->dead_tail,
								  memory_order_acquire)) {
		uint32_t id = atomic_exchange_explicit(&frames->dead_ring[head % TS_DEAD_RING_LEN],
						       0, memory_order_acquire);
		if (!id)
			break;  /* claimed by a producer who has not filled it yet */
		nr_dead += reap(frames, id, &dead[nr_dead]);
		atomic_store_explicit(&frames->dead_head, ++head, memory_order_release);
	}
	if (nr_dead == 0 && atomic_load(&frames->is_overflown))
		nr_dead = sweep_dead(frames, dead, dead_max);
	return nr_dead;
}

uint64_t ts_frames_bytes(struct ts_frames *frames)
{
	uint64_t nr_ids = atomic_load(&frames->id_end);
	bool has_holdings = atomic_load(&frames->has_holdings);
	return nr_ids * (sizeof(uint32_t) + (has_holdings ? sizeof(struct ts_holding) : 0)) +
	       nr_ids / 8;
}

/* ---- After a death ---------------------------------------------------------------------- */

static void each_entry(struct ts_frames *frames, void (*fn)(void *user, uint32_t id), void *user)
{
	size_t at = 0, len_bytes, end = entries_bytes(frames);

	while (ts_mapfile_next_data(frames->map, &at, &len_bytes, end)) {
		uint32_t first = (uint32_t)(at / sizeof(uint32_t));
		uint32_t nr_ids = (uint32_t)(len_bytes / sizeof(uint32_t));
		for (uint32_t id = first; id < first + nr_ids; id++)
			fn(user, id);
		at += len_bytes;
	}
}

static void forget_refs(void *user, uint32_t id)
{
	struct ts_frames *frames = user;

	atomic_fetch_and(&frames->entries[id], ~(uint32_t)(255 << 4));
}

void ts_frames_recount_begin(struct ts_frames *frames)
{
	each_entry(frames, forget_refs, frames);
}

bool ts_frames_recount_page(struct ts_frames *frames, uint32_t id, unsigned nr_tiers)
{
	uint32_t entry = id && id < frames->nr_ids ? ts_frames_load(frames, id) : 0;

	if (!ts_frame_is_used(entry) || ts_frame_tier(entry) >= nr_tiers ||
	    !ts_frame_nr_pages(entry) || ts_frame_refs(entry) == REFS_PINNED - 1)
		return false;
	if (ts_frame_refs(entry) != REFS_PINNED)
		atomic_fetch_add(&frames->entries[id], REF_ONE);
	atomic_fetch_add(&frames->nr_pages[ts_frame_tier(entry)], 1);
	return true;
}

bool ts_frames_recount_pinned(struct ts_frames *frames, uint32_t id, unsigned nr_tiers)
{
	uint32_t entry = id && id < frames->nr_ids ? ts_frames_load(frames, id) : 0;

	if (!ts_frame_is_used(entry) || ts_frame_tier(entry) >= nr_tiers ||
	    !ts_frame_nr_pages(entry))
		return false;
	atomic_fetch_or(&frames->entries[id], (uint32_t)REFS_PINNED << 4);
	return true;
}

struct recount {
	struct ts_frames *frames;
	void (*fn)(void *user, uint32_t id, uint32_t entry);
	void *user;
};

static void settle_entry(void *user, uint32_t id)
{
	struct recount *recount = user;
	struct ts_frames *frames = recount->frames;
	uint32_t entry = ts_frames_load(frames, id);

	if (!entry)
		return;
	if (!ts_frame_is_used(entry) || !ts_frame_refs(entry)) {
		atomic_store(&frames->entries[id], 0);
		return;
	}
	frames->used_map[id / 64] |= UINT64_C(1) << (id % 64);
	atomic_fetch_add(&frames->nr_used, 1);
	if (id >= atomic_load(&frames->id_end))
		atomic_store(&frames->id_end, id + 1);
	recount->fn(recount->user, id, entry);
}

void ts_frames_recount_end(struct ts_frames *frames,
			   void (*fn)(void *user, uint32_t id, uint32_t entry), void *user)
{
	struct recount recount = { frames, fn, user };

	each_entry(frames, settle_entry, &recount);
}
