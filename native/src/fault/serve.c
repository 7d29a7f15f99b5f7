/* SPDX-License-Identifier: Apache-2.0
 *
 * serve.c — a faulting page's way back (serve.h).
 *
 *   RESIDENT  the page is there (a stale message), or it is a hole that the guest made (balloon
 *             on a memfd, MADV_FREE): zeros; or a write met a guard left behind: lifted
 *   LEAVING   the eviction is cancelled: anonymous pages are copied back from the staging slot,
 *             memfd pages are un-guarded
 *   AWAY      claimed, fetched, decoded, verified, installed; the rest of the frame if it pays
 *   ZERO      zeros, or the value it was filled with
 *   COMING    somebody else is at it and will wake the waiter
 *   GONE      poisoned
 */
#include "fault/serve.h"

#include <errno.h>

#include "fault/install.h"
#include "fault/mates.h"
#include "fault/minor.h"
#include "fault/server.h"
#include "fault/unit.h"
#include "fault/walk.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "util/hist.h"
#include "util/hook.h"

int ts_serve_init(struct ts_serve_ctx *ctx, struct ts_engine *engine, unsigned depth)
{
	*ctx = (struct ts_serve_ctx){ .engine = engine, .is_beside = true };
	if (engine->faults)
		ctx->ahead = ts_fault_server_ahead(engine->faults);
	TS_ASSERT(depth <= TS_FAULT_DEPTH_MAX);
	int rc = ts_fetch_init(&ctx->fetch, engine, depth);
	if (rc)
		return rc;
	ctx->page_buf = ts_sys_alloc_pages(TS_PAGE_BYTES);
	if (!ctx->page_buf || !ts_unit_init(ctx)) {
		ts_serve_finish(ctx);
		return -ENOMEM;
	}
	return 0;
}

void ts_serve_finish(struct ts_serve_ctx *ctx)
{
	ts_fetch_finish(&ctx->fetch);
	ts_sys_free_pages(ctx->page_buf, TS_PAGE_BYTES);
	ts_unit_finish(ctx);
	ctx->page_buf = NULL;
}

static void note_served_at(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t flags,
			   ts_mono_ns start_ns, ts_mono_ns end_ns)
{
	struct ts_region_counters *counters = &shard->region->counters;

	if (flags & TS_SERVE_PREFETCH) {
		ts_bump(&counters->nr_prefetched, 1);
		return;
	}
	ts_bump(&counters->nr_faults, 1);
	ts_hist_add(&ctx->fetch.stages->hist[TS_STAGE_FAULT], end_ns - start_ns);
}

static void note_served(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t flags,
			ts_mono_ns start_ns)
{
	note_served_at(ctx, shard, flags, start_ns, ts_now_ns());
}

/* Nothing was missing: let the waiter look again. */
static enum ts_serve_outcome wake_stale(struct ts_shard *shard, uint32_t page)
{
	ts_bump(&shard->region->counters.nr_stale, 1);
	ts_install_wake(shard, page);
	return TS_SERVED;
}

/* ---- RESIDENT --------------------------------------------------------------------------- */

/* COMING back to the word that it came from, unless the guest gave the page up meanwhile. */
static void finish_as_before(struct ts_serve_ctx *ctx, ts_word_slot *slot, ts_word word)
{
	if ((ts_word_finish(slot, word) & TS_WORD_REMOVED) && (word & TS_WORD_KEPT))
		ts_frames_unref(&ctx->engine->frames, ts_word_payload(word));
}

static enum ts_serve_outcome serve_resident(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					    uint32_t page, uint32_t flags, ts_mono_ns start_ns,
					    ts_word word)
{
	struct ts_region *region = shard->region;
	ts_word_slot *slot = &region->words[page];

	if (flags & TS_SERVE_PREFETCH)
		return TS_SERVED;
	if (!ts_word_swap(slot, &word, ts_word_make(TS_COMING, 0, 0)))
		return TS_SERVE_LATER;
	if (flags & TS_SERVE_GUARDED) {
		int rc = ts_install_unguard(shard, page);
		finish_as_before(ctx, slot, word);
		if (rc == -EAGAIN)
			return TS_SERVE_LATER;
		ts_bump(&region->counters.nr_faults_guard, 1);
		return rc ? wake_stale(shard, page) : TS_SERVED;
	}
	struct ts_uffd_result result = ts_install_zero(shard, page);
	if (result.outcome != TS_UFFD_DONE) {
		finish_as_before(ctx, slot, word);
		return result.outcome == TS_UFFD_RETRY || result.outcome == TS_UFFD_FAILED ?
		       TS_SERVE_LATER : wake_stale(shard, page);
	}
	if (word & TS_WORD_KEPT)
		ts_frames_unref(&ctx->engine->frames, ts_word_payload(word));
	ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
	ts_bump(&region->counters.nr_faults_zero, 1);
	note_served(ctx, shard, flags, start_ns);
	return TS_SERVED;
}

