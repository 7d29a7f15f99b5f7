/* SPDX-License-Identifier: Apache-2.0
 *
 * hugetlb.c — a memfd of huge pages (hugetlbfs, 2 MiB) on Linux 7.3: they leave whole, or stay.
 *
 * A batch is one huge page, a unit: its 512 words are claimed together, and its RAM goes in one
 * punch once all 512 are published.  Protection, reading and window are as in memfd_rwp.c, with one
 * entry of the page table to look at instead of 512.
 * The first word is the unit's lock (fault/unit.c): faults change no other, so it is published and
 * let go of like the rest, but taken back and released last: whoever finds it free finds the others
 * settled.
 * What can go wrong: a part found no room in any tier, was given up, or the unit was touched: all
 * of it is taken back, the frames that were written are dropped.
 * PUNCH_HOLE of a whole huge page takes it out of the page cache whoever has it pinned; there is no
 * hole to look for afterwards, for on hugetlbfs SEEK_DATA calls everything data.
 */
#include <errno.h>
#include <sched.h>

#include "memory/memfd_io.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "page/frames.h"
#include "util/hist.h"
#include "util/hook.h"

enum {
	UNIT_BYTES = TS_CHUNK_PAGES * TS_PAGE_BYTES,
	ASYNC_TRIES = 100,
};

/* What the page table says of a unit. */
enum seen {
	SEEN_NOTHING,     /* it can't be told */
	SEEN_TOUCHED,     /* or can be touched without our knowledge */
	SEEN_PROTECTED,
	SEEN_UNMAPPED,    /* a touch is a message */
};

static void add_bytes(void *user, uint64_t addr, uint64_t len_bytes)
{
	(void)addr;
	*(uint64_t *)user += len_bytes;
}

/* The gate is held.  As in memfd_rwp.c, nothing is proven while an event is queued. */
static enum seen look(struct ts_shard *shard, uint64_t addr)
{
	static const struct ts_scan_filter is_protected = {
		.mask = PAGE_IS_PRESENT | PAGE_IS_ACCESSED, .inverted = PAGE_IS_ACCESSED,
	};
	static const struct ts_scan_filter is_filled = {
		.anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};
	uint64_t protected_bytes = 0, filled_bytes = 0;
	int pagemap_fd = shard->region->pagemap_fd;

	int rc = ts_pagemap_scan(pagemap_fd, addr, UNIT_BYTES, &is_protected, add_bytes,
				 &protected_bytes);
	if (!rc)
		rc = ts_pagemap_scan(pagemap_fd, addr, UNIT_BYTES, &is_filled, add_bytes,
				     &filled_bytes);
	if (rc || ts_uffd_is_changing(shard->uffd))
		return SEEN_NOTHING;
	if (protected_bytes == UNIT_BYTES)
		return SEEN_PROTECTED;
	return filled_bytes ? SEEN_TOUCHED : SEEN_UNMAPPED;
}

/* Its address; 0: it has none, or no whole one.  The gate is held. */
static uint64_t address_of(const struct ts_batch *batch, const struct ts_shard *shard)
{
	uint32_t run = 0;
	uint64_t addr = ts_shard_addr(shard, batch->first_page, &run);

	return run >= TS_CHUNK_PAGES ? addr : 0;
}

static void wake(struct ts_batch *batch, struct ts_shard *shard)
{
	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(batch, shard);
	if (addr)
		(void)ts_uffd_wake(shard->uffd, addr, UNIT_BYTES);
	ts_gate_unshare(&shard->gate);
}

/* ---- Back to the guest ------------------------------------------------------------------ */

/* Was it discarded (ts_region_discard()) since we claimed it?  That is of the whole unit, and
 * leaves words as ZERO that we have not published; or the first one, which a fault has this moment,
 * will be.  The gate is held. */
static bool is_given_up(const struct ts_batch *batch)
{
	for (unsigned i = 0; i < TS_CHUNK_PAGES; i++) {
		ts_word word = ts_word_load(ts_batch_word(batch, i));
		bool is_fill = !(word & TS_WORD_STAGED) && ts_word_payload(word) >= TS_COMING_FILL;
		if (ts_pageset_has(&batch->releasing, i))
			continue;
		if (ts_word_is(word, TS_ZERO) ||
		    (ts_word_is(word, TS_COMING) && ((word & TS_WORD_REMOVED) || is_fill)))
			return true;
	}
	return false;
}

