/* SPDX-License-Identifier: Apache-2.0
 *
 * anon.c — private anonymous memory: pages are moved out of the guest and back.
 *
 * What the kernel gives us: UFFDIO_MOVE (6.8) takes a page out of the guest's page table and puts
 * it into ours, atomically, without a fault, also from write-protected entries, whose protection it
 * drops.  It takes from any mapping, and after a munmap whose event we have not read the one at a
 * page's address may be other memory of the process.  So it is issued on the guest's userfaultfd,
 * which the destination is registered with for that time (staging.h): the kernel then refuses it,
 * in the same step, from the moment on at which the guest's mappings change until we have read so.
 * What that means here: once moved, a page can't change under the encoder; a touch is a MISSING
 * fault, which the fault server answers with a copy of the slot while the word says LEAVING.
 * What the kernel says need not be what it did: with swap in play MOVE reports pages that it has
 * moved as already there, so what happened is read from the page table.
 * What can go wrong: a hole (the guest freed the page lazily): nothing to store, the page is ZERO;
 * a page that can't be moved (EBUSY: pinned, or shared with a child): it stays.
 */
#include <string.h>

#include "memory/memory.h"
#include "memory/staging.h"
#include "os/pagemap.h"
#include "os/uapi.h"
#include "os/uffd.h"
#include "page/frames.h"
#include "util/hook.h"

/* Pages one MOVE takes: the gate is shared, and so events wait, for the length of the call (0.2 us
 * a page, 1 us alone).  A whole huge page is moved as one. */
enum { RUN_MAX = 64, RETRY_MAX = 100 };

static void mark_hole(struct ts_batch *batch, unsigned i)
{
	(void)ts_batch_swap_owned(batch, i, ts_word_make(TS_ZERO, 0, 0));
	batch->nr_cancelled++;
	ts_batch_drop_kept(batch, i);
	ts_pageset_remove(&batch->owned, i);
}

static void move_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i, unsigned nr_pages,
		     uint64_t addr)
{
	unsigned end = i + nr_pages, nr_retries = 0;

	TS_PHASE(TS_PHASE_ADDRESS);
	while (i < end) {
		struct ts_uffd_result result =
			ts_uffd_move(shard->uffd,
				     (uintptr_t)batch->data + ((uint64_t)i << TS_PAGE_SHIFT), addr,
				     (uint64_t)(end - i) << TS_PAGE_SHIFT);
		for (unsigned n = 0; n < result.done_bytes >> TS_PAGE_SHIFT; n++)
			ts_pageset_add(&batch->scratch, i++);
		addr += result.done_bytes;
		if (i == end)
			return;
		/* After a short answer the next call tells why; a race in the kernel passes, and an
		 * event does not while we share the gate. */
		bool is_over = false;
		if (result.outcome == TS_UFFD_RETRY) {
			is_over = !result.done_bytes && ts_uffd_is_changing(shard->uffd);
			if (!is_over && (result.done_bytes > 0 || nr_retries++ < RETRY_MAX))
				continue;
		}
		/* The slot tells the truth: it was empty.  Where the page was swapped out, MOVE may
		 * move it, try again inside the kernel, and report the slot it has just filled
		 * (EEXIST).
		 * Otherwise the page stays; its word is changed after the walk, for that may have
		 * to wait for a fault, which may wait for the gate. */
		if (ts_pagemap_is_filled(batch->region->pagemap_fd,
					 (uintptr_t)batch->data + ((uint64_t)i << TS_PAGE_SHIFT)))
			ts_pageset_add(&batch->scratch, i);
		else if (result.outcome == TS_UFFD_ABSENT)
			ts_pageset_add(&batch->holes, i);
		else
			ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], !is_over);
		if (is_over)
			return;
		i++;
		addr += TS_PAGE_BYTES;
	}
}

/* What can't be moved stays with the guest. */
static void move_all(struct ts_batch *batch)
{
	int uffd = ts_region_shard(batch->region, batch->first_page)->uffd;
	struct ts_pageset all = batch->owned;

	if (!ts_pageset_count(&all))
		return;
	if (ts_staging_lend(batch->staging, batch->segment, uffd)) {
		ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], ts_pageset_count(&all));
		return;
	}
	ts_batch_each_run(batch, &all, TS_LEAVING, RUN_MAX, move_run);
	ts_staging_lend_end(batch->staging, batch->segment, uffd);
}

static void wake_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i, unsigned nr_pages,
		     uint64_t addr)
{
	(void)batch;
	(void)i;
	(void)ts_uffd_wake(shard->uffd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT);
}

static void look_run(struct ts_batch *batch, struct ts_shard *shard, unsigned i, unsigned nr_pages,
		     uint64_t addr)
{
	static const struct ts_scan_filter accessed = { .mask = PAGE_IS_ACCESSED };
	struct ts_pageset_run touched = { &batch->scratch, addr, i };

	/* Only for the better: what is not told is taken, and comes back by a fault. */
	(void)ts_pagemap_scan(shard->region->pagemap_fd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT,
			      &accessed, ts_pageset_note, &touched);
}

