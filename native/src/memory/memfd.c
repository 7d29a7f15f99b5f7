/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd.c — shared memory behind a memfd before Linux 7.3: pages are guarded, read through the
 * descriptor, punched out (memfd_io.c).
 *
 * What the kernel gives us: WRITEPROTECT guards pages of the guest's mapping, unmapped ones
 * included (by markers); a read still maps the page and tells nobody, a write waits as a WP fault.
 * PUNCH_HOLE drops page and mapping, but leaves waiters asleep and markers in place.
 * What that means here: from guard to punch nobody can change the page, so what pread saw is what
 * is dropped.  Who un-protects must own the page (COMING, or RELEASING): an un-protect that comes
 * late would take away the guard of the next eviction.
 * What can go wrong: the guard can't be set (an event is queued): the page stays.  The punch fails:
 * the page is still there, unchanged, so it becomes RESIDENT again and its frame is dropped.
 */
#include "memory/memfd_io.h"
#include "os/pagemap.h"
#include "os/uapi.h"
#include "os/uffd.h"
#include "page/frames.h"

enum { RUN_MAX = 512 };

/* Ends COMING for a run that the batch has just un-protected, or tried to. */
static void finish_resident(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
			    unsigned nr_pages, uint64_t addr)
{
	for (unsigned n = 0; n < nr_pages; n++) {
		ts_pageset_remove(&batch->scratch, i + n);
		ts_region_mark(batch->region, batch->first_page + i + n);
		ts_word_finish(ts_batch_word(batch, i + n), ts_word_make(TS_RESIDENT, 0, 0));
	}
	(void)ts_uffd_wake(shard->uffd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT);
}

/* A write fault that comes while the protection can't be lifted (an event is queued) is answered by
 * the fault server once the page is RESIDENT; the wake lets it come again. */
static void unprotect_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
			  unsigned nr_pages, uint64_t addr)
{
	(void)ts_uffd_protect(shard->uffd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT, false);
	finish_resident(batch, shard, i, nr_pages, addr);
}

/* Gives the pages of `set`, owned ones, back to the guest. */
static void return_pages(struct ts_batch *batch, const struct ts_pageset *set)
{
	struct ts_pageset coming = { { 0 } };

	TS_PAGESET_EACH(i, set) {
		if (ts_batch_swap_owned(batch, i, ts_word_make(TS_COMING, 0, 0)))
			ts_pageset_add(&coming, i);
		ts_batch_drop_kept(batch, i);
		ts_pageset_remove(&batch->owned, i);
	}
	batch->scratch = coming;
	ts_batch_each_run(batch, &coming, TS_COMING, RUN_MAX, unprotect_run);
	/* What is left has no address any more. */
	TS_PAGESET_EACH(i, &batch->scratch)
		ts_word_finish(ts_batch_word(batch, i), ts_word_make(TS_GONE, 0, 0));
}

static void return_later(struct ts_batch *batch, const struct ts_pageset *set)
{
	TS_PAGESET_EACH(i, set)
		ts_pageset_add(&batch->scratch, i);
}

static void protect_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
			unsigned nr_pages, uint64_t addr)
{
	static const struct ts_scan_filter present = { .mask = PAGE_IS_PRESENT };
	uint64_t len_bytes = (uint64_t)nr_pages << TS_PAGE_SHIFT;
	struct ts_pageset touched = { { 0 } };
	struct ts_pageset_run run = { &touched, addr, i };
	struct ts_region *region = batch->region;

	int rc = ts_uffd_protect(shard->uffd, addr, len_bytes, true);
	if (rc) {
		for (unsigned n = 0; n < nr_pages; n++)
			ts_pageset_add(&touched, i + n);
		ts_bump(&region->counters.failures[TS_FAIL_TAKE], nr_pages);
		batch->nr_failed += nr_pages;
		return_later(batch, &touched);
		return;
	}
	for (unsigned n = 0; n < nr_pages; n++)
		ts_pageset_add(&batch->guarded, i + n);
	/* Marks are what such a tracker goes by, and there may be no page table to look at. */
	for (unsigned n = 0; batch->skip_touched && region->marks && n < nr_pages; n++)
		if (ts_region_is_marked(region, batch->first_page + i + n))
			ts_pageset_add(&touched, i + n);
	if (batch->skip_touched && !region->marks)
		(void)ts_pagemap_scan(region->pagemap_fd, addr, len_bytes, &present,
				      ts_pageset_note, &run);
	batch->nr_cancelled += ts_pageset_count(&touched);
	return_later(batch, &touched);
}

