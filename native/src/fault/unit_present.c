/* SPDX-License-Identifier: Apache-2.0
 *
 * unit_present.c — faults on a hugetlb page that was never away (unit_io.h): it is not mapped, or
 * protected in a window, or a hole that the guest made, or the message is old.
 */
#include <errno.h>

#include "fault/minor.h"
#include "fault/unit_io.h"
#include "util/hist.h"

/* What it takes to let a waiter go on, at a unit that was never away.  DONE: by mapping or
 * un-protecting it.  *is_hole_out: there was none, it was made of zeros. */
static struct ts_uffd_result make_present(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					  uint32_t first, uint32_t flags, bool is_leaving,
					  bool *is_hole_out)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_PRESENT };

	*is_hole_out = false;
	if (!(flags & TS_SERVE_GUARDED))
		result = ts_unit_map(shard, first);
	if (result.outcome == TS_UFFD_ABSENT) {
		result = ts_unit_install(ctx, shard, first, ctx->zero_unit);
		*is_hole_out = result.outcome == TS_UFFD_DONE;
	}
	if (result.outcome != TS_UFFD_PRESENT || (!is_leaving && !(flags & TS_SERVE_GUARDED)))
		return result;
	int rc = ts_unit_unguard(shard, first);
	if (rc == -EAGAIN)
		result.outcome = TS_UFFD_RETRY;
	else if (!rc)
		result.outcome = TS_UFFD_DONE;
	return result;
}

enum ts_serve_outcome ts_unit_serve_present(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					   uint32_t first, uint32_t flags, ts_mono_ns start_ns,
					   ts_word word)
{
	struct ts_region *region = shard->region;
	ts_word_slot *slot = ts_unit_word(shard, first, 0);
	bool is_leaving = ts_word_is(word, TS_LEAVING), is_hole;
	/* STAGED makes the evictor wait for what comes of it. */
	ts_word before = word, coming = is_leaving ?
			 ts_word_make(TS_COMING, TS_WORD_STAGED, ts_word_payload(word)) :
			 ts_word_make(TS_COMING, 0, 0);

	if (!ts_word_swap(slot, &word, coming))
		return TS_SERVE_LATER;
	struct ts_uffd_result result = make_present(ctx, shard, first, flags, is_leaving, &is_hole);
	bool is_later = result.outcome != TS_UFFD_DONE && result.outcome != TS_UFFD_PRESENT &&
			result.outcome != TS_UFFD_GONE;
	if (is_later || !is_leaving) {
		ts_minor_retreat(ctx, slot, coming, before);
	} else {
		ts_unit_set_heat(region, first, (uint16_t)ts_heat_make(0, region->guard_scans, 0));
		ts_word_finish(slot, ts_word_make(TS_RESIDENT, 0, 0));
	}
	if (is_later)
		return TS_SERVE_LATER;
	if (result.outcome != TS_UFFD_DONE)
		return ts_unit_wake_stale(shard, first);
	ts_bump(is_hole ? &region->counters.nr_faults_zero : &region->counters.nr_faults_guard, 1);
	ts_unit_note_served(ctx, shard, flags, start_ns);
	return TS_SERVED;
}
