/* SPDX-License-Identifier: Apache-2.0
 * install.c — installing pages, and the words that follow (install.h). */
#include "fault/install.h"

#include "os/pagemap.h"
#include "os/sys.h"
#include "track/track.h"

enum {
	/* A page that comes back sooner than this after its frame was made should have stayed. */
	REFAULT_MS = 60000,
	/* A page that was refaulted this often is not worth keeping in a lower tier: it enters at
	 * the top again (promotion). */
	PROMOTE_REFAULTS = 2,
};

/* Zeros at an address.  The shared zero page would keep the kernel from making a huge page of this
 * one and its neighbours, as long as a userfaultfd is there. */
static struct ts_uffd_result install_zeros(struct ts_shard *shard, uint64_t addr)
{
	static const _Alignas(TS_PAGE_BYTES) uint8_t zeros[TS_PAGE_BYTES];

	return shard->region->has_collapse ?
	       ts_uffd_copy(shard->uffd, addr, zeros, sizeof(zeros)) :
	       ts_uffd_zeropage(shard->uffd, addr);
}

/* "Present", says the kernel.  Of another process whose page table we may not look at we only know
 * what it says again and again: what is wrong with that answer passes in microseconds. */
static struct ts_uffd_result ask_again(struct ts_shard *shard, uint64_t addr, const void *contents,
				       struct ts_uffd_result result)
{
	enum { TRIES = 64 };

	if (shard->region->pagemap_fd >= 0 || !shard->region->is_remote) {
		if (!ts_pagemap_is_filled(shard->region->pagemap_fd, addr))
			result.outcome = TS_UFFD_RETRY;
		return result;
	}
	for (unsigned n = 0; result.outcome == TS_UFFD_PRESENT && n < TRIES; n++)
		result = ts_uffd_copy(shard->uffd, addr, contents, TS_PAGE_BYTES);
	return result;
}

struct ts_uffd_result ts_install_copy(struct ts_shard *shard, uint32_t page, const void *contents)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	if (addr && (ts_word_load(&shard->region->words[page]) & TS_WORD_REMOVED))
		result = install_zeros(shard, addr);
	else if (addr)
		result = ts_uffd_copy(shard->uffd, addr, contents, TS_PAGE_BYTES);
	/* Our copy is dropped on the strength of this answer, so it is not taken on trust: the
	 * kernel also gives it for a page table that comes or goes this moment. */
	if (result.outcome == TS_UFFD_PRESENT && shard->region->memfd < 0)
		result = ask_again(shard, addr, contents, result);
	ts_region_mark(shard->region, page);
	ts_gate_unshare(&shard->gate);
	return result;
}

struct ts_uffd_result ts_install_staged(struct ts_shard *shard, uint32_t page,
					const uint8_t *slot)
{
	/* A slot that is filled stays so while the page is COMING from it. */
	return ts_pagemap_is_filled(shard->region->pagemap_fd, (uintptr_t)slot) ?
	       ts_install_copy(shard, page, slot) :
	       (struct ts_uffd_result){ .outcome = TS_UFFD_ABSENT };
}

struct ts_uffd_result ts_install_zero(struct ts_shard *shard, uint32_t page)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	if (addr)
		result = install_zeros(shard, addr);
	ts_region_mark(shard->region, page);
	ts_gate_unshare(&shard->gate);
	return result;
}

struct ts_uffd_result ts_install_poison(struct ts_shard *shard, uint32_t page)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	if (addr)
		result = ts_uffd_poison(shard->uffd, addr,
					(uint64_t)shard->region->unit_pages << TS_PAGE_SHIFT);
	ts_gate_unshare(&shard->gate);
	return result;
}

void ts_install_unknown(struct ts_shard *shard, uint64_t addr)
{
	uint32_t page;

	ts_gate_share(&shard->gate);
	/* The old addresses after mremap(DONTUNMAP) read as zeros, where zeros are nobody else's.
	 * What fails (an event is queued, nothing is mapped) is asked again, or not. */
	if (!ts_shard_page(shard, addr, &page)) {
		if (shard->region->memfd < 0 && !shard->has_lost_track)
			(void)ts_uffd_zeropage(shard->uffd, addr);
		else
			(void)ts_uffd_poison(shard->uffd, addr, (uint64_t)
					     shard->region->unit_pages << TS_PAGE_SHIFT);
	}
	ts_gate_unshare(&shard->gate);
}

