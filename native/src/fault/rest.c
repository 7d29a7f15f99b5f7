/* SPDX-License-Identifier: Apache-2.0
 *
 * rest.c — the rest of a decoded frame: neighbours of the page that was asked for.
 *
 * They are claimed one by one and installed in runs, because a COPY of many pages costs 0.9 us a
 * page and one alone 1.7 us.
 */
#include "fault/install.h"
#include "util/hist.h"

struct run {
	uint32_t page;        /* the first */
	unsigned nr_pages;
	const uint8_t *contents;
};

/* Shares the gate for the whole run: 1 us a page.  Stops at a page that was removed meanwhile. */
static uint64_t copy_run(struct ts_shard *shard, const struct run *run)
{
	ts_word_slot *words = shard->region->words;
	struct ts_uffd_result result = { .outcome = TS_UFFD_GONE };
	uint32_t addr_run = 0;

	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, run->page, &addr_run);
	unsigned n = 0;
	while (n < run->nr_pages && n < addr_run &&
	       !(ts_word_load(&words[run->page + n]) & TS_WORD_REMOVED))
		n++;
	if (addr && n)
		result = ts_uffd_copy(shard->uffd, addr, run->contents,
				      (uint64_t)n << TS_PAGE_SHIFT);
	for (unsigned i = 0; i < result.done_bytes >> TS_PAGE_SHIFT; i++)
		ts_region_mark(shard->region, run->page + i);
	ts_gate_unshare(&shard->gate);
	return result.done_bytes >> TS_PAGE_SHIFT;
}

/* The first nr_done pages are there. */
static void settle_run(struct ts_engine *engine, struct ts_shard *shard, uint32_t frame,
		       unsigned tier, const struct run *run, uint64_t nr_done, uint32_t nr_ignored)
{
	struct ts_region *region = shard->region;

	for (unsigned n = 0; n < run->nr_pages; n++) {
		uint32_t page = run->page + n;
		if (n < nr_done) {
			ts_heat_store(&region->heat[page], ts_heat_make(0, 0, ts_heat_refaults(
				ts_heat_load(&region->heat[page]))));
			ts_install_finish_resident(engine, region, page, frame, tier,
						   run->contents + ((size_t)n << TS_PAGE_SHIFT));
			ts_install_settle(shard, page, nr_ignored);
		} else {
			/* Not this time.  Somebody may have faulted on it while it was COMING. */
			ts_install_retreat(engine, region, page, frame, tier);
			ts_install_wake(shard, page);
		}
	}
	ts_bump(&region->counters.nr_restored, nr_done);
}

static void install_run(struct ts_engine *engine, struct ts_shard *shard, uint32_t frame,
			unsigned tier, const struct run *run)
{
	uint32_t nr_ignored = atomic_load(&shard->nr_ignored);

	settle_run(engine, shard, frame, tier, run, copy_run(shard, run), nr_ignored);
}

bool ts_install_claim(struct ts_region *region, uint32_t page, uint32_t frame)
{
	ts_word word = ts_word_make(TS_AWAY, 0, frame);

	return page < region->nr_pages &&
	       ts_word_swap(&region->words[page], &word, ts_word_make(TS_COMING, 0, frame));
}

void ts_install_neighbour(struct ts_engine *engine, struct ts_region *region, uint32_t page,
			  uint32_t frame, unsigned tier, const uint8_t *contents)
{
	struct run run = { page, 1, contents };

	install_run(engine, ts_region_shard(region, page), frame, tier, &run);
}

/* One call costs less than two, and wakes the guest once: it is about to ask for what follows. */
struct ts_uffd_result ts_install_run(struct ts_engine *engine, struct ts_fetch *fetch,
				     const struct ts_fetch_slot *slot,
				     const struct ts_frame_head *head)
{
	struct ts_shard *shard = slot->shard;
	unsigned first = slot->page - head->base_page;
	uint64_t before = head->page_bits & ((UINT64_C(1) << first) - 1);
	const uint8_t *contents = fetch->raw +
				  ((size_t)__builtin_popcountll(before) << TS_PAGE_SHIFT);
	struct run run = { slot->page, 1, contents };
	uint32_t nr_ignored = atomic_load(&shard->nr_ignored);

	while (first + run.nr_pages < TS_FRAME_PAGES_MAX &&
	       (head->page_bits >> (first + run.nr_pages) & 1) &&
	       ts_install_claim(shard->region, slot->page + run.nr_pages, slot->frame))
		run.nr_pages++;
	uint64_t nr_done = run.nr_pages > 1 ? copy_run(shard, &run) : 0;
	struct run others = { slot->page + 1, run.nr_pages - 1, contents + TS_PAGE_BYTES };
	settle_run(engine, shard, slot->frame, slot->tier, &others, nr_done ? nr_done - 1 : 0,
		   nr_ignored);
	return nr_done ? (struct ts_uffd_result){ .outcome = TS_UFFD_DONE } :
	       ts_install_copy(shard, slot->page, contents);
}

void ts_install_rest(struct ts_engine *engine, struct ts_fetch *fetch,
		     const struct ts_fetch_slot *slot, const struct ts_frame_head *head)
{
	struct ts_region *region = slot->shard->region;
	struct run run = { 0 };
	uint64_t bits = head->page_bits;
	unsigned idx = 0;
	ts_mono_ns start_ns = ts_now_ns();

	if (!(bits & (bits - 1)))
		return;
	for (; bits; bits &= bits - 1, idx++) {
		uint32_t page = head->base_page + (uint32_t)__builtin_ctzll(bits);
		bool is_ours = ts_install_claim(region, page, slot->frame);
		if (run.nr_pages && (!is_ours || page != run.page + run.nr_pages)) {
			install_run(engine, slot->shard, slot->frame, slot->tier, &run);
			run.nr_pages = 0;
		}
		if (!is_ours)
			continue;
		if (!run.nr_pages)
			run = (struct run){ page, 0, fetch->raw + ((size_t)idx << TS_PAGE_SHIFT) };
		run.nr_pages++;
	}
	if (run.nr_pages)
		install_run(engine, slot->shard, slot->frame, slot->tier, &run);
	ts_hist_add(&fetch->stages->hist[TS_STAGE_REST], ts_now_ns() - start_ns);
}
