/* SPDX-License-Identifier: Apache-2.0
 *
 * region.h — one attached range of guest memory: its pages, its addresses, its userfaultfds.
 *
 * A region is cut into shards, each a slice of its pages with a userfaultfd of its own, because the
 * kernel serialises the waiters of one userfaultfd.  A shard's pages lie at the addresses its
 * extents name: one extent to begin with, more after the guest has moved or unmapped parts.
 */
#ifndef TS_PAGE_REGION_H
#define TS_PAGE_REGION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <tierstore/tierstore.h>

#include "os/mapfile.h"
#include "page/blocks.h"
#include "page/gate.h"
#include "page/heat.h"
#include "page/kept.h"
#include "page/word.h"

struct ts_engine;
struct ts_memory_ops;
struct ts_tracker_ops;

struct ts_extent {
	uint64_t addr;
	uint32_t first_page, nr_pages;  /* pages of the region, not of the shard */
};

/* Where pages of shared memory lie behind the guest's mapping.  An entry never changes once it is
 * counted; events move addresses, never offsets. */
struct ts_backing {
	uint32_t first_page, nr_pages;
	int fd;
	uint64_t offset;         /* of first_page */
};

struct ts_shard {
	struct ts_region *region;
	int uffd;
	struct ts_gate gate;
	/* Changed with the gate closed, read with the gate shared. */
	unsigned nr_extents;
	struct ts_extent extents[TS_EXTENT_MAX];
	/* Messages ignored because their page was COMING.  Its owner wakes it with the install; but
	 * a page that is dropped again between install and the end of COMING faults again, and that
	 * message is ignored, too.  So the owner compares before and after, and wakes once more. */
	_Atomic uint32_t nr_ignored;
	bool has_lost_track; /* a part moved to where the bound on extents kept us from following */
	/* One sync window at a time (memory/memfd_rwp.c): the mode is the userfaultfd's.  Taken
	 * before the gate. */
	pthread_mutex_t window_lock;
	atomic_bool has_forgotten;    /* messages were dropped for lack of room (fault/server.c) */
	/* The ranges that the last faults fell in, and what lone faults have come to, for the
	 * restore rule (fault/walk.c); racy on purpose. */
	_Atomic uint32_t recent_ranges[4];
	_Atomic uint32_t recent_hand;
	_Atomic uint32_t nr_lone;
	_Atomic int whole_score, ahead_score;
};

/* What happened in this region.  Added to by several threads, relaxed. */
struct ts_region_counters {
	_Atomic uint64_t nr_faults, nr_faults_zero, nr_faults_staged, nr_faults_guard, nr_stale;
	_Atomic uint64_t nr_refaults, nr_restored, nr_prefetched;
	_Atomic uint64_t nr_evicted, nr_reused, nr_cancelled, nr_removed;
	_Atomic uint64_t failures[TS_FAIL_COUNT];
};

/* Which pages of the control group of fault/mates.c have come back lately, by faults of their own:
 * their numbers plus one; and what it has learnt from them.  4 KiB in all.  Racy on purpose: a page
 * that is missed is one example less. */
enum { TS_LATELY_PAGES = 1008 };
struct ts_lately {
	_Atomic uint32_t nr_mates, nr_hits, nr_examples;
	_Atomic uint32_t around_bytes;  /* what pays to be read around a page */
	_Atomic uint32_t pages[TS_LATELY_PAGES];
};

struct ts_region {
	struct ts_engine *engine;
	const struct ts_memory_ops *memory;
	const struct ts_tracker_ops *tracker;
	char name[64];
	uint32_t id;             /* in frames' headers */
	unsigned slot;           /* among the engine's regions; once it is in that list */
	uint32_t share_weight;   /* of its share of the tiers; 0: none (engine/share.h) */
	uint32_t give_hand;      /* page at which giving back goes on; guarded by control */
	uint32_t image_id;       /* of the image that its pages began as; 0: none */
	/* Pages that faulted and were away, in order; NULL: not recorded. */
	uint32_t *faulted;
	uint32_t nr_faulted_max;
	_Atomic uint32_t nr_faulted;
	_Atomic uint32_t nr_pages; /* grows by hot-add: read it once for a decision */
	uint32_t nr_pages_max;     /* the tables have room for so many */
	/* Pages that can come and go together only: 512 of a hugetlb page, whose first word then
	 * is a lock on all of them (fault/unit.c); 1 elsewhere. */
	uint32_t unit_pages;
	/* No huge page was free at that time; 0: there was one (fault/unit.c). */
	_Atomic uint64_t no_huge_ns;
	uint32_t pages_per_shard;
	unsigned nr_shards;
	struct ts_shard shards[TS_SHARD_MAX];
	int pagemap_fd;
	int memfd;               /* of the first page; -1: anonymous */
	_Atomic unsigned nr_backings;
	struct ts_backing backings[TS_EXTENT_MAX];
	/* Another process's: its memory is reached through its userfaultfd and the memfd alone,
	 * never by an address.  The rest is for such regions (engine/adopt.c). */
	bool is_remote;
	uint32_t abilities;      /* TS_CAN_* */
	uint64_t uffd_modes;     /* as its process registered it */
	atomic_bool is_dropped;  /* the process is gone: faults are forgotten */
	_Atomic uint64_t *marks; /* a bit a page: written since the last deactivate; or NULL */
	char limits[320];
	enum ts_serve serve;
	enum ts_restore restore;
	uint32_t probation_ms;   /* 0: pages leave at once */
	uint32_t guard_scans;
	bool has_collapse;

