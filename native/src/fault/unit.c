/* SPDX-License-Identifier: Apache-2.0
 *
 * unit.c — a hugetlb page's way back: all its frames are read and decoded into a buffer, and
 * installed in one call (unit.h).
 *
 * A fault on a unit that is away claims it and asks for its frames, several at a time.  While it
 * waits for stores the thread serves others; a unit always has a read under way, so the thread
 * comes back to it (ts_unit_got), and detach sees it.
 * What can go wrong: no huge page is free (ENOMEM).  The unit goes back to what it was, and the
 * fault is asked again every RETRY_NS: the waiter sleeps until there is a page.  A frame that can't
 * be read back costs the whole unit, for there is no poison smaller than a huge page.
 */
#include "fault/unit.h"

#include <errno.h>
#include <string.h>

#include "fault/install.h"
#include "fault/unit_io.h"
#include "os/sys.h"
#include "util/hist.h"
#include "util/hook.h"

enum { RETRY_NS = 10000000, BUFS_BYTES = TS_UNIT_BYTES * (TS_UNIT_MAX + 1) };

bool ts_unit_init(struct ts_serve_ctx *ctx)
{
	ctx->unit_bufs = ts_sys_alloc_pages(BUFS_BYTES);
	for (unsigned n = 0; n < TS_UNIT_MAX && ctx->unit_bufs; n++)
		ctx->units[n].buf = ctx->unit_bufs + (size_t)n * TS_UNIT_BYTES;
	if (ctx->unit_bufs)
		ctx->zero_unit = ctx->unit_bufs + (size_t)TS_UNIT_MAX * TS_UNIT_BYTES;
	return ctx->unit_bufs;
}

void ts_unit_finish(struct ts_serve_ctx *ctx)
{
	ts_sys_free_pages(ctx->unit_bufs, BUFS_BYTES);
	ctx->unit_bufs = NULL;
}

/* ---- AWAY, ZERO: claim, and give up ----------------------------------------------------- */

static ts_word coming_of(ts_word word)
{
	uint32_t fill = ts_word_is(word, TS_ZERO) ? TS_COMING_FILL : 0;

	return ts_word_make(TS_COMING, 0, fill + ts_word_payload(word));
}

static bool is_away(ts_word word)
{
	return (ts_word_is(word, TS_AWAY) || ts_word_is(word, TS_ZERO)) &&
	       !(word & TS_WORD_RELEASING);
}

static unsigned tier_of(const struct ts_serve_ctx *ctx, uint32_t frame)
{
	return ts_frame_tier(ts_frames_load(&ctx->engine->frames, frame));
}

/* Of what is ours of the unit, page by page from *i down, so that the lock comes last. */
static bool next_coming(struct ts_shard *shard, uint32_t first, unsigned *i, uint32_t *payload_out)
{
	while ((*i)-- > 0) {
		ts_word word = ts_word_load(ts_unit_word(shard, first, *i));
		*payload_out = ts_word_payload(word);
		if (ts_word_is(word, TS_COMING))
			return true;
	}
	return false;
}

/* Not now: what we have of it becomes what it was, the lock last. */
static void retreat(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t first)
{
	uint32_t payload;

	for (unsigned i = TS_CHUNK_PAGES; next_coming(shard, first, &i, &payload);) {
		ts_word_slot *slot = ts_unit_word(shard, first, i);
		if (payload < TS_COMING_FILL) {
			ts_install_retreat(ctx->engine, shard->region, first + i, payload,
					   tier_of(ctx, payload));
			continue;
		}
		ts_word coming = ts_word_make(TS_COMING, 0, payload);
		ts_word zero = ts_word_make(TS_ZERO, 0, payload - TS_COMING_FILL);
		if (!ts_word_swap(slot, &coming, zero))
			ts_word_finish(slot, ts_word_make(TS_ZERO, 0, 0));
	}
}

/* All that is ours ends as @to, and its frames lose it; the lock last. */
static void finish_all(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t first, ts_word to)
{
	uint32_t payload;

	for (unsigned i = TS_CHUNK_PAGES; next_coming(shard, first, &i, &payload);) {
		ts_word_finish(ts_unit_word(shard, first, i), to);
		if (payload < TS_COMING_FILL)
			ts_frames_drop_page(&ctx->engine->frames, payload);
	}
}