/* Tracker rwp: pages that were touched since the scan stay. */
static void drop_touched(struct ts_batch *batch)
{
	struct ts_pageset all = batch->owned;

	batch->scratch = (struct ts_pageset){ { 0 } };
	ts_batch_each_run(batch, &all, TS_LEAVING, TS_CHUNK_PAGES, look_run);
	TS_PAGESET_EACH(i, &batch->scratch) {
		(void)ts_batch_swap_owned(batch, i, ts_word_make(TS_RESIDENT, 0, 0));
		batch->nr_cancelled++;
		ts_batch_drop_kept(batch, i);
		ts_pageset_remove(&batch->owned, i);
	}
}

static void take(struct ts_batch *batch)
{
	struct ts_pageset moved;

	/* Their words had left LEAVING before they were moved: their slots are empty. */
	ts_batch_drop_cancelled(batch);
	if (batch->skip_touched)
		drop_touched(batch);
	batch->scratch = batch->holes = (struct ts_pageset){ { 0 } };
	move_all(batch);
	/* Not moved: MOVE refused them, or a stale fault held them for a moment, or they have no
	 * address. They are still the guest's. */
	TS_PAGESET_EACH(i, &batch->owned) {
		if (ts_pageset_has(&batch->holes, i))
			mark_hole(batch, i);
		else if (!ts_pageset_has(&batch->scratch, i))
			ts_batch_disown(batch, i);
	}
	/* MOVE wakes nobody on its source. */
	moved = batch->owned;
	ts_batch_each_run(batch, &moved, TS_LEAVING, RUN_MAX, wake_run);
}

static void release(struct ts_batch *batch)
{
	/* The words never carried RELEASING: a fault needs nothing from the slot once the page is
	 * AWAY.  The segment is emptied when the batch ends. */
	batch->releasing = (struct ts_pageset){ { 0 } };
}

/* Back where it came from.  COPY for the rare address that MOVE refuses because of a marker. */
static struct ts_uffd_result install_back(struct ts_batch *batch, struct ts_shard *shard,
					  unsigned i, uint64_t addr)
{
	const uint8_t *slot = batch->data + ((uint64_t)i << TS_PAGE_SHIFT);
	struct ts_uffd_result result = ts_uffd_move(shard->uffd, addr, (uintptr_t)slot,
						    TS_PAGE_BYTES);

	if (result.outcome == TS_UFFD_DONE)
		return result;
	/* As in move_run(): an empty slot means that the page is back, whatever MOVE says. */
	int pagemap_fd = batch->region->pagemap_fd;
	if (!ts_pagemap_is_filled(pagemap_fd, (uintptr_t)slot) &&
	    ts_pagemap_is_filled(pagemap_fd, addr))
		return (struct ts_uffd_result){ .outcome = TS_UFFD_DONE };
	if (result.outcome == TS_UFFD_PRESENT || result.outcome == TS_UFFD_BUSY ||
	    result.outcome == TS_UFFD_FAILED)
		result = ts_uffd_copy(shard->uffd, addr, slot, TS_PAGE_BYTES);
	/* Also said of a page table that comes or goes this moment. */
	if (result.outcome == TS_UFFD_PRESENT && !ts_pagemap_is_filled(pagemap_fd, addr))
		result.outcome = TS_UFFD_RETRY;
	return result;
}

/* One try; false: later. */
static bool try_give_back(struct ts_batch *batch, unsigned i)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	ts_word_slot *word = ts_batch_word(batch, i);
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, batch->first_page + i, NULL);
	if (addr && (ts_word_load(word) & TS_WORD_REMOVED))
		result = ts_uffd_zeropage(shard->uffd, addr);
	else if (addr)
		result = install_back(batch, shard, i, addr);
	ts_gate_unshare(&shard->gate);

	switch (result.outcome) {
	case TS_UFFD_DONE:
	case TS_UFFD_PRESENT:
		ts_word_finish(word, ts_word_make(TS_RESIDENT, 0, 0));
		(void)ts_uffd_wake(shard->uffd, addr, TS_PAGE_BYTES);
		return true;
	case TS_UFFD_GONE:
	case TS_UFFD_ABSENT:
		ts_word_finish(word, ts_word_make(TS_GONE, 0, 0));
		return true;
	case TS_UFFD_RETRY:
	case TS_UFFD_BUSY:
	case TS_UFFD_FAILED:
		return false;
	}
	return false;
}

/* Until it succeeds: the slot holds the only copy.  What it waits for is an event to be read, or
 * the kernel to find a page of memory. */
static void give_back(struct ts_batch *batch)
{
	TS_PAGESET_EACH(i, &batch->owned) {
		ts_word coming = ts_word_make(TS_COMING, TS_WORD_STAGED, ts_batch_slot(batch, i));
		if (ts_batch_swap_owned(batch, i, coming)) {
			struct timespec pause = { .tv_nsec = 100000 };
			while (!try_give_back(batch, i))
				nanosleep(&pause, NULL);
		}
		ts_batch_drop_kept(batch, i);
		ts_pageset_remove(&batch->owned, i);
	}
}

const struct ts_memory_ops ts_memory_anon_ops = {
	.name = "anon",
	.has_probation = true,
	.take = take,
	.release = release,
	.give_back = give_back,
};