	ts_word_slot *words;     /* [nr_pages] */
	struct ts_mapfile state; /* where the words lie, if they outlive the process */
	uint32_t nr_resumed;     /* pages that an earlier process has served */
	ts_heat *heat;           /* [nr_pages] */
	struct ts_kept kept;
	struct ts_blocks blocks;
	struct ts_region_counters counters;
	struct ts_lately *lately;

	_Atomic uint32_t evict_hand;   /* chunk at which the next eviction begins */
	_Atomic uint32_t nr_users;     /* evictions, scans, demotions at work: detach waits for 0 */
	atomic_bool is_draining;       /* no new eviction may start */
	_Atomic uint64_t ages[64];     /* of the last scan, as in ts_scan_result */
};

static inline void ts_bump(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline struct ts_shard *ts_region_shard(struct ts_region *region, uint32_t page)
{
	return &region->shards[page / region->pages_per_shard];
}

/* The words of a page with an even number and of its neighbour, for a look at many pages: on a
 * little-endian machine the page's own is the lower half. */
static inline uint64_t ts_region_word_pair(struct ts_region *region, uint32_t page)
{
	return atomic_load_explicit((_Atomic uint64_t *)(void *)&region->words[page],
				    memory_order_relaxed);
}

/* Notes that a page was touched, where the tracker needs to be told (track/wp_sync.c). */
static inline void ts_region_mark(struct ts_region *region, uint32_t page)
{
	if (region->marks)
		atomic_fetch_or_explicit(&region->marks[page / 64], UINT64_C(1) << (page % 64),
					 memory_order_relaxed);
}

static inline bool ts_region_is_marked(struct ts_region *region, uint32_t page)
{
	return atomic_load_explicit(&region->marks[page / 64], memory_order_relaxed) >>
	       (page % 64) & 1;
}

/* For the working set; the record ends when it is full. */
static inline void ts_region_note_fault(struct ts_region *region, uint32_t page)
{
	if (!region->faulted ||
	    atomic_load_explicit(&region->nr_faulted, memory_order_relaxed) >=
		    region->nr_faulted_max)
		return;
	uint32_t i = atomic_fetch_add_explicit(&region->nr_faulted, 1, memory_order_relaxed);
	if (i < region->nr_faulted_max)
		__atomic_store_n(&region->faulted[i], page + 1, __ATOMIC_RELEASE);
}

/* Descriptor and offset of a page of shared memory, and in *run_out how many pages follow it there,
 * itself included. */
int ts_region_backing(const struct ts_region *region, uint32_t page, uint64_t *offset_out,
		      uint32_t *run_out);
/* The next pages lie there; the caller has made sure of room, and counts the pages afterwards. */
void ts_region_add_backing(struct ts_region *region, uint32_t first_page, uint32_t nr_pages, int fd,
			   uint64_t offset);

/* Words, heat, kept, blocks: allocates them for nr_pages_max; all pages start as ZERO.  Words that
 * are there already (in region->state) are taken as they are. */
int ts_region_pages_init(struct ts_region *region, uint32_t nr_pages, uint32_t nr_pages_max,
			 uint64_t secret);
void ts_region_pages_finish(struct ts_region *region);
/* RAM of these tables. */
uint64_t ts_region_pages_bytes(const struct ts_region *region);
/* Gives up the ages of these pages, where 2048 neighbours are all away: 2 bytes a page. */
void ts_region_drop_heat(struct ts_region *region, uint32_t first_page, uint32_t nr_pages);

/* Takes part in the region's work; false once it is draining. */
bool ts_region_enter(struct ts_region *region);
void ts_region_leave(struct ts_region *region);

/* Address of a page, and in *run_out (if not NULL) how many pages follow it contiguously, itself
 * included.  0 if it has none (unmapped).  The gate is held. */
uint64_t ts_shard_addr(const struct ts_shard *shard, uint32_t page, uint32_t *run_out);
/* The page at an address; false if none of ours.  The gate is held. */
bool ts_shard_page(const struct ts_shard *shard, uint64_t addr, uint32_t *page_out);

/* For the readers of events, gate closed. */
/* [from, from + len) now lies at `to`; false when the extents' bound is reached (nothing
 * changed). */
bool ts_shard_moved(struct ts_shard *shard, uint64_t from, uint64_t to, uint64_t len_bytes);
/* [addr, addr + len) is unmapped; false as above. */
bool ts_shard_unmapped(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes);

#endif
