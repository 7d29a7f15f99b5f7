/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd_rwp.c — shared memory behind a memfd on Linux 7.3: pages leave from under the tracker's
 * protection, and the guest waits for no store.
 *
 * What the kernel gives us: the tracker has taken the access rights from what was mapped
 * (track/rwp.c).  In async mode an access gets them back without a message; in sync mode it waits
 * and sends one.  A page in the page cache that is not in the page table (never mapped, swapped out
 * by the kernel, a huge page, which RWPROTECT unmaps) can be touched through a MINOR message only,
 * in either mode, if the region is registered for those.  The mode is the userfaultfd's: in a
 * window faults on all protected pages of the shard become messages.
 * What that means here: a page that is protected at the last look and was protected when it was
 * read has not been touched in between, because nobody else protects it: deactivate leaves pages
 * alone whose word says that somebody has them (track.c).  So reading, encoding and storing happen
 * in async mode; sync mode is for the last look and the punch, a few pages at a time and one punch
 * beyond WINDOW_NS at most, whatever the stores or the region are like.  Pages that had no entry
 * need no window: their message finds the word and cancels, or waits.
 * What can go wrong: a page was touched after it was read: found by the last look, and taken back;
 * its frame is dropped.  A page that was swapped out since, or is migrating, has lost its
 * protection or can't be told apart: not proven, not evicted this time.  Sync mode can't be had:
 * nothing is punched.  Async mode can't be had again: faults go on as messages, until the next
 * window ends.
 * Nothing here touches the guest's memory or takes its addresses for ours.
 */
#include <sched.h>

#include "memory/memfd_io.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "page/frames.h"
#include "util/hist.h"
#include "util/hook.h"

enum {
	RUN_MAX = 512,
	/* Pages looked at in one window, and punched in one call, 1.3 us each. */
	WINDOW_PAGES = 64,
	/* No call begins in a window that is older than this; a window of 64 pages side by side
	 * takes some 100 us. */
	WINDOW_NS = 200000,
	ASYNC_TRIES = 100,
};

/* ---- What is proven --------------------------------------------------------------------- */

/* Adds the pages of a run that are protected, and those that have no entry at all.  Neither: it can
 * be touched without our knowledge.  An event that is queued means that the addresses may be
 * another mapping's, which would look protected; it can't be read while we share the gate, so to
 * ask afterwards is enough. */
static int look(struct ts_shard *shard, unsigned i, unsigned nr_pages, uint64_t addr,
		struct ts_pageset *guarded, struct ts_pageset *unmapped)
{
	static const struct ts_scan_filter is_protected = {
		.mask = PAGE_IS_PRESENT | PAGE_IS_ACCESSED, .inverted = PAGE_IS_ACCESSED,
	};
	static const struct ts_scan_filter is_filled = {
		.anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};
	struct ts_pageset hidden = { { 0 } }, filled = hidden;
	struct ts_pageset_run to_hidden = { &hidden, addr, i }, to_filled = { &filled, addr, i };
	uint64_t len_bytes = (uint64_t)nr_pages << TS_PAGE_SHIFT;
	int pagemap_fd = shard->region->pagemap_fd;

	int rc = ts_pagemap_scan(pagemap_fd, addr, len_bytes, &is_protected, ts_pageset_note,
				 &to_hidden);
	if (!rc)
		rc = ts_pagemap_scan(pagemap_fd, addr, len_bytes, &is_filled, ts_pageset_note,
				     &to_filled);
	if (!rc && ts_uffd_is_changing(shard->uffd))
		rc = -EAGAIN;
	for (unsigned n = i; !rc && n < i + nr_pages; n++) {
		if (ts_pageset_has(&hidden, n))
			ts_pageset_add(guarded, n);
		else if (!ts_pageset_has(&filled, n))
			ts_pageset_add(unmapped, n);
	}
	return rc;
}

/* ---- Take ------------------------------------------------------------------------------- */

static void take_own_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
			 unsigned nr_pages, uint64_t addr)
{
	int rc = batch->skip_touched ? 0 :
		 ts_uffd_rwprotect(shard->uffd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT, true);

	if (!rc)
		rc = look(shard, i, nr_pages, addr, &batch->guarded,
			  batch->has_minor ? &batch->unmapped : &batch->holes);
	for (unsigned n = 0; rc && n < nr_pages; n++)
		ts_pageset_add(&batch->scratch, i + n);
}

