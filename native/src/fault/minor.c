/* SPDX-License-Identifier: Apache-2.0
 *
 * minor.c — maps pages that the page cache has and the guest's page table lacks (minor.h).
 *
 * RESIDENT: never mapped, swapped out by the kernel, or a huge page that RWPROTECT unmapped.
 * LEAVING: the same, and an eviction that this touch cancels.  ZERO: we took it for a hole, and
 * somebody has written to it through the descriptor or another mapping.
 */
#include "fault/minor.h"

#include "fault/install.h"
#include "util/hist.h"

void ts_minor_retreat(struct ts_serve_ctx *ctx, ts_word_slot *slot, ts_word coming, ts_word before)
{
	ts_word word = coming;

	if (ts_word_swap(slot, &word, before))
		return;
	ts_word_finish(slot, ts_word_make(TS_ZERO, 0, 0));
	if (ts_word_is(before, TS_RESIDENT) && (before & TS_WORD_KEPT))
		ts_frames_unref(&ctx->engine->frames, ts_word_payload(before));
}

static void finish(struct ts_serve_ctx *ctx, struct ts_region *region, uint32_t page,
		   ts_word coming, ts_word before)
{
	if (ts_word_is(before, TS_RESIDENT)) {
		ts_minor_retreat(ctx, &region->words[page], coming, before);
		return;
	}
	ts_heat_store(&region->heat[page],
		      ts_heat_make(0, ts_word_is(before, TS_LEAVING) ? region->guard_scans : 0, 0));
	ts_word_finish(&region->words[page], ts_word_make(TS_RESIDENT, 0, 0));
}

enum ts_serve_outcome ts_minor_serve(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				     uint32_t page, ts_mono_ns start_ns, ts_word word)
{
	struct ts_region *region = shard->region;
	/* STAGED makes the evictor wait for what comes of it. */
	ts_word before = word, coming = ts_word_is(word, TS_LEAVING) ?
			 ts_word_make(TS_COMING, TS_WORD_STAGED, ts_word_payload(word)) :
			 ts_word_make(TS_COMING, 0, 0);

	if (!ts_word_swap(&region->words[page], &word, coming))
		return TS_SERVE_LATER;
	struct ts_uffd_result result = ts_install_continue(shard, page);
	switch (result.outcome) {
	case TS_UFFD_DONE:
	case TS_UFFD_PRESENT:
		finish(ctx, region, page, coming, before);
		break;
	case TS_UFFD_RETRY:
	case TS_UFFD_BUSY:
	case TS_UFFD_FAILED:
		ts_minor_retreat(ctx, &region->words[page], coming, before);
		return TS_SERVE_LATER;
	case TS_UFFD_ABSENT:
	case TS_UFFD_GONE:
		/* Not in the page cache any more, or unmapped: the fault comes again, if at all,
		 * as what it is then. */
		ts_minor_retreat(ctx, &region->words[page], coming, before);
		ts_install_wake(shard, page);
		return TS_SERVED;
	}
	/* PRESENT woke nobody. */
	if (result.outcome == TS_UFFD_PRESENT)
		ts_install_wake(shard, page);
	ts_bump(&region->counters.nr_faults_guard, 1);
	ts_hist_add(&ctx->fetch.stages->hist[TS_STAGE_FAULT], ts_now_ns() - start_ns);
	return TS_SERVED;
}