/* ---- LEAVING ---------------------------------------------------------------------------- */

/* COMING from LEAVING goes back to LEAVING, unless the guest gave the page up meanwhile. */
static void retreat_leaving(ts_word_slot *slot, ts_word coming, ts_word leaving)
{
	ts_word word = coming;

	if (!ts_word_swap(slot, &word, leaving))
		ts_word_finish(slot, ts_word_make(TS_ZERO, 0, 0));
}

static enum ts_serve_outcome serve_staged(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					  uint32_t page, uint32_t flags, ts_mono_ns start_ns,
					  ts_word leaving)
{
	struct ts_region *region = shard->region;
	ts_word_slot *slot = &region->words[page];
	ts_word coming = ts_word_make(TS_COMING, TS_WORD_STAGED, ts_word_payload(leaving));
	ts_word word = leaving;

	if (!ts_word_swap(slot, &word, coming))
		return TS_SERVE_LATER;
	struct ts_uffd_result result = ts_install_staged(
		shard, page, ts_staging_slot(&ctx->engine->staging, ts_word_payload(leaving)));
	switch (result.outcome) {
	case TS_UFFD_DONE:
		break;
	case TS_UFFD_RETRY:
		retreat_leaving(slot, coming, leaving);
		return TS_SERVE_LATER;
	case TS_UFFD_GONE:
		ts_word_finish(slot, ts_word_make(TS_GONE, 0, 0));
		return TS_SERVED;
	case TS_UFFD_PRESENT:
	case TS_UFFD_ABSENT:
	case TS_UFFD_BUSY:
	case TS_UFFD_FAILED:
		/* The message was stale: the page is still in the guest, or the slot is still
		 * empty. The evictor may be moving it this moment, so it stays LEAVING; if it is
		 * gone by the time the waiter looks, there will be another message. */
		retreat_leaving(slot, coming, leaving);
		return flags & TS_SERVE_PREFETCH ? TS_SERVE_LATER : wake_stale(shard, page);
	}
	ts_heat_store(&region->heat[page], ts_heat_make(0, region->guard_scans, 0));
	ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
	ts_bump(&region->counters.nr_faults_staged, 1);
	note_served(ctx, shard, flags, start_ns);
	return TS_SERVED;
}

/* A guarded memfd page: still in the page cache.  A read maps it without us; what comes here is a
 * write, or a hole that the guest made before the eviction began. */
static enum ts_serve_outcome serve_guarded(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					   uint32_t page, uint32_t flags, ts_mono_ns start_ns,
					   ts_word leaving)
{
	ts_word_slot *slot = &shard->region->words[page];
	/* STAGED makes the evictor wait for what comes of it: LEAVING again, and still its own. */
	ts_word coming = ts_word_make(TS_COMING, TS_WORD_STAGED, ts_word_payload(leaving));
	ts_word word = leaving;

	if (!ts_word_swap(slot, &word, coming))
		return TS_SERVE_LATER;
	if (!(flags & TS_SERVE_GUARDED)) {
		struct ts_uffd_result result = ts_install_zero(shard, page);
		if (result.outcome == TS_UFFD_RETRY || result.outcome == TS_UFFD_FAILED) {
			retreat_leaving(slot, coming, leaving);
			return TS_SERVE_LATER;
		}
	}
	int rc = ts_install_unguard(shard, page);
	if (rc == -EAGAIN) {
		retreat_leaving(slot, coming, leaving);
		return TS_SERVE_LATER;
	}
	ts_heat_store(&shard->region->heat[page], ts_heat_make(0, shard->region->guard_scans, 0));
	ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
	ts_bump(&shard->region->counters.nr_faults_guard, 1);
	note_served(ctx, shard, flags, start_ns);
	/* Still guarded: the fault comes again, to a page that is RESIDENT. */
	return rc ? wake_stale(shard, page) : TS_SERVED;
}

/* ---- ZERO ------------------------------------------------------------------------------- */