/* Without pages that another batch has claimed since a fault cancelled our claim: to protect one of
 * those after it was read would hide a write from its last look.  While we share the gate nobody
 * new can have read one (see take()). */
static void take_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i, unsigned nr_pages,
		     uint64_t addr)
{
	unsigned end = i + nr_pages, first = i;

	for (unsigned n = i; n <= end; n++) {
		if (n < end && ts_word_load(ts_batch_word(batch, n)) == ts_batch_leaving(batch, n))
			continue;
		if (n > first)
			take_own_run(batch, shard, first, n - first,
				     addr + ((uint64_t)(first - i) << TS_PAGE_SHIFT));
		first = n + 1;
	}
}

/* Stays with the guest: nothing was done to it. */
static void leave_alone(struct ts_batch *batch, unsigned i)
{
	(void)ts_batch_swap_owned(batch, i, ts_word_make(TS_RESIDENT, 0, 0));
	ts_batch_drop_kept(batch, i);
	ts_pageset_remove(&batch->owned, i);
}

static bool is_proven(const struct ts_batch *batch, unsigned i)
{
	return ts_pageset_has(&batch->guarded, i) || ts_pageset_has(&batch->unmapped, i);
}

static void take(struct ts_batch *batch)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	struct ts_pageset all = batch->owned, unread = { { 0 } };
	uint32_t nr_refused;

	/* A deactivate that saw these pages before we claimed them ends now; the next one sees that
	 * they are ours. */
	ts_gate_close(&shard->gate);
	ts_gate_reopen(&shard->gate);
	batch->scratch = (struct ts_pageset){ { 0 } };
	ts_batch_each_run(batch, &all, TS_LEAVING, RUN_MAX, take_run);
	nr_refused = ts_pageset_count(&batch->scratch);
	ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], nr_refused);
	batch->nr_failed += nr_refused;
	TS_PAGESET_EACH(i, &all) {
		if (is_proven(batch, i) && ts_batch_is_owned(batch, i))
			continue;
		batch->nr_cancelled += !ts_pageset_has(&batch->scratch, i);
		leave_alone(batch, i);
	}
	ts_memfd_read(batch, &unread);
	TS_PAGESET_EACH(i, &unread)
		leave_alone(batch, i);
}

/* ---- Release ---------------------------------------------------------------------------- */

/* Published, and still the guest's: RESIDENT again, the frame forgotten.  Who waits for it is woken
 * at the end of the window. */
static void take_back(struct ts_batch *batch, const struct ts_pageset *set, uint32_t *counter)
{
	TS_PAGESET_EACH(i, set) {
		ts_word_slot *slot = ts_batch_word(batch, i);
		ts_word word = ts_word_load(slot);
		while (!ts_word_is(word, TS_GONE) &&
		       !ts_word_swap(slot, &word, ts_word_make(TS_COMING, 0, 0)))
			;
		if (ts_word_is(word, TS_AWAY))
			ts_frames_drop_page(batch->frames, ts_word_payload(word));
		if (!ts_word_is(word, TS_GONE))
			ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
		ts_pageset_remove(&batch->releasing, i);
		batch->nr_back++;
		(*counter)++;
	}
}

/* The last look: what is as it was when it was read goes to `scratch`. */
static void verify_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
		       unsigned nr_pages, uint64_t addr)
{
	struct ts_pageset guarded = { { 0 } }, unmapped = { { 0 } };

	if (look(shard, i, nr_pages, addr, &guarded, &unmapped))
		return;
	for (unsigned n = i; n < i + nr_pages; n++)
		if ((ts_pageset_has(&batch->guarded, n) && ts_pageset_has(&guarded, n)) ||
		    (ts_pageset_has(&batch->unmapped, n) && ts_pageset_has(&unmapped, n)))
			ts_pageset_add(&batch->scratch, n);
}

/* Punches run by run until it is late; what it had no time for goes out of the set. */
static void punch_until(struct ts_batch *batch, struct ts_pageset *proven, ts_mono_ns deadline_ns)
{
	struct ts_pageset failed = { { 0 } };
	unsigned i = ts_pageset_next(proven, 0);

	while (i < TS_CHUNK_PAGES) {
		struct ts_pageset run = { { 0 } };
		unsigned end = i;
		while (end < TS_CHUNK_PAGES && end < i + WINDOW_PAGES &&
		       ts_pageset_has(proven, end))
			ts_pageset_add(&run, end++);
		ts_memfd_punch(batch, &run, &failed);
		i = ts_pageset_next(proven, end);
		if (ts_now_ns() >= deadline_ns)
			break;
	}
	for (; i < TS_CHUNK_PAGES; i = ts_pageset_next(proven, i + 1))
		ts_pageset_remove(proven, i);
	take_back(batch, &failed, &batch->nr_failed);
}

