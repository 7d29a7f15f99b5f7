/* SPDX-License-Identifier: Apache-2.0
 * track.c — choosing a tracker, and ages from what it reports (track.h). */
#include "track/track.h"

#include <errno.h>
#include <string.h>

#include "os/sys.h"
#include "os/uffd.h"
#include "track/block.h"

enum {
	HUGE_PAGES = 512,  /* a huge page, in pages */
	/* A call that is over sooner than this had few pages, and the next one may be twice as
	 * long; half as long after one that took more than that. */
	SHORT_CALL_NS = 40000,
	LONG_CALL_NS = 100000,
};

/* Pages that the next deactivate may take: whole huge pages. */
struct pace {
	uint32_t pages, pages_min, pages_max;
};

static bool zap_works(const struct ts_probe *probe)
{
	return probe->has_missing_shmem && probe->has_wp_shmem && probe->has_pagemap_scan;
}

static bool wp_works(const struct ts_probe *probe)
{
	return probe->has_wp_async && probe->has_pagemap_scan && probe->has_move;
}

static bool rwp_works(enum ts_memory memory, const struct ts_probe *probe)
{
	if (!probe->has_pagemap_scan)
		return false;
	return memory == TS_MEMORY_ANON ? probe->has_rwp && probe->has_move : probe->has_rwp_shmem;
}

static int find_rwp(enum ts_memory memory, const struct ts_probe *probe, const char *region_name,
		    const struct ts_tracker_ops **tracker_out)
{
	*tracker_out = memory == TS_MEMORY_ANON ? &ts_tracker_rwp_ops : &ts_tracker_rwp_memfd_ops;
	return rwp_works(memory, probe) ? 0 :
	       ts_fail(TS_EUNSUPPORTED,
		       "%s: tracker rwp: kernel %s lacks RWP; Linux 7.3 or later has it",
		       region_name, probe->kernel_release);
}

static int find_memfd(const struct ts_probe *probe, const char *region_name,
		      const struct ts_tracker_ops **tracker_out)
{
	*tracker_out = &ts_tracker_zap_ops;
	if (zap_works(probe))
		return 0;
	return ts_fail(TS_EUNSUPPORTED,
		       "%s: tracker zap: kernel %s lacks PAGEMAP_SCAN or userfaultfd "
		       "write-protection of shared memory; Linux 6.7 or later has both",
		       region_name, probe->kernel_release);
}

static int find_anon(const struct ts_probe *probe, const char *region_name,
		     const struct ts_tracker_ops **tracker_out)
{
	*tracker_out = &ts_tracker_wp_ops;
	return wp_works(probe) ? 0 :
	       ts_fail(TS_EUNSUPPORTED, "%s: tracker wp: kernel %s lacks UFFDIO_MOVE or WP_ASYNC; "
		       "anonymous memory needs Linux 6.8 or later", region_name,
		       probe->kernel_release);
}

int ts_tracker_find(enum ts_tracker wanted, enum ts_memory memory, const struct ts_probe *probe,
		    const char *region_name, const struct ts_tracker_ops **tracker_out)
{
	bool is_auto = wanted == TS_TRACKER_AUTO;

	if (wanted == TS_TRACKER_RWP || (is_auto && rwp_works(memory, probe)))
		return find_rwp(memory, probe, region_name, tracker_out);
	if (memory == TS_MEMORY_MEMFD && (is_auto || wanted == TS_TRACKER_ZAP))
		return find_memfd(probe, region_name, tracker_out);
	if (memory == TS_MEMORY_ANON && (is_auto || wanted == TS_TRACKER_WP))
		return find_anon(probe, region_name, tracker_out);
	return ts_fail(TS_ECONFIG, "%s: tracker %s does not work on %s memory; use auto",
		       region_name, wanted == TS_TRACKER_ZAP ? "zap" : "wp",
		       memory == TS_MEMORY_ANON ? "anonymous" : "memfd");
}

int ts_tracker_find_hugetlb(enum ts_tracker wanted, const struct ts_probe *probe,
			    const char *region_name, const struct ts_tracker_ops **tracker_out)
{
	*tracker_out = &ts_tracker_rwp_hugetlb_ops;
	if (!probe->has_rwp_hugetlb || !probe->has_pagemap_scan)
		return ts_fail(TS_EUNSUPPORTED,
			       "%s: hugetlb pages need read-write protection (RWP) of hugetlbfs, "
			       "Linux 7.3.4 or later; this is %s: map memory of 4 KiB pages "
			       "(transparent huge pages are fine)",
			       region_name, probe->kernel_release);
	return wanted == TS_TRACKER_AUTO || wanted == TS_TRACKER_RWP ? 0 :
	       ts_fail(TS_ECONFIG, "%s: only the tracker rwp works on hugetlb pages; use auto",
		       region_name);
}