static enum ts_serve_outcome serve_fill(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					uint32_t page, uint32_t flags, ts_mono_ns start_ns,
					ts_word word)
{
	struct ts_region *region = shard->region;
	ts_word_slot *slot = &region->words[page];
	uint32_t fill = ts_word_payload(word);
	struct ts_uffd_result result;
	ts_word coming = ts_word_make(TS_COMING, 0, TS_COMING_FILL + fill);

	if (!ts_word_swap(slot, &word, coming))
		return TS_SERVE_LATER;
	if (fill) {
		ts_page_fill(ctx->page_buf, ts_fills_value(&ctx->engine->fills, fill));
		result = ts_install_copy(shard, page, ctx->page_buf);
	} else {
		result = ts_install_zero(shard, page);
	}
	if (result.outcome == TS_UFFD_RETRY || result.outcome == TS_UFFD_FAILED) {
		ts_word retreat = coming;
		if (!ts_word_swap(slot, &retreat, ts_word_make(TS_ZERO, 0, fill)))
			ts_word_finish(slot, ts_word_make(TS_ZERO, 0, 0));
		return TS_SERVE_LATER;
	}
	if (result.outcome == TS_UFFD_GONE) {
		ts_word_finish(slot, ts_word_make(TS_GONE, 0, 0));
		return TS_SERVED;
	}
	/* Anonymous and present: the guest gave it up and it is not zapped yet (forget.c). */
	if (result.outcome == TS_UFFD_PRESENT && !fill && region->memfd < 0) {
		ts_word_finish(slot, ts_word_make(TS_ZERO, 0, 0));
		return wake_stale(shard, page);
	}
	ts_heat_store(&region->heat[page], ts_heat_make(0, 0, 0));
	ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
	if (result.outcome == TS_UFFD_PRESENT)
		return wake_stale(shard, page);
	ts_bump(&region->counters.nr_faults_zero, 1);
	note_served(ctx, shard, flags, start_ns);
	return TS_SERVED;
}

/* A write met the guard of a memfd page whose eviction was cut short because the guest gave the
 * page up; it may be there still. */
static enum ts_serve_outcome serve_fill_guarded(struct ts_shard *shard, uint32_t page, ts_word word)
{
	ts_word_slot *slot = &shard->region->words[page];
	ts_word before = word;
	uint32_t fill = ts_word_payload(word);

	if (!ts_word_swap(slot, &word, ts_word_make(TS_COMING, 0, TS_COMING_FILL + fill)))
		return TS_SERVE_LATER;
	int rc = ts_install_unguard(shard, page);
	ts_word_finish(slot, before);
	return rc == -EAGAIN ? TS_SERVE_LATER : wake_stale(shard, page);
}

/* ---- AWAY ------------------------------------------------------------------------------- */

static void push_later(struct ts_serve_ctx *ctx, const struct ts_fetch_slot *slot)
{
	TS_ASSERT(ctx->nr_later < TS_FAULT_DEPTH_MAX);
	ctx->later[ctx->nr_later++] = (struct ts_later){ slot->shard, slot->page, slot->flags,
							 slot->start_ns };
}

/* The frame is unreadable or wrong: the page is lost, and must not come back as anything else. */
static void poison(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot, enum ts_failure reason)
{
	struct ts_region *region = slot->shard->region;
	_Atomic uint64_t *failures = region->counters.failures;

	/* Counted first: the poison wakes the reader, who may look at the counters next. */
	ts_bump(&failures[reason], 1);
	ts_bump(&failures[TS_FAIL_POISONED], 1);
	struct ts_uffd_result result = ts_install_poison(slot->shard, slot->page);
	if (result.outcome == TS_UFFD_RETRY || result.outcome == TS_UFFD_FAILED) {
		atomic_fetch_sub(&failures[reason], 1);
		atomic_fetch_sub(&failures[TS_FAIL_POISONED], 1);
		ts_install_retreat(ctx->engine, region, slot->page, slot->frame, slot->tier);
		push_later(ctx, slot);
		return;
	}
	ts_install_finish(ctx->engine, region, slot->page, slot->frame, slot->tier,
			  ts_word_make(TS_GONE, 0, 0));
	ts_install_wake(slot->shard, slot->page);
}