/* The lock is ours.  False: a part is somebody else's; nothing is ours any more. */
static bool claim_rest(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t first)
{
	for (unsigned i = 1; i < TS_CHUNK_PAGES; i++) {
		ts_word_slot *slot = ts_unit_word(shard, first, i);
		ts_word word = ts_word_load(slot);
		while (is_away(word) && !ts_word_swap(slot, &word, coming_of(word)))
			;
		/* Unmapped meanwhile: all of it is, which the install finds. */
		if (is_away(word) || ts_word_is(word, TS_GONE))
			continue;
		retreat(ctx, shard, first);
		return false;
	}
	return true;
}

/* ---- Reading ---------------------------------------------------------------------------- */

static uint32_t payload_of(const struct ts_unit *unit, unsigned i)
{
	return ts_word_payload(ts_word_load(ts_unit_word(unit->shard, unit->first, i)));
}

/* Of which pages the contents have to be read; fills are written down.  What is zeros altogether
 * takes no buffer. */
static void sort_pages(struct ts_serve_ctx *ctx, struct ts_unit *unit)
{
	struct ts_pageset filled = { { 0 } };
	bool is_zero = true;

	for (unsigned i = 0; i < TS_CHUNK_PAGES; i++) {
		ts_word word = ts_word_load(ts_unit_word(unit->shard, unit->first, i));
		is_zero &= ts_word_payload(word) == TS_COMING_FILL;
		if (!ts_word_is(word, TS_COMING))
			continue;
		ts_pageset_add(ts_word_payload(word) < TS_COMING_FILL ? &unit->todo : &filled, i);
	}
	unit->missing = unit->todo;
	unit->contents = is_zero ? ctx->zero_unit : unit->buf;
	TS_PAGESET_EACH(i, &filled) {
		uint32_t payload = payload_of(unit, i);
		if (!is_zero)
			ts_page_fill(unit->buf + ((size_t)i << TS_PAGE_SHIFT),
				     ts_fills_value(&ctx->engine->fills, payload - TS_COMING_FILL));
	}
}

/* What the frame has of this unit goes to its buffer. */
static void take_pages(struct ts_serve_ctx *ctx, struct ts_unit *unit, uint32_t frame,
		       const struct ts_frame_head *head)
{
	const uint8_t *contents = ctx->fetch.raw;

	for (uint64_t bits = head->page_bits; bits; bits &= bits - 1, contents += TS_PAGE_BYTES) {
		uint32_t i = head->base_page + (uint32_t)__builtin_ctzll(bits) - unit->first;
		if (i >= TS_CHUNK_PAGES || !ts_pageset_has(&unit->missing, i) ||
		    payload_of(unit, i) != frame)
			continue;
		memcpy(unit->buf + ((size_t)i << TS_PAGE_SHIFT), contents, TS_PAGE_BYTES);
		ts_pageset_remove(&unit->missing, i);
	}
}

/* Ends the slot, whose read is complete. */
static void take_frame(struct ts_serve_ctx *ctx, struct ts_unit *unit, struct ts_fetch_slot *slot)
{
	struct ts_frame_head head;
	int rc = slot->get.status;

	if (!rc)
		rc = ts_fetch_decode(&ctx->fetch, slot, unit->shard->region, slot->page, &head);
	if (rc < 0)
		unit->error = rc;
	else
		take_pages(ctx, unit, slot->frame, &head);
	ts_fetch_release(&ctx->fetch, slot);
}

/* A unit always has one read under way, and leaves half of the slots, and a quarter of those for a
 * tier, to others. */
static bool may_read(const struct ts_serve_ctx *ctx, const struct ts_unit *unit, unsigned tier)
{
	const struct ts_fetch *fetch = &ctx->fetch;

	if (!unit->nr_reads)
		return true;
	return unit->nr_reads < TS_MAX(1, fetch->depth / 2) && fetch->nr_busy < fetch->depth &&
	       ctx->nr_later + fetch->nr_busy < TS_FAULT_DEPTH_MAX &&
	       fetch->nr_busy_tier[tier] < TS_MAX(1, fetch->depth - fetch->depth / 4);
}

