/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.h — how pages are taken out of a guest and given back: one table of functions for each
 * kind of memory behind a region.
 *
 * The unit is a batch: a chunk of 2 MiB of the region's pages, and which of them the batch owns
 * (their words are LEAVING, or about to be published).  While it owns a page, batch->data + (page -
 * first_page) * 4 KiB holds its contents for the encoder.
 *
 *                   anonymous                  memfd                      memfd, tracker rwp
 *   take            UFFDIO_MOVE to a staging   guard against writes,      what is protected by
 *                   segment                    then pread                 the tracker: pread
 *   a fault before  served by a copy from      read: maps the page;       none: the kernel gives
 *   publication     the segment                write: un-guarded,         access, and the last
 *                                              eviction cancelled         look finds it
 *   release         MADV_DONTNEED of the       PUNCH_HOLE, un-guard,      windows: SET_MODE(sync),
 *                   segment                    wake                       last look, PUNCH_HOLE,
 *                                                                         SET_MODE(async), wake
 *   give back       UFFDIO_MOVE from the       un-guard                   nothing to do
 *                   segment, or COPY
 *
 * A memfd of huge pages (hugetlb.c) is as the last one, a whole huge page at a time.
 */
#ifndef TS_MEMORY_MEMORY_H
#define TS_MEMORY_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/pageset.h"
#include "page/region.h"

struct ts_staging;
struct ts_frames;

struct ts_batch {
	struct ts_region *region;
	struct ts_frames *frames;
	struct ts_staging *staging;
	uint32_t first_page;
	uint32_t nr_pages;           /* of the chunk; less than 512 at a shard's or region's end */
	uint32_t segment; /* anonymous: of the staging area; slots are segment * 512 + i */
	uint8_t *data;
	struct ts_pageset owned;     /* LEAVING, ours */
	struct ts_pageset releasing; /* published, RAM not yet given back */
	struct ts_pageset guarded;   /* memfd: protected when they were read */
	struct ts_pageset unmapped;  /* memfd, rwp: had no page-table entry then */
	struct ts_pageset scratch, holes; /* the memory's own, within one call */
	uint32_t kept_frame[TS_CHUNK_PAGES]; /* a reference to the frame that may still hold the
					      * page; 0: none */
	uint64_t window_start_ns;    /* memfd, zap: when the guard went up */
	uint64_t due_ns;             /* when probation is over */
	bool has_minor;              /* memfd, rwp: a touch of an unmapped page is a message */
	bool is_whole;               /* hugetlb: all 512 are claimed, and not yet let go */
	bool skip_touched;           /* leave pages alone that were touched since the scan */
	uint32_t nr_cancelled, nr_failed;
	uint32_t nr_back;            /* of both: published and taken back */
	struct ts_hist *windows;     /* memfd, rwp: how long each sync window was */
	struct ts_batch *next;       /* in the list of batches on probation */
};

struct ts_memory_ops {
	const char *name;
	/* Pages stay out of the guest while LEAVING, so probation makes sense. */
	bool has_probation;

	/* RAM is still the guest's when a page is published: its word says RELEASING until then. */
	bool releases_late;

	/* Makes the contents of every owned page readable at data.  Pages that can't be taken, or
	 * were touched since the scan, go back to RESIDENT and out of `owned`. */
	void (*take)(struct ts_batch *batch);

	/* Gives the RAM of `releasing` back.  When it returns, their words carry no RELEASING flag
	 * and whoever waited for one of them has been woken. */
	void (*release)(struct ts_batch *batch);

	/* Returns every page still owned to the guest, as RESIDENT. */
	void (*give_back)(struct ts_batch *batch);
};

/* Segment numbers from here on belong to evict threads (memfd pages need no slot, but their LEAVING
 * words must tell one batch from another). */
enum { TS_SEGMENT_SCRATCH = (1 << (TS_PAYLOAD_BITS - 9)) - TS_EVICT_THREAD_MAX - 1 };

extern const struct ts_memory_ops ts_memory_anon_ops, ts_memory_memfd_ops,
	ts_memory_memfd_rwp_ops, ts_memory_hugetlb_ops;

/* Slot of the batch's i-th page, for the LEAVING word. */
static inline uint32_t ts_batch_slot(const struct ts_batch *batch, unsigned i)
{
	return batch->segment * TS_CHUNK_PAGES + i;
}

static inline ts_word_slot *ts_batch_word(const struct ts_batch *batch, unsigned i)
{
	return &batch->region->words[batch->first_page + i];
}

/* Calls fn for every run of pages in `set` whose addresses are contiguous, at most run_max pages at
 * a time, with the shard's gate shared: neither an address nor, by an event, a word changes under
 * fn. Pages whose word has left @state since (a fault, an event) and pages without an address are
 * left out. */
typedef void (*ts_batch_run_fn)(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
				unsigned nr_pages, uint64_t addr);
void ts_batch_each_run(struct ts_batch *batch, const struct ts_pageset *set, enum ts_state state,
		       unsigned run_max, ts_batch_run_fn fn);

/* Swaps an owned page from LEAVING to `to`.  If a fault has the page (COMING, STAGED), waits until
 * it has left the slot alone.  False: the page is ours no more; it was cancelled or removed. */
bool ts_batch_swap_owned(struct ts_batch *batch, unsigned i, ts_word to);
/* Is the page still ours (LEAVING)?  Waits for a fault that copies from our slot this moment. */
bool ts_batch_is_owned(struct ts_batch *batch, unsigned i);
/* An owned page that the guest has never lost (not moved, or not guarded) stays: RESIDENT. */
void ts_batch_disown(struct ts_batch *batch, unsigned i);
void ts_batch_drop_kept(struct ts_batch *batch, unsigned i);
/* Owned pages that a fault or an event has taken from the batch meanwhile, their word no longer
 * LEAVING: nothing more to do for them. */
void ts_batch_drop_cancelled(struct ts_batch *batch);
/* The RAM of a published page is back: its word loses RELEASING. */
void ts_batch_released(struct ts_batch *batch, unsigned i);
/* The word of an owned page. */
static inline ts_word ts_batch_leaving(const struct ts_batch *batch, unsigned i)
{
	return ts_word_make(TS_LEAVING, 0, ts_batch_slot(batch, i));
}

#endif