/* Came back, all right: age, guard, kept copy, counters. */
static void note_returned(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot,
			  const void *contents)
{
	struct ts_region *region = slot->shard->region;
	struct ts_tier *tier = &ctx->engine->tiers[slot->tier];
	uint16_t heat = ts_heat_load(&region->heat[slot->page]);

	if (slot->flags & TS_SERVE_PREFETCH) {
		heat = (uint16_t)ts_heat_make(0, 0, ts_heat_refaults(heat));
	} else {
		bool is_refault = ts_install_is_refault(ctx->engine, slot->frame);
		atomic_fetch_add_explicit(&tier->nr_faults, 1, memory_order_relaxed);
		ts_region_note_fault(region, slot->page);
		ts_bump(&region->counters.nr_refaults, is_refault);
		heat = is_refault ? ts_heat_refaulted(heat, ts_install_guard_scans(region, heat)) :
		       (uint16_t)ts_heat_make(0, region->guard_scans, 0);
	}
	ts_heat_store(&region->heat[slot->page], heat);
	if (slot->flags & TS_SERVE_WRITE)
		contents = NULL;
	ts_install_finish_resident(ctx->engine, region, slot->page, slot->frame, slot->tier,
				   contents);
}

/* The slot's read is complete, whatever came of it; ends the slot. */
static void finish_read(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot)
{
	struct ts_region *region = slot->shard->region;
	struct ts_frame_head head;
	int idx = slot->get.status;

	if (!idx)
		idx = ts_fetch_decode(&ctx->fetch, slot, region, slot->page, &head);
	TS_PHASE(TS_PHASE_FAULT_GOT);
	if (idx < 0) {
		poison(ctx, slot, idx == TS_ECORRUPT || idx == TS_ENOTFOUND ? TS_FAIL_CORRUPT :
				  TS_FAIL_GET);
		ts_fetch_release(&ctx->fetch, slot);
		return;
	}
	const uint8_t *contents = ctx->fetch.raw + ((size_t)idx << TS_PAGE_SHIFT);
	uint32_t nr_ignored = atomic_load(&slot->shard->nr_ignored);
	bool is_whole = slot->flags & TS_SERVE_WHOLE;
	struct ts_uffd_result result =
		is_whole ? ts_install_run(ctx->engine, &ctx->fetch, slot, &head) :
			   ts_install_copy(slot->shard, slot->page, contents);
	ts_mono_ns end_ns = ts_now_ns();
	ts_hist_add(&ctx->fetch.stages->hist[TS_STAGE_INSTALL], end_ns - ctx->fetch.raw_ns);
	TS_PHASE(TS_PHASE_INSTALLED);
	switch (result.outcome) {
	case TS_UFFD_DONE:
		note_served_at(ctx, slot->shard, slot->flags, slot->start_ns, end_ns);
		note_returned(ctx, slot, contents);
		if (is_whole)
			ts_install_rest(ctx->engine, &ctx->fetch, slot, &head);
		ts_mates_serve(ctx, slot);
		break;
	case TS_UFFD_PRESENT:
		/* Somebody populated it behind our back: another mapping of the memfd. */
		note_returned(ctx, slot, NULL);
		wake_stale(slot->shard, slot->page);
		break;
	case TS_UFFD_GONE:
		ts_install_finish(ctx->engine, region, slot->page, slot->frame, slot->tier,
				  ts_word_make(TS_GONE, 0, 0));
		break;
	case TS_UFFD_ABSENT:
	case TS_UFFD_BUSY:
	case TS_UFFD_FAILED:
		ts_bump(&region->counters.failures[TS_FAIL_INSTALL], 1);
		/* fallthrough */
	case TS_UFFD_RETRY:
		ts_install_retreat(ctx->engine, region, slot->page, slot->frame, slot->tier);
		push_later(ctx, slot);
		break;
	}
	ts_install_settle(slot->shard, slot->page, nr_ignored);
	ts_fetch_release(&ctx->fetch, slot);
}

/* A slow tier leaves a quarter of the slots to the others. */
static bool is_crowded(const struct ts_fetch *fetch, unsigned tier)
{
	return fetch->engine->nr_tiers > 1 &&
	       fetch->nr_busy_tier[tier] >= fetch->depth - fetch->depth / 4;
}