/* The extents as they are now; the gate is not held during the long calls that follow.  A range
 * that moves away meanwhile is refused by the kernel or counts as touched. */
static unsigned copy_extents(struct ts_shard *shard, struct ts_extent *extents)
{
	ts_gate_share(&shard->gate);
	unsigned nr_extents = shard->nr_extents;
	memcpy(extents, shard->extents, nr_extents * sizeof(*extents));
	ts_gate_unshare(&shard->gate);
	return nr_extents;
}

/* GONE pages are nobody's.  A page that somebody has in his hands must not be protected behind his
 * back: what evicts by protection takes one that is still there for proof that the page was not
 * touched (memory/memfd_rwp.c).  It counts as touched, if it stays. */
static bool may_deactivate(const struct ts_region *region, ts_word word)
{
	switch (ts_word_state(word)) {
	case TS_GONE:
		return false;
	case TS_LEAVING:
	case TS_COMING:
		return !region->tracker->is_proof;
	case TS_AWAY:
	case TS_ZERO:
		return !region->tracker->is_proof || !(word & TS_WORD_RELEASING);
	case TS_RESIDENT:
	case TS_STATE_COUNT:
		break;
	}
	return true;
}

/* GONE is the one state with both outer bits; nobody changes it. */
static_assert((TS_GONE & 5) == 5 && TS_STATE_COUNT == 6, "one state has bits 0 and 2");

enum { BLOCK = TS_WORD_BLOCK };

static bool block_has_gone(struct ts_region *region, uint32_t page)
{
	uint64_t gone = 0;

	for (unsigned i = 0; i < BLOCK; i += 2) {
		uint64_t words = ts_region_word_pair(region, page + i);
		gone |= words & words >> 2;
	}
	return gone & UINT64_C(0x0000000100000001);
}

/* Are all of the 64 pages from `page` on known to be ours to deactivate?  What claims pages counts
 * that before it closes the gate, which is held (memory/memfd_rwp.c). */
static bool block_is_allowed(struct ts_region *region, uint32_t page)
{
	if (page % BLOCK == 0 &&
	    (ts_block_flags(&region->blocks, page / BLOCK, ts_block_stamp(&region->words[page])) &
	     TS_BLOCK_PLAIN))
		return true;
	if (page % 2 || region->tracker->is_proof)
		return false;
	return TS_BLOCK_HAS_AVX2() ? !ts_block_has_gone_avx2(region, page) :
	       !block_has_gone(region, page);
}

/* How many pages from `page` on, of at most nr_max, are ours to deactivate. */
static uint32_t pages_allowed(struct ts_region *region, uint32_t page, uint32_t nr_max)
{
	uint32_t n = 0;

	while (n < nr_max) {
		if (nr_max - n >= BLOCK && block_is_allowed(region, page + n))
			n += BLOCK;
		else if (may_deactivate(region, ts_word_load(&region->words[page + n])))
			n++;
		else
			break;
	}
	return n;
}

/* Mapped pages from `page` on that one call can take: contiguous in address, all ours, and at the
 * most to a huge page's end, for a call on part of a huge page splits it.  The gate is held. */
static uint32_t call_pages(struct ts_shard *shard, uint32_t page, uint32_t end, uint32_t max,
			   uint64_t *addr_out)
{
	uint32_t run = 0;
	uint64_t addr = ts_shard_addr(shard, page, &run);

	*addr_out = addr;
	if (!addr)
		return 0;
	run = TS_MIN(run, max - (uint32_t)((addr >> TS_PAGE_SHIFT) % HUGE_PAGES));
	run = pages_allowed(shard->region, page, TS_MIN(run, end - page));
	return run - run % shard->region->unit_pages;
}

static struct pace start_pace(const struct ts_tracker_ops *tracker)
{
	uint32_t pages = TS_MAX(tracker->call_pages_max, (uint32_t)HUGE_PAGES);

	return (struct pace){ pages, pages, TS_MAX(tracker->sparse_pages_max, pages) };
}