/* Ends what is ours of a page: LEAVING, or RELEASING. */
static void end_word(struct ts_batch *batch, unsigned i, ts_word to)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word word = ts_word_load(slot), next;

	do {
		bool is_late = ts_word_is(word, TS_AWAY) || ts_word_is(word, TS_ZERO);
		if (word != ts_batch_leaving(batch, i) && !(is_late && (word & TS_WORD_RELEASING)))
			return;
		next = ts_word_is(word, TS_AWAY) ? ts_word_make(TS_COMING, 0, 0) : to;
	} while (!ts_word_swap(slot, &word, next));
	if (!ts_word_is(word, TS_AWAY))
		return;
	ts_frames_drop_page(batch->frames, ts_word_payload(word));
	ts_word_finish(slot, to);
}

/* 1: the first word is ours, and locked if it was not; 0: a fault or a discard has taken it; -1: a
 * fault has it this moment, and may give it back. */
static int take_lock(struct ts_batch *batch)
{
	ts_word_slot *slot = ts_batch_word(batch, 0);
	ts_word word = ts_word_load(slot);
	ts_word staged = ts_word_make(TS_COMING, TS_WORD_STAGED, ts_batch_slot(batch, 0));

	if ((word & ~(ts_word)TS_WORD_REMOVED) == staged)
		return -1;
	if (word == ts_batch_leaving(batch, 0))
		return ts_word_swap(slot, &word, ts_word_make(TS_COMING, 0, 0)) ? 1 : -1;
	return (ts_word_is(word, TS_AWAY) || ts_word_is(word, TS_ZERO)) &&
	       (word & TS_WORD_RELEASING);
}

/* The claim did not get all of it. */
static void give_back_part(struct ts_batch *batch)
{
	for (unsigned i = TS_CHUNK_PAGES; i-- > 0;) {
		if (!ts_pageset_has(&batch->owned, i))
			continue;
		if (!ts_batch_swap_owned(batch, i, ts_word_make(TS_RESIDENT, 0, 0)) &&
		    ts_word_load(ts_batch_word(batch, i)) ==
			    ts_word_make(TS_ZERO, TS_WORD_RELEASING, 0))
			end_word(batch, i, ts_word_make(TS_ZERO, 0, 0));
		ts_batch_drop_kept(batch, i);
		ts_pageset_remove(&batch->owned, i);
	}
}

/* With the gate shared, so that a discard finds all of it done, or nothing; the lock last. */
static void give_back_whole(struct ts_batch *batch, struct ts_shard *shard)
{
	int has_lock;

	for (;;) {
		(void)ts_batch_is_owned(batch, 0);  /* waits for a fault that has it */
		ts_gate_share(&shard->gate);
		has_lock = take_lock(batch);
		if (has_lock >= 0)
			break;
		ts_gate_unshare(&shard->gate);
	}
	ts_word to = ts_word_make(is_given_up(batch) ? TS_ZERO : TS_RESIDENT, 0, 0);
	for (unsigned i = TS_CHUNK_PAGES; i-- > 1;)
		end_word(batch, i, to);
	if (has_lock && ts_word_is(ts_word_load(ts_batch_word(batch, 0)), TS_COMING))
		ts_word_finish(ts_batch_word(batch, 0), to);
	else if (has_lock)
		end_word(batch, 0, to);
	ts_gate_unshare(&shard->gate);
	batch->is_whole = false;
}

/* All that we have of the unit is the guest's again, published or not. */
static void give_back(struct ts_batch *batch)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);

	if (!batch->is_whole) {
		give_back_part(batch);
	} else {
		give_back_whole(batch, shard);
		TS_PAGESET_EACH(i, &batch->owned)
			ts_batch_drop_kept(batch, i);
		batch->owned = batch->releasing = (struct ts_pageset){ { 0 } };
	}
	wake(batch, shard);
}

/* ---- Take ------------------------------------------------------------------------------- */

static enum seen guard(struct ts_batch *batch, struct ts_shard *shard)
{
	enum seen seen = SEEN_NOTHING;

	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(batch, shard);
	if (addr && ts_word_load(ts_batch_word(batch, 0)) != ts_batch_leaving(batch, 0))
		seen = SEEN_TOUCHED;
	else if (addr && (batch->skip_touched ||
			  !ts_uffd_rwprotect(shard->uffd, addr, UNIT_BYTES, true)))
		seen = look(shard, addr);
	ts_gate_unshare(&shard->gate);
	return seen;
}