/* The frame of page i, and with it all pages that it is said to have. */
static void read_frame(struct ts_serve_ctx *ctx, struct ts_unit *unit, unsigned i, unsigned tier)
{
	uint32_t frame = payload_of(unit, i);
	unsigned end = TS_MIN(i + TS_FRAME_PAGES_MAX, (unsigned)TS_CHUNK_PAGES);
	struct ts_fetch_slot *slot = ts_fetch_acquire(&ctx->fetch);

	TS_ASSERT(slot);
	slot->unit = unit;
	slot->shard = unit->shard;
	slot->page = unit->first + i;
	slot->flags = unit->flags;
	slot->start_ns = unit->start_ns;
	slot->frame = frame;
	slot->tier = (uint8_t)tier;
	for (unsigned n = i; n < end; n++)
		if (payload_of(unit, n) == frame)
			ts_pageset_remove(&unit->todo, n);
	if (!ts_fetch_is_decoded(&ctx->fetch, slot) && ts_fetch_start(&ctx->fetch, slot) > 0)
		unit->nr_reads++;
	else
		take_frame(ctx, unit, slot);
}

/* ---- Back ------------------------------------------------------------------------------- */

static void push_later(struct ts_serve_ctx *ctx, const struct ts_unit *unit)
{
	TS_ASSERT(ctx->nr_later < TS_FAULT_DEPTH_MAX);
	ctx->later[ctx->nr_later++] = (struct ts_later){ unit->shard, unit->first, unit->flags,
							 unit->start_ns };
}

/* The age of what came back, and whose fault it was: of the first page that was read. */
static uint16_t heat_of(struct ts_serve_ctx *ctx, const struct ts_unit *unit)
{
	struct ts_region *region = unit->shard->region;
	uint16_t heat = ts_heat_load(&region->heat[unit->first]);
	unsigned i = 0;
	uint32_t frame;

	if (unit->flags & TS_SERVE_PREFETCH)
		return (uint16_t)ts_heat_make(0, 0, ts_heat_refaults(heat));
	do
		frame = payload_of(unit, i);
	while ((!frame || frame >= TS_COMING_FILL) && ++i < TS_CHUNK_PAGES);
	if (i == TS_CHUNK_PAGES)
		return (uint16_t)ts_heat_make(0, 0, 0);
	bool is_refault = ts_install_is_refault(ctx->engine, frame);
	atomic_fetch_add_explicit(&ctx->engine->tiers[tier_of(ctx, frame)].nr_faults, 1,
				  memory_order_relaxed);
	ts_bump(&region->counters.nr_refaults, is_refault);
	return is_refault ? ts_heat_refaulted(heat, ts_install_guard_scans(region, heat)) :
	       (uint16_t)ts_heat_make(0, region->guard_scans, 0);
}

/* Installed, or found to be there (then no copy is right): RESIDENT, the lock last.  If it was
 * given up meanwhile all of it is, though some pages were claimed after that. */
static void finish_resident(struct ts_serve_ctx *ctx, const struct ts_unit *unit, bool is_copied)
{
	struct ts_region *region = unit->shard->region;
	uint32_t payload;
	unsigned nr_read = 0;

	if (ts_word_load(ts_unit_word(unit->shard, unit->first, 0)) & TS_WORD_REMOVED) {
		finish_all(ctx, unit->shard, unit->first, ts_word_make(TS_ZERO, 0, 0));
		return;
	}
	ts_unit_set_heat(region, unit->first, heat_of(ctx, unit));
	for (unsigned i = TS_CHUNK_PAGES; next_coming(unit->shard, unit->first, &i, &payload);) {
		if (payload >= TS_COMING_FILL) {
			ts_word_finish(ts_unit_word(unit->shard, unit->first, i),
				       ts_word_make(TS_RESIDENT, 0, 0));
			continue;
		}
		nr_read++;
		ts_install_finish_resident(ctx->engine, region, unit->first + i, payload,
					   tier_of(ctx, payload), is_copied ?
					   unit->contents + ((size_t)i << TS_PAGE_SHIFT) : NULL);
	}
	if (is_copied)
		ts_bump(nr_read ? &region->counters.nr_restored : &region->counters.nr_faults_zero,
			nr_read ? nr_read - 1 : 1);
}