/* Punches those pages of `part`, published ones, that nobody has touched, as long as there is time;
 * takes back those that were touched.  Both are `releasing` no more. */
static void let_go(struct ts_batch *batch, const struct ts_pageset *part, ts_mono_ns deadline_ns)
{
	struct ts_pageset proven, touched = *part;

	batch->scratch = (struct ts_pageset){ { 0 } };
	ts_batch_each_run(batch, part, TS_AWAY, RUN_MAX, verify_run);
	ts_batch_each_run(batch, part, TS_ZERO, RUN_MAX, verify_run);
	TS_PHASE(TS_PHASE_WINDOW);
	proven = batch->scratch;
	TS_PAGESET_EACH(i, part) {
		if (ts_word_is(ts_word_load(ts_batch_word(batch, i)), TS_GONE))
			ts_pageset_remove(&batch->releasing, i);
		if (ts_pageset_has(&proven, i) || !ts_pageset_has(&batch->releasing, i))
			ts_pageset_remove(&touched, i);
	}
	take_back(batch, &touched, &batch->nr_cancelled);
	punch_until(batch, &proven, deadline_ns);
	TS_PAGESET_EACH(i, &proven)
		if (ts_pageset_has(&batch->releasing, i))
			ts_batch_released(batch, i);
}

/* Whatever the words say by now: who waited was waiting for us. */
static void wake_part(struct ts_batch *batch, struct ts_shard *shard, const struct ts_pageset *part)
{
	unsigned i = ts_pageset_next(part, 0), end = i;

	TS_PAGESET_EACH(last, part)
		end = last + 1;
	while (i < end) {
		uint32_t run = 1;
		ts_gate_share(&shard->gate);
		uint64_t addr = ts_shard_addr(shard, batch->first_page + i, &run);
		run = addr ? TS_MIN(run, end - i) : 1;
		if (addr)
			(void)ts_uffd_wake(shard->uffd, addr, (uint64_t)run << TS_PAGE_SHIFT);
		ts_gate_unshare(&shard->gate);
		i += run;
	}
}

static void in_window(struct ts_batch *batch, struct ts_shard *shard, const struct ts_pageset *part)
{
	TS_SCOPED_LOCK(&shard->window_lock);
	ts_mono_ns start_ns = ts_now_ns();
	bool is_sync = !ts_uffd_set_sync(shard->uffd, true);

	if (is_sync) {
		let_go(batch, part, start_ns + WINDOW_NS);
	} else {
		ts_bump(&batch->region->counters.failures[TS_FAIL_RELEASE], ts_pageset_count(part));
		take_back(batch, part, &batch->nr_failed);
	}
	for (unsigned n = 0; ts_uffd_set_sync(shard->uffd, false) && n < ASYNC_TRIES; n++)
		sched_yield();
	ts_hist_add(batch->windows, ts_now_ns() - start_ns);
}

static void release(struct ts_batch *batch)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	struct ts_pageset part;
	unsigned nr_pages;

	for (unsigned w = 0; w < TS_CHUNK_PAGES / 64; w++)
		part.bits[w] = batch->releasing.bits[w] & batch->unmapped.bits[w];
	if (ts_pageset_count(&part)) {
		let_go(batch, &part, UINT64_MAX);
		wake_part(batch, shard, &part);
	}
	for (;;) {
		part = (struct ts_pageset){ { 0 } };
		nr_pages = 0;
		TS_PAGESET_EACH(i, &batch->releasing)
			if (nr_pages < WINDOW_PAGES) {
				ts_pageset_add(&part, i);
				nr_pages++;
			}
		if (!nr_pages)
			return;
		in_window(batch, shard, &part);
		wake_part(batch, shard, &part);
	}
}

static void give_back(struct ts_batch *batch)
{
	struct ts_pageset all = batch->owned;

	TS_PAGESET_EACH(i, &all)
		leave_alone(batch, i);
}

const struct ts_memory_ops ts_memory_memfd_rwp_ops = {
	.name = "memfd",
	.releases_late = true,
	.take = take,
	.release = release,
	.give_back = give_back,
};