static void take(struct ts_batch *batch)
{
	struct ts_pageset all = batch->owned, none = { { 0 } }, unread = none, lost = none;

	batch->window_start_ns = ts_now_ns();
	batch->scratch = none;
	ts_batch_each_run(batch, &all, TS_LEAVING, RUN_MAX, protect_run);
	struct ts_pageset touched = batch->scratch;
	return_pages(batch, &touched);
	/* Whatever left LEAVING before it was guarded (or has no address) is not ours to read, even
	 * if a fault that could not be served made it LEAVING again. */
	TS_PAGESET_EACH(i, &batch->owned)
		if (!ts_pageset_has(&batch->guarded, i) || !ts_batch_is_owned(batch, i))
			ts_pageset_add(&lost, i);
	batch->nr_cancelled += ts_pageset_count(&lost);
	return_pages(batch, &lost);
	ts_memfd_read(batch, &unread);
	return_pages(batch, &unread);
}

/* The page cache still holds these published pages, unchanged since the guard went up: they become
 * the guest's again, and their frames are forgotten. */
static void take_back(struct ts_batch *batch, const struct ts_pageset *set)
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
			ts_pageset_add(&batch->scratch, i);
		ts_pageset_remove(&batch->releasing, i);
		batch->nr_failed++;
		batch->nr_back++;
	}
	struct ts_pageset coming = batch->scratch;
	ts_batch_each_run(batch, &coming, TS_COMING, RUN_MAX, unprotect_run);
	TS_PAGESET_EACH(i, &batch->scratch)
		ts_word_finish(ts_batch_word(batch, i), ts_word_make(TS_GONE, 0, 0));
}

/* Un-guards punched pages.  Order: flag, then wake, so that whoever comes again is served. */
static void open_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i, unsigned nr_pages,
		     uint64_t addr)
{
	uint64_t len_bytes = (uint64_t)nr_pages << TS_PAGE_SHIFT;

	/* Clears the markers, so that later writes cost no message.  If an event is in the way they
	 * stay until the page is installed: harmless. */
	(void)ts_uffd_protect(shard->uffd, addr, len_bytes, false);
	for (unsigned n = 0; n < nr_pages; n++)
		ts_batch_released(batch, i + n);
	(void)ts_uffd_wake(shard->uffd, addr, len_bytes);
}

static void release(struct ts_batch *batch)
{
	struct ts_pageset failed = { { 0 } }, all;

	all = batch->releasing;
	ts_memfd_punch(batch, &all, &failed);
	batch->scratch = (struct ts_pageset){ { 0 } };
	take_back(batch, &failed);
	all = batch->releasing;
	ts_batch_each_run(batch, &all, TS_AWAY, RUN_MAX, open_run);
	all = batch->releasing;
	ts_batch_each_run(batch, &all, TS_ZERO, RUN_MAX, open_run);
	/* Pages without an address: nobody can fault on them or wait for them. */
	all = batch->releasing;
	TS_PAGESET_EACH(i, &all)
		ts_batch_released(batch, i);
}

static void give_back(struct ts_batch *batch)
{
	struct ts_pageset all = batch->owned;

	return_pages(batch, &all);
}

const struct ts_memory_ops ts_memory_memfd_ops = {
	.name = "memfd",
	.releases_late = true,
	.take = take,
	.release = release,
	.give_back = give_back,
};