static void poison(struct ts_serve_ctx *ctx, const struct ts_unit *unit)
{
	_Atomic uint64_t *failures = unit->shard->region->counters.failures;
	bool is_corrupt = unit->error == TS_ECORRUPT || unit->error == TS_ENOTFOUND ||
			  unit->error == 0;
	enum ts_failure reason = is_corrupt ? TS_FAIL_CORRUPT : TS_FAIL_GET;

	/* Counted first: the poison wakes the reader, who may look at the counters next. */
	ts_bump(&failures[reason], 1);
	ts_bump(&failures[TS_FAIL_POISONED], TS_CHUNK_PAGES);
	struct ts_uffd_result result = ts_install_poison(unit->shard, unit->first);
	if (result.outcome == TS_UFFD_RETRY || result.outcome == TS_UFFD_FAILED) {
		atomic_fetch_sub(&failures[reason], 1);
		atomic_fetch_sub(&failures[TS_FAIL_POISONED], TS_CHUNK_PAGES);
		retreat(ctx, unit->shard, unit->first);
		push_later(ctx, unit);
		return;
	}
	finish_all(ctx, unit->shard, unit->first, ts_word_make(TS_GONE, 0, 0));
	ts_unit_wake(unit->shard, unit->first);
}

static void bring_back(struct ts_serve_ctx *ctx, const struct ts_unit *unit)
{
	ts_mono_ns start_ns = ts_now_ns();
	struct ts_uffd_result result =
		ts_unit_install(ctx, unit->shard, unit->first, unit->contents);

	ts_hist_add(&ctx->fetch.stages->hist[TS_STAGE_INSTALL], ts_now_ns() - start_ns);
	TS_PHASE(TS_PHASE_INSTALLED);
	switch (result.outcome) {
	case TS_UFFD_DONE:
		ts_unit_note_served(ctx, unit->shard, unit->flags, unit->start_ns);
		finish_resident(ctx, unit, true);
		break;
	case TS_UFFD_PRESENT:
		/* Somebody populated it behind our back: another mapping of the memfd. */
		finish_resident(ctx, unit, false);
		ts_unit_wake_stale(unit->shard, unit->first);
		break;
	case TS_UFFD_GONE:
		finish_all(ctx, unit->shard, unit->first, ts_word_make(TS_GONE, 0, 0));
		break;
	case TS_UFFD_ABSENT:
	case TS_UFFD_BUSY:
	case TS_UFFD_FAILED:
	case TS_UFFD_RETRY:
		retreat(ctx, unit->shard, unit->first);
		push_later(ctx, unit);
		break;
	}
}

/* Reads on; SERVED: it has come to its end. */
static enum ts_serve_outcome go_on(struct ts_serve_ctx *ctx, struct ts_unit *unit)
{
	unsigned i;

	while (!unit->error && (i = ts_pageset_next(&unit->todo, 0)) < TS_CHUNK_PAGES) {
		unsigned tier = tier_of(ctx, payload_of(unit, i));
		if (!may_read(ctx, unit, tier))
			break;
		read_frame(ctx, unit, i, tier);
	}
	if (unit->nr_reads)
		return TS_SERVE_PENDING;
	TS_PHASE(TS_PHASE_FAULT_GOT);
	uint32_t nr_ignored = unit->nr_ignored;
	struct ts_shard *shard = unit->shard;
	if (unit->error || ts_pageset_next(&unit->missing, 0) < TS_CHUNK_PAGES)
		poison(ctx, unit);
	else
		bring_back(ctx, unit);
	unit->shard = NULL;
	ts_unit_settle(shard, unit->first, nr_ignored);
	return TS_SERVED;
}

void ts_unit_got(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_unit *unit = slot->unit;

	unit->nr_reads--;
	take_frame(ctx, unit, slot);
	(void)go_on(ctx, unit);
}

static struct ts_unit *free_unit(struct ts_serve_ctx *ctx)
{
	for (unsigned n = 0; n < TS_UNIT_MAX; n++)
		if (!ctx->units[n].shard)
			return &ctx->units[n];
	return NULL;
}