int ts_install_unguard(struct ts_shard *shard, uint32_t page)
{
	int rc = 0;

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	/* Before, for the writer that goes on at once; after, in case of a deactivate between. */
	ts_region_mark(shard->region, page);
	if (addr)
		rc = shard->region->tracker->uffd_modes & UFFDIO_REGISTER_MODE_RWP ?
		     ts_uffd_rwprotect(shard->uffd, addr, TS_PAGE_BYTES, false) :
		     ts_uffd_protect(shard->uffd, addr, TS_PAGE_BYTES, false);
	ts_region_mark(shard->region, page);
	ts_gate_unshare(&shard->gate);
	return rc;
}

struct ts_uffd_result ts_install_continue(struct ts_shard *shard, uint32_t page)
{
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	if (addr)
		result = ts_uffd_continue(shard->uffd, addr, TS_PAGE_BYTES);
	ts_gate_unshare(&shard->gate);
	return result;
}

void ts_install_wake(struct ts_shard *shard, uint32_t page)
{
	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	/* Fails only for a range that is not mapped; an injected failure is tried once more. */
	if (addr && ts_uffd_wake(shard->uffd, addr, TS_PAGE_BYTES))
		(void)ts_uffd_wake(shard->uffd, addr, TS_PAGE_BYTES);
	ts_gate_unshare(&shard->gate);
}

void ts_install_settle(struct ts_shard *shard, uint32_t page, uint32_t nr_ignored)
{
	if (TS_UNLIKELY(atomic_load(&shard->nr_ignored) != nr_ignored))
		ts_install_wake(shard, page);
}

void ts_install_finish(struct ts_engine *engine, struct ts_region *region, uint32_t page,
		       uint32_t frame, unsigned tier, ts_word to)
{
	ts_word_finish(&region->words[page], to);
	ts_frames_drop_page(&engine->frames, frame);
}

void ts_install_finish_resident(struct ts_engine *engine, struct ts_region *region, uint32_t page,
				uint32_t frame, unsigned tier, const void *contents)
{
	unsigned refaults = ts_heat_refaults(ts_heat_load(&region->heat[page]));

	if (!contents || !engine->tiers[tier].is_keeping ||
	    (tier > 0 && refaults >= PROMOTE_REFAULTS)) {
		ts_install_finish(engine, region, page, frame, tier,
				  ts_word_make(TS_RESIDENT, 0, 0));
		return;
	}
	uint64_t seed = ts_kept_seed(&region->kept, page, frame);
	ts_kept_note(&region->kept, page, ts_page_hash(contents, seed));
	ts_frames_keep_page(&engine->frames, frame);
	ts_word kept = ts_word_make(TS_RESIDENT, TS_WORD_KEPT, frame);
	if (ts_word_finish(&region->words[page], kept) & TS_WORD_REMOVED)
		ts_frames_unref(&engine->frames, frame);
}

void ts_install_retreat(struct ts_engine *engine, struct ts_region *region, uint32_t page,
			uint32_t frame, unsigned tier)
{
	ts_word word = ts_word_make(TS_COMING, 0, frame);

	if (!ts_word_swap(&region->words[page], &word, ts_word_make(TS_AWAY, 0, frame)))
		ts_install_finish(engine, region, page, frame, tier, ts_word_make(TS_ZERO, 0, 0));
}

/* Where reads are not seen and there is no probation, each time twice as long: the page may be read
 * all the time. */
unsigned ts_install_guard_scans(const struct ts_region *region, uint16_t heat)
{
	unsigned guard = region->guard_scans;

	if (region->tracker->needs_probation && !region->memory->has_probation)
		guard <<= TS_MIN(ts_heat_refaults(heat) + 1, 4u);
	return TS_MIN(guard, (unsigned)TS_HEAT_GUARD_MAX);
}

bool ts_install_is_refault(struct ts_engine *engine, uint32_t frame)
{
	uint32_t tick = atomic_load_explicit(&engine->tick, memory_order_relaxed);
	uint64_t age_ticks = ts_frame_age(ts_frames_load(&engine->frames, frame), tick);

	return age_ticks * engine->tick_ms < REFAULT_MS;
}