static enum ts_serve_outcome serve_away(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					uint32_t page, uint32_t flags, ts_mono_ns start_ns,
					ts_word word)
{
	struct ts_region *region = shard->region;
	uint32_t frame = ts_word_payload(word);

	if (flags & TS_SERVE_GUARDED)
		return wake_stale(shard, page);  /* punched meanwhile: it comes back as MISSING */
	if (ctx->nr_later + ctx->fetch.nr_busy >= TS_FAULT_DEPTH_MAX)
		return TS_SERVE_LATER;
	unsigned tier = ts_frame_tier(ts_frames_load(&ctx->engine->frames, frame));
	if (is_crowded(&ctx->fetch, tier))
		return TS_SERVE_LATER;
	struct ts_fetch_slot *slot = ts_fetch_acquire(&ctx->fetch);
	if (!slot)
		return TS_SERVE_LATER;
	if (!ts_word_swap(&region->words[page], &word, ts_word_make(TS_COMING, 0, frame))) {
		ts_fetch_release(&ctx->fetch, slot);
		return TS_SERVE_LATER;
	}
	TS_PHASE(TS_PHASE_FAULT_CLAIMED);
	slot->shard = shard;
	slot->page = page;
	slot->flags = flags;
	slot->start_ns = start_ns;
	slot->frame = frame;
	slot->tier = (uint8_t)ts_frame_tier(ts_frames_load(&ctx->engine->frames, frame));
	ts_walk_note(ctx, slot);
	ts_mates_plan(slot);
	if (!ts_fetch_is_decoded(&ctx->fetch, slot) && ts_fetch_start(&ctx->fetch, slot) > 0)
		return TS_SERVE_PENDING;
	finish_read(ctx, slot);
	return TS_SERVED;
}

unsigned ts_serve_reap(struct ts_serve_ctx *ctx, int wait_ms)
{
	/* Whoever gets a page asks for the next one at once.  To see that before all that is there
	 * has been decoded and copied keeps the disk at work meanwhile. */
	enum { REAP_MAX = 2 };
	struct ts_fetch_slot *done[REAP_MAX];
	unsigned nr_done = ts_fetch_reap(&ctx->fetch, done, REAP_MAX, wait_ms);

	for (unsigned i = 0; i < nr_done; i++)
		if (done[i]->unit)
			ts_unit_got(ctx, done[i]);
		else
			finish_read(ctx, done[i]);
	return nr_done;
}

/* ---- The page's word decides ------------------------------------------------------------ */

/* Counted first, then looked at again: either we see that COMING has ended, or its owner sees that
 * we counted. */
enum ts_serve_outcome ts_serve_ignore(struct ts_shard *shard, uint32_t page, uint32_t flags)
{
	if (flags & TS_SERVE_PREFETCH)
		return TS_SERVE_IGNORED;
	atomic_fetch_add(&shard->nr_ignored, 1);
	return ts_word_is(atomic_load(&shard->region->words[page]), TS_COMING) ? TS_SERVE_IGNORED :
	       TS_SERVE_LATER;
}

static enum ts_serve_outcome serve_by_state(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					    uint32_t page, uint32_t flags, ts_mono_ns start_ns)
{
	struct ts_region *region = shard->region;
	ts_word word = ts_word_load(&region->words[page]);

	if ((flags & TS_SERVE_MINOR) && ts_minor_is_due(word))
		return ts_minor_serve(ctx, shard, page, start_ns, word);
	switch (ts_word_state(word)) {
	case TS_RESIDENT:
		return serve_resident(ctx, shard, page, flags, start_ns, word);
	case TS_LEAVING:
		return region->memfd < 0 ?
		       serve_staged(ctx, shard, page, flags, start_ns, word) :
		       serve_guarded(ctx, shard, page, flags, start_ns, word);
	case TS_AWAY:
		/* The evictor wakes everybody as soon as it has given back the RAM; before that, an
		 * install could be punched out again. */
		if (word & TS_WORD_RELEASING)
			return TS_SERVE_IGNORED;
		return serve_away(ctx, shard, page, flags, start_ns, word);
	case TS_COMING:
		return ts_serve_ignore(shard, page, flags);
	case TS_ZERO:
		if (word & TS_WORD_RELEASING)
			return TS_SERVE_IGNORED;
		if (flags & TS_SERVE_GUARDED)
			return serve_fill_guarded(shard, page, word);
		return serve_fill(ctx, shard, page, flags, start_ns, word);
	case TS_GONE:
		(void)ts_install_poison(shard, page);
		ts_install_wake(shard, page);
		return TS_SERVED;
	case TS_STATE_COUNT:
		break;
	}
	TS_ASSERT(!"a word has one of six states");
	return TS_SERVED;
}

enum ts_serve_outcome ts_serve_page(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t page,
				    uint32_t flags, ts_mono_ns start_ns)
{
	if (shard->region->unit_pages > 1)
		return ts_unit_serve(ctx, shard, page, flags, start_ns);
	uint32_t nr_ignored = atomic_load(&shard->nr_ignored);
	enum ts_serve_outcome outcome = serve_by_state(ctx, shard, page, flags, start_ns);

	if (outcome == TS_SERVED)
		ts_install_settle(shard, page, nr_ignored);
	return outcome;
}