static void set_pace(struct pace *pace, uint32_t nr_pages, ts_mono_ns took_ns)
{
	if (took_ns > LONG_CALL_NS)
		pace->pages = TS_MAX(pace->pages / 2, pace->pages_min);
	else if (took_ns < SHORT_CALL_NS && nr_pages > pace->pages / 2)
		pace->pages = TS_MIN(pace->pages * 2, pace->pages_max);
}

/* The gate is shared during the call (some 30 us), and nothing is done while an event is under way:
 * what is mapped at an address that the guest has unmapped may be anything, and is not ours to zap.
 * The protections refuse that by themselves.  For a zap the look is all there is: a thread that is
 * put aside between it and the madvise() may zap what another one has mapped there meanwhile, which
 * hurts if that is private (ARCHITECTURE.md).  Memory of another process is never zapped.
 * A page that is left out counts as touched. */
static int deactivate_next(struct ts_shard *shard, uint32_t *page, uint32_t end, struct pace *pace)
{
	ts_mono_ns start_ns = ts_now_ns();
	uint64_t addr;
	int rc = 0;

	ts_gate_share(&shard->gate);
	uint32_t nr_pages = call_pages(shard, *page, end, pace->pages, &addr);
	if (nr_pages && !ts_uffd_is_changing(shard->uffd))
		rc = shard->region->tracker->deactivate(shard, addr,
							(uint64_t)nr_pages << TS_PAGE_SHIFT);
	ts_gate_unshare(&shard->gate);
	set_pace(pace, nr_pages, ts_now_ns() - start_ns);
	*page += TS_MAX(nr_pages, shard->region->unit_pages);
	return rc;
}

int ts_track_deactivate(struct ts_region *region)
{
	struct pace pace = start_pace(region->tracker);

	for (uint32_t page = 0; page < region->nr_pages;) {
		struct ts_shard *shard = ts_region_shard(region, page);
		uint32_t end = (page / region->pages_per_shard + 1) * region->pages_per_shard;
		int rc = ts_word_is(ts_word_load(&region->words[page]), TS_GONE) ?
			 (page += region->unit_pages, 0) :
			 deactivate_next(shard, &page, TS_MIN(end, region->nr_pages), &pace);
		if (rc)
			return ts_fail(rc, "%s: deactivate by %s: %s", region->name,
				       region->tracker->name, ts_strerror(rc));
	}
	return 0;
}

static int scan_extent(struct ts_region *region, const struct ts_extent *extent,
		       struct ts_ages *ages)
{
	enum { PAGES_MAX = 1 << 16 };  /* 256 MiB: a bitmap of 8 KiB */
	uint64_t bitmap[PAGES_MAX / 64];

	for (uint32_t done = 0; done < extent->nr_pages;) {
		struct ts_extent part = { extent->addr + ((uint64_t)done << TS_PAGE_SHIFT),
					  extent->first_page + done,
					  TS_MIN(extent->nr_pages - done, (uint32_t)PAGES_MAX) };
		memset(bitmap, 0, sizeof(bitmap));
		int rc = region->tracker->touched(region, &part, bitmap);
		if (rc)
			return rc;
		ts_age_pages(region, part.first_page, part.nr_pages, bitmap, ages);
		done += part.nr_pages;
	}
	return 0;
}

static int scan_shard(struct ts_region *region, struct ts_shard *shard, struct ts_ages *ages)
{
	struct ts_extent extents[TS_EXTENT_MAX];
	unsigned nr_extents = copy_extents(shard, extents);
	int rc = 0;

	for (unsigned i = 0; i < nr_extents && !rc; i++)
		rc = scan_extent(region, &extents[i], ages);
	return rc;
}

int ts_track_scan(struct ts_region *region, struct ts_scan_result *result)
{
	/* A second scan at the same time reads all words. */
	struct ts_ages ages = { .has_blocks = ts_blocks_take(&region->blocks) };
	int rc = 0;

	for (unsigned s = 0; s < region->nr_shards && !rc; s++)
		rc = scan_shard(region, &region->shards[s], &ages);
	if (ages.has_blocks)
		ts_blocks_give(&region->blocks);
	if (rc)
		return ts_fail(rc, "%s: scan by %s: %s", region->name, region->tracker->name,
			       ts_strerror(rc));
	ts_ages_report(&ages, result);
	for (unsigned age = 0; age < 64; age++)
		atomic_store_explicit(&region->ages[age], result->nr_by_age[age],
				      memory_order_relaxed);
	return 0;
}