static bool is_too_soon(const struct ts_region *region)
{
	uint64_t no_huge_ns = atomic_load_explicit(&region->no_huge_ns, memory_order_relaxed);

	return TS_UNLIKELY(no_huge_ns) && ts_now_ns() < no_huge_ns + RETRY_NS;
}

static enum ts_serve_outcome serve_away(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					uint32_t first, uint32_t flags, ts_mono_ns start_ns,
					ts_word word)
{
	struct ts_unit *unit = free_unit(ctx);
	uint32_t nr_ignored = atomic_load(&shard->nr_ignored);

	if (!unit || is_too_soon(shard->region) || ctx->fetch.nr_busy == ctx->fetch.depth ||
	    ctx->nr_later + ctx->fetch.nr_busy >= TS_FAULT_DEPTH_MAX)
		return TS_SERVE_LATER;
	if (!ts_word_swap(ts_unit_word(shard, first, 0), &word, coming_of(word)))
		return TS_SERVE_LATER;
	if (!claim_rest(ctx, shard, first)) {
		ts_unit_settle(shard, first, nr_ignored);
		return TS_SERVE_LATER;
	}
	TS_PHASE(TS_PHASE_FAULT_CLAIMED);
	*unit = (struct ts_unit){ .shard = shard, .first = first, .flags = flags,
				  .start_ns = start_ns, .nr_ignored = nr_ignored,
				  .buf = unit->buf };
	sort_pages(ctx, unit);
	return go_on(ctx, unit);
}

/* ---- The first word decides ------------------------------------------------------------- */

/* Given up, and there still: it stays what it is, without its protection. */
static enum ts_serve_outcome serve_zero_guarded(struct ts_shard *shard, uint32_t first,
						ts_word word)
{
	ts_word_slot *slot = ts_unit_word(shard, first, 0);
	ts_word before = word;

	if (!ts_word_swap(slot, &word, coming_of(word)))
		return TS_SERVE_LATER;
	int rc = ts_unit_unguard(shard, first);
	ts_word_finish(slot, before);
	return rc == -EAGAIN ? TS_SERVE_LATER : ts_unit_wake_stale(shard, first);
}

static enum ts_serve_outcome serve_by_state(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					    uint32_t first, uint32_t flags, ts_mono_ns start_ns)
{
	ts_word word = ts_word_load(ts_unit_word(shard, first, 0));

	switch (ts_word_state(word)) {
	case TS_RESIDENT:
		if (flags & TS_SERVE_PREFETCH)
			return TS_SERVED;
		return ts_unit_serve_present(ctx, shard, first, flags, start_ns, word);
	case TS_LEAVING:
		return ts_unit_serve_present(ctx, shard, first, flags, start_ns, word);
	case TS_AWAY:
	case TS_ZERO:
		/* The evictor wakes everybody when it has come to an end. */
		if (word & TS_WORD_RELEASING)
			return TS_SERVE_IGNORED;
		if (flags & TS_SERVE_GUARDED)
			return ts_word_is(word, TS_ZERO) ? serve_zero_guarded(shard, first, word) :
			       ts_unit_wake_stale(shard, first);
		return serve_away(ctx, shard, first, flags, start_ns, word);
	case TS_COMING:
		return ts_serve_ignore(shard, first, flags);
	case TS_GONE:
		(void)ts_install_poison(shard, first);
		ts_unit_wake(shard, first);
		return TS_SERVED;
	case TS_STATE_COUNT:
		break;
	}
	TS_ASSERT(!"a word has one of six states");
	return TS_SERVED;
}

enum ts_serve_outcome ts_unit_serve(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t page,
				    uint32_t flags, ts_mono_ns start_ns)
{
	uint32_t first = page - page % TS_CHUNK_PAGES;
	uint32_t nr_ignored = atomic_load(&shard->nr_ignored);
	enum ts_serve_outcome outcome = serve_by_state(ctx, shard, first, flags, start_ns);

	if (outcome == TS_SERVED)
		ts_unit_settle(shard, first, nr_ignored);
	return outcome;
}
