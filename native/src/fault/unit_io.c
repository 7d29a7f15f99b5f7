/* SPDX-License-Identifier: Apache-2.0
 *
 * unit_io.c — ioctls on a whole hugetlb page (unit_io.h).
 *
 * To a COPY on a page that is there the kernel says EEXIST, and perhaps to one that it has no
 * memory for as well; CONTINUE, which maps what is in the page cache and nothing else, tells which.
 * A COPY whose source is not in the page table takes a second huge page for a while, and fails if
 * there is but one: so the source is made present first.
 */
#include "fault/unit_io.h"

#include <errno.h>

#include "os/sys.h"
#include "util/hist.h"

/* Its address; 0: it has none, or no whole one.  The gate is held. */
static uint64_t address_of(const struct ts_shard *shard, uint32_t first)
{
	uint32_t run = 0;
	uint64_t addr = ts_shard_addr(shard, first, &run);

	return run >= TS_CHUNK_PAGES ? addr : 0;
}

void ts_unit_wake(struct ts_shard *shard, uint32_t first)
{
	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(shard, first);
	if (addr)
		(void)ts_uffd_wake(shard->uffd, addr, TS_UNIT_BYTES);
	ts_gate_unshare(&shard->gate);
}

void ts_unit_settle(struct ts_shard *shard, uint32_t first, uint32_t nr_ignored)
{
	if (TS_UNLIKELY(atomic_load(&shard->nr_ignored) != nr_ignored))
		ts_unit_wake(shard, first);
}

static struct ts_uffd_result copy_at(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				     uint64_t addr, const void *contents)
{
	struct ts_uffd_result result = ts_uffd_copy(shard->uffd, addr, contents, TS_UNIT_BYTES);
	_Atomic uint64_t *no_huge_ns = &shard->region->no_huge_ns;

	/* Is it?  Our copy is dropped on the strength of this answer. */
	if (result.outcome == TS_UFFD_PRESENT) {
		result = ts_uffd_continue(shard->uffd, addr, TS_UNIT_BYTES);
		if (result.outcome == TS_UFFD_DONE)
			result.outcome = TS_UFFD_PRESENT;
		else if (result.outcome == TS_UFFD_ABSENT)
			result = (struct ts_uffd_result){ TS_UFFD_FAILED, 0, -ENOMEM };
	}
	if (result.outcome == TS_UFFD_FAILED) {
		/* Counted once, not every time it is tried again. */
		if (!atomic_exchange(no_huge_ns, ts_now_ns()))
			ts_bump(&shard->region->counters.failures[TS_FAIL_INSTALL], 1);
	} else if (result.outcome == TS_UFFD_DONE) {
		atomic_store(no_huge_ns, 0);
	}
	return result;
}

struct ts_uffd_result ts_unit_install(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				     uint32_t first, const void *contents)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	(void)ts_sys_madvise((void *)(uintptr_t)contents, TS_UNIT_BYTES, MADV_POPULATE_READ);
	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(shard, first);
	if (addr && (ts_word_load(ts_unit_word(shard, first, 0)) & TS_WORD_REMOVED))
		contents = ctx->zero_unit;
	if (addr)
		result = copy_at(ctx, shard, addr, contents);
	ts_gate_unshare(&shard->gate);
	return result;
}

int ts_unit_unguard(struct ts_shard *shard, uint32_t first)
{
	int rc = 0;

	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(shard, first);
	if (addr)
		rc = ts_uffd_rwprotect(shard->uffd, addr, TS_UNIT_BYTES, false);
	ts_gate_unshare(&shard->gate);
	return rc;
}

struct ts_uffd_result ts_unit_map(struct ts_shard *shard, uint32_t first)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = address_of(shard, first);
	if (addr)
		result = ts_uffd_continue(shard->uffd, addr, TS_UNIT_BYTES);
	ts_gate_unshare(&shard->gate);
	return result;
}

enum ts_serve_outcome ts_unit_wake_stale(struct ts_shard *shard, uint32_t first)
{
	ts_bump(&shard->region->counters.nr_stale, 1);
	ts_unit_wake(shard, first);
	return TS_SERVED;
}

void ts_unit_set_heat(struct ts_region *region, uint32_t first, uint16_t heat)
{
	for (unsigned i = 0; i < TS_CHUNK_PAGES; i++)
		ts_heat_store(&region->heat[first + i], heat);
}

void ts_unit_note_served(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t flags,
			ts_mono_ns start_ns)
{
	if (flags & TS_SERVE_PREFETCH) {
		ts_bump(&shard->region->counters.nr_prefetched, 1);
		return;
	}
	ts_bump(&shard->region->counters.nr_faults, 1);
	ts_hist_add(&ctx->fetch.stages->hist[TS_STAGE_FAULT], ts_now_ns() - start_ns);
}
