/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd.c — shared memory behind a memfd: pages are guarded, read through the descriptor, punched
 * out.
 *
 * What the kernel gives us: WRITEPROTECT guards pages of the guest's mapping, unmapped ones
 * included (by markers); a read still maps the page and tells nobody, a write waits as a WP fault.
 * pread(2) reads the page cache whatever the mapping says, and a hole as zeros; it costs the same
 * as copying from a second mapping, without page-table work at the punch.  PUNCH_HOLE drops page
 * and mapping, but leaves waiters asleep and markers in place.
 * What that means here: from guard to punch nobody can change the page, so what pread saw is what
 * is dropped.  Who un-protects must own the page (COMING, or RELEASING): an un-protect that comes
 * late would take away the guard of the next eviction.
 * What can go wrong: the guard can't be set (an event is queued): the page stays.  The punch fails:
 * the page is still there, unchanged, so it becomes RESIDENT again and its frame is dropped.
 */
#include "memory/memory.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "page/frames.h"

enum { RUN_MAX = 512 };

/* Members of `set` from i on that lie one after the other behind one descriptor. */
struct piece {
	int fd;
	off_t offset;
	unsigned nr_pages;
};

static struct piece piece_at(const struct ts_batch *batch, const struct ts_pageset *set, unsigned i)
{
	uint64_t offset;
	uint32_t run;
	int fd = ts_region_backing(batch->region, batch->first_page + i, &offset, &run);
	unsigned n = 1;

	while (n < run && i + n < batch->nr_pages && ts_pageset_has(set, i + n))
		n++;
	return (struct piece){ fd, (off_t)offset, n };
}

/* Ends COMING for a run that the batch has just un-protected, or tried to. */
static void finish_resident(struct ts_batch *batch, struct ts_shard *shard, unsigned i,
			    unsigned nr_pages, uint64_t addr)
{
	for (unsigned n = 0; n < nr_pages; n++) {
		ts_pageset_remove(&batch->scratch, i + n);
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

struct touched {
	struct ts_batch *batch;
	struct ts_pageset set;
	uint64_t addr;     /* of page `i` */
	unsigned i;
};

static void note_touched(void *user, uint64_t addr, uint64_t len_bytes)
{
	struct touched *touched = user;
	unsigned first = touched->i + (unsigned)((addr - touched->addr) >> TS_PAGE_SHIFT);

	for (unsigned n = 0; n < len_bytes >> TS_PAGE_SHIFT; n++)
		ts_pageset_add(&touched->set, first + n);
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
	struct touched touched = { .batch = batch, .addr = addr, .i = i };

	int rc = ts_uffd_protect(shard->uffd, addr, len_bytes, true);
	if (rc) {
		for (unsigned n = 0; n < nr_pages; n++)
			note_touched(&touched, addr + ((uint64_t)n << TS_PAGE_SHIFT),
				     TS_PAGE_BYTES);
		ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], nr_pages);
		batch->nr_failed += nr_pages;
		return_later(batch, &touched.set);
		return;
	}
	for (unsigned n = 0; n < nr_pages; n++)
		ts_pageset_add(&batch->guarded, i + n);
	if (batch->skip_touched)
		(void)ts_pagemap_scan(batch->region->pagemap_fd, addr, len_bytes, &present,
				      note_touched, &touched);
	batch->nr_cancelled += ts_pageset_count(&touched.set);
	return_later(batch, &touched.set);
}

/* Reads contiguous owned pages; a page that can't be read stays with the guest. */
static void read_pages(struct ts_batch *batch, struct ts_pageset *unread)
{
	unsigned i = ts_pageset_next(&batch->owned, 0);

	while (i < TS_CHUNK_PAGES) {
		struct piece piece = piece_at(batch, &batch->owned, i);
		unsigned n = piece.nr_pages;
		int rc = ts_sys_pread_all(piece.fd, batch->data + ((size_t)i << TS_PAGE_SHIFT),
					  (size_t)n << TS_PAGE_SHIFT, piece.offset);
		for (unsigned k = 0; rc && k < n; k++)
			ts_pageset_add(unread, i + k);
		if (rc) {
			ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], n);
			batch->nr_failed += n;
		}
		i = ts_pageset_next(&batch->owned, i + n);
	}
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
	read_pages(batch, &unread);
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
	}
	struct ts_pageset coming = batch->scratch;
	ts_batch_each_run(batch, &coming, TS_COMING, RUN_MAX, unprotect_run);
	TS_PAGESET_EACH(i, &batch->scratch)
		ts_word_finish(ts_batch_word(batch, i), ts_word_make(TS_GONE, 0, 0));
}

/* Punches by offset, which no event can change: the gate is not needed for the slow part. */
static void punch(struct ts_batch *batch, struct ts_pageset *failed)
{
	unsigned i = ts_pageset_next(&batch->releasing, 0);

	while (i < TS_CHUNK_PAGES) {
		struct piece piece = piece_at(batch, &batch->releasing, i);
		unsigned n = piece.nr_pages;
		int rc = ts_sys_fallocate(piece.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					  piece.offset, (off_t)n << TS_PAGE_SHIFT);
		for (unsigned k = 0; rc && k < n; k++)
			ts_pageset_add(failed, i + k);
		if (rc)
			ts_bump(&batch->region->counters.failures[TS_FAIL_RELEASE], n);
		i = ts_pageset_next(&batch->releasing, i + n);
	}
}

static void clear_releasing(struct ts_batch *batch, unsigned i)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word word = ts_word_load(slot);

	while (!ts_word_is(word, TS_GONE) &&
	       !ts_word_swap(slot, &word, word & ~(ts_word)TS_WORD_RELEASING))
		;
	ts_pageset_remove(&batch->releasing, i);
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
		clear_releasing(batch, i + n);
	(void)ts_uffd_wake(shard->uffd, addr, len_bytes);
}

static void release(struct ts_batch *batch)
{
	struct ts_pageset failed = { { 0 } }, all;

	punch(batch, &failed);
	batch->scratch = (struct ts_pageset){ { 0 } };
	take_back(batch, &failed);
	all = batch->releasing;
	ts_batch_each_run(batch, &all, TS_AWAY, RUN_MAX, open_run);
	all = batch->releasing;
	ts_batch_each_run(batch, &all, TS_ZERO, RUN_MAX, open_run);
	/* Pages without an address: nobody can fault on them or wait for them. */
	all = batch->releasing;
	TS_PAGESET_EACH(i, &all)
		clear_releasing(batch, i);
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