static void take(struct ts_batch *batch)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	struct ts_pageset unread = { { 0 } };
	uint32_t nr_pages = ts_pageset_count(&batch->owned);

	/* A deactivate that saw this unit before we claimed it ends now; the next one sees that it
	 * is ours. */
	ts_gate_close(&shard->gate);
	ts_gate_reopen(&shard->gate);
	enum seen seen = guard(batch, shard);
	if (seen == SEEN_PROTECTED)
		ts_pageset_add(&batch->guarded, 0);
	if (seen == SEEN_UNMAPPED)
		ts_pageset_add(&batch->unmapped, 0);
	if (seen == SEEN_TOUCHED)
		batch->nr_cancelled += nr_pages;
	if (seen == SEEN_NOTHING) {
		ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], nr_pages);
		batch->nr_failed += nr_pages;
	}
	if (seen == SEEN_PROTECTED || seen == SEEN_UNMAPPED)
		ts_memfd_read(batch, &unread);
	if (seen == SEEN_TOUCHED || seen == SEEN_NOTHING || ts_pageset_count(&unread))
		give_back(batch);
}

/* ---- Release ---------------------------------------------------------------------------- */

/* It stays, for the reason that *counter counts. */
static void take_back(struct ts_batch *batch, uint32_t *counter)
{
	uint32_t nr_pages = ts_pageset_count(&batch->releasing);

	batch->nr_back += nr_pages;
	*counter += nr_pages;
	give_back(batch);
}

static int punch(struct ts_batch *batch)
{
	uint64_t offset;
	uint32_t run;
	int fd = ts_region_backing(batch->region, batch->first_page, &offset, &run);

	return ts_sys_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				UNIT_BYTES);
}

/* The last look, and what follows from it. */
static void let_go(struct ts_batch *batch, struct ts_shard *shard)
{
	bool is_guarded = ts_pageset_has(&batch->guarded, 0);
	enum seen seen = SEEN_NOTHING;

	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(batch, shard);
	if (addr && !ts_word_is(ts_word_load(ts_batch_word(batch, 0)), TS_GONE))
		seen = look(shard, addr);
	ts_gate_unshare(&shard->gate);
	TS_PHASE(TS_PHASE_WINDOW);
	if (seen != (is_guarded ? SEEN_PROTECTED : SEEN_UNMAPPED)) {
		take_back(batch, &batch->nr_cancelled);
		return;
	}
	if (punch(batch)) {
		ts_bump(&batch->region->counters.failures[TS_FAIL_RELEASE], TS_CHUNK_PAGES);
		take_back(batch, &batch->nr_failed);
		return;
	}
	for (unsigned i = TS_CHUNK_PAGES; i-- > 0;)
		ts_batch_released(batch, i);
	batch->is_whole = false;
}

static void in_window(struct ts_batch *batch, struct ts_shard *shard)
{
	TS_SCOPED_LOCK(&shard->window_lock);
	ts_mono_ns start_ns = ts_now_ns();

	if (!ts_uffd_set_sync(shard->uffd, true)) {
		let_go(batch, shard);
	} else {
		ts_bump(&batch->region->counters.failures[TS_FAIL_RELEASE], TS_CHUNK_PAGES);
		take_back(batch, &batch->nr_failed);
	}
	for (unsigned n = 0; ts_uffd_set_sync(shard->uffd, false) && n < ASYNC_TRIES; n++)
		sched_yield();
	ts_hist_add(batch->windows, ts_now_ns() - start_ns);
}

static void release(struct ts_batch *batch)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	uint32_t nr_left = ts_pageset_count(&batch->owned);

	if (ts_pageset_count(&batch->releasing) < TS_CHUNK_PAGES) {
		ts_bump(&batch->region->counters.failures[TS_FAIL_FULL], nr_left);
		batch->nr_failed += nr_left;
		take_back(batch, &batch->nr_cancelled);
	} else if (ts_pageset_has(&batch->unmapped, 0)) {
		let_go(batch, shard);
	} else {
		in_window(batch, shard);
	}
	/* Whatever came of it: who waited was waiting for us. */
	wake(batch, shard);
}

const struct ts_memory_ops ts_memory_hugetlb_ops = {
	.name = "hugetlb",
	.releases_late = true,
	.take = take,
	.release = release,
	.give_back = give_back,
};
