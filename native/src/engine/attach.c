/* SPDX-License-Identifier: Apache-2.0
 *
 * attach.c — guest memory comes under the engine's care, and leaves it again, while the guest runs.
 *
 * Attach: check, userfaultfds, register, learn which pages are populated, serve.  Between
 * registration and the last step a fault waits; nothing is lost, for no page has been touched by
 * us. Detach: no more evictions, everything back, unregister, wake, let go.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "core/engine.h"
#include "engine/adopt.h"
#include "engine/hugetlb.h"
#include "engine/life.h"
#include "engine/mapping.h"
#include "engine/state.h"
#include "engine/tool.h"
#include "evict/pool.h"
#include "fault/inthread.h"
#include "fault/server.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"
#include "util/sized.h"

enum {
	PROBATION_MS = 1000,
	GUARD_SCANS = 2,
	/* A shard of less than this is not worth a descriptor in every fault thread's poll. */
	SHARD_PAGES_MIN = 1 << 16,
	SHARDS_AUTO_MAX = 2,
};

static int check_options(struct ts_engine *engine, const struct ts_region_options *options,
			 const char *name)
{
	uint64_t addr = (uintptr_t)options->addr;

	if (!engine->is_started)
		return ts_fail(TS_ESTATE, "%s: start the engine before regions are attached", name);
	if (!addr || !options->len_bytes)
		return ts_fail(TS_ECONFIG, "%s: needs an address and a length", name);
	if ((addr | options->len_bytes | options->memfd_offset) % TS_PAGE_BYTES)
		return ts_fail(TS_EALIGN, "%s: address, length and offset must be multiples of %d",
			       name, TS_PAGE_BYTES);
	if (options->len_bytes >> TS_PAGE_SHIFT > (uint64_t)TS_FRAME_ID_MAX)
		return ts_fail(TS_ELIMIT, "%s: at most 512 GiB a region", name);
	if (options->memory > TS_MEMORY_MEMFD || options->tracker > TS_TRACKER_RWP ||
	    options->serve > TS_SERVE_IN_THREAD || options->restore > TS_RESTORE_RANGE)
		return ts_fail(TS_ECONFIG, "%s: memory, tracker, serve or restore out of range",
			       name);
	if (options->nr_shards > TS_SHARD_MAX)
		return ts_fail(TS_ECONFIG, "%s: nr_shards: at most %d", name, TS_SHARD_MAX);
	if (options->guard_scans > TS_HEAT_GUARD_MAX)
		return ts_fail(TS_ECONFIG, "%s: guard_scans: at most %d", name, TS_HEAT_GUARD_MAX);
	if (options->serve == TS_SERVE_IN_THREAD && options->memory != TS_MEMORY_ANON)
		return ts_fail(TS_EUNSUPPORTED,
			       "%s: in-thread serving is for anonymous memory: a "
			       "signal does not tell a guarded memfd page from a missing one",
			       name);
	if (options->memory == TS_MEMORY_ANON && !engine->staging.nr_segments)
		return ts_fail(TS_EUNSUPPORTED,
			       "%s: anonymous memory needs UFFDIO_MOVE, Linux 6.8 or "
			       "later; this is %s",
			       name, engine->probe.kernel_release);
	return 0;
}

static int check_overlap(struct ts_engine *engine, const struct ts_region_options *options,
			 const char *name)
{
	uint64_t start = (uintptr_t)options->addr, end = start + options->len_bytes;

	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		struct ts_region *region = engine->regions[r];
		for (unsigned s = 0; region && !region->is_remote && s < region->nr_shards; s++) {
			struct ts_shard *shard = &region->shards[s];
			ts_gate_share(&shard->gate);
			bool overlaps = false;
			for (unsigned i = 0; i < shard->nr_extents; i++) {
				uint64_t lo = shard->extents[i].addr;
				uint64_t hi = lo + ((uint64_t)shard->extents[i].nr_pages <<
						    TS_PAGE_SHIFT);
				overlaps |= start < hi && lo < end;
			}
			ts_gate_unshare(&shard->gate);
			if (overlaps)
				return ts_fail(TS_EOVERLAP, "%s: overlaps region %s", name,
					       region->name);
		}
	}
	return 0;
}

/* ---- Shards ----------------------------------------------------------------------------- */

static void cut_shards(struct ts_region *region, unsigned nr_shards, uint64_t addr)
{
	uint32_t nr_pages = region->nr_pages;

	if (!nr_shards)
		nr_shards =
			TS_MAX(1, TS_MIN(nr_pages / SHARD_PAGES_MIN, (uint32_t)SHARDS_AUTO_MAX));
	/* Whole chunks, so that a batch and a frame never cross from one shard to the next. */
	uint32_t pages = (nr_pages + nr_shards - 1) / nr_shards;
	region->pages_per_shard = (pages + TS_CHUNK_PAGES - 1) / TS_CHUNK_PAGES * TS_CHUNK_PAGES;
	region->nr_shards = (nr_pages + region->pages_per_shard - 1) / region->pages_per_shard;
	/* Complete before anybody else can see the region: the SIGBUS handler does, next. */
	for (unsigned s = 0; s < region->nr_shards; s++) {
		uint32_t first_page = s * region->pages_per_shard;
		region->shards[s] = (struct ts_shard){
			.region = region,
			.uffd = -1,
			.window_lock = PTHREAD_MUTEX_INITIALIZER,
			.nr_extents = 1,
			.extents = { { addr + ((uint64_t)first_page << TS_PAGE_SHIFT), first_page,
				       TS_MIN(nr_pages - first_page, region->pages_per_shard) } },
		};
	}
}

static uint64_t features_of(const struct ts_engine *engine, const struct ts_region *region)
{
	const struct ts_probe *probe = &engine->probe;
	uint64_t features = region->tracker->uffd_features;

	/* For shared memory REMOVE is not asked for: it does not tell MADV_REMOVE from
	 * MADV_DONTNEED, which drops nothing there and is what the zap tracker does all the
	 * time. */
	if (region->memfd < 0)
		features |= UFFD_FEATURE_EVENT_REMOVE;
	/* Without these, what the guest gave up would come back: asked for, not asked whether. */
	features |= UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP;
	if (probe->has_poison)
		features |= UFFD_FEATURE_POISON;
	if (probe->has_thread_id)
		features |= UFFD_FEATURE_THREAD_ID; /* fault/follow.h */
	if (region->serve == TS_SERVE_IN_THREAD)
		features |= UFFD_FEATURE_SIGBUS;
	return features;
}

static int open_shard(struct ts_engine *engine, struct ts_region *region, unsigned s)
{
	struct ts_shard *shard = &region->shards[s];

	shard->uffd = ts_uffd_open(features_of(engine, region));
	if (shard->uffd < 0)
		return shard->uffd;
	int rc = ts_uffd_register(shard->uffd, shard->extents[0].addr,
				  (uint64_t)shard->extents[0].nr_pages << TS_PAGE_SHIFT,
				  UFFDIO_REGISTER_MODE_MISSING | region->tracker->uffd_modes);
	if (rc == -EBUSY)
		return ts_fail(TS_EREGISTERED, "%s: another userfaultfd is registered here",
			       region->name);
	if (rc)
		return ts_fail(rc == -EINVAL || rc == -EPERM ? TS_EBACKING : rc,
			       "%s: UFFDIO_REGISTER: %s", region->name, ts_strerror(rc));
	return 0;
}

/* ---- Attach ----------------------------------------------------------------------------- */

static struct ts_region *create_region(struct ts_engine *engine,
				       const struct ts_region_options *options, const char *name)
{
	struct ts_region *region = calloc(1, sizeof(*region));

	if (!region)
		return NULL;
	region->engine = engine;
	region->id = ++engine->next_region_id;
	region->memory = options->memory == TS_MEMORY_MEMFD ? &ts_memory_memfd_ops :
			 &ts_memory_anon_ops;
	region->memfd = region->pagemap_fd = -1;
	region->abilities = TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT;
	region->serve = (enum ts_serve)options->serve;
	region->restore = (enum ts_restore)options->restore;
	region->probation_ms = options->probation_ms ? options->probation_ms : PROBATION_MS;
	region->guard_scans = options->guard_scans ? options->guard_scans : GUARD_SCANS;
	region->has_collapse = options->collapse && options->memory == TS_MEMORY_ANON;
	snprintf(region->name, sizeof(region->name), "%s", name);
	return region;
}

/* Words that outlive us, of memory that is this process's: known by its place in the memfd. */
static int claim_state(struct ts_engine *engine, struct ts_region *region,
		       const struct ts_region_options *options, bool *is_resumed)
{
	static const uint8_t identity[32];
	uint32_t nr_pages = (uint32_t)(options->len_bytes >> TS_PAGE_SHIFT);
	struct ts_state_range range = { .len_bytes = options->len_bytes, .is_memfd = 1,
					.backing_offset = options->memfd_offset };
	struct ts_state_claim claim = { .identity = identity, .ranges = &range, .nr_ranges = 1,
					.nr_pages = nr_pages, .nr_pages_max = nr_pages };

	if (!engine->state || options->memory != TS_MEMORY_MEMFD)
		return ts_fail(TS_ECONFIG, "%s: a persistent region needs a memfd, and an engine "
			       "with a state_dir", region->name);
	int rc = ts_state_region_claim(engine, region, &claim);
	*is_resumed = claim.is_resumed;
	return rc;
}

/* What the pages are: as they are found, or as the last process left them. */
static int learn_pages(struct ts_engine *engine, struct ts_region *region, uint64_t addr,
		       bool is_resumed)
{
	if (region->memfd < 0)
		return ts_life_populate_anon(region, addr, 0, region->nr_pages);
	if (region->unit_pages > 1)
		return ts_hugetlb_populate(region);
	int rc = ts_state_check_marks(region, is_resumed);
	if (rc)
		return rc;
	return is_resumed ? ts_state_region_resolve(engine, region) :
	       ts_life_populate_shared(region, 0, region->nr_pages);
}

static int find_tracker(struct ts_engine *engine, struct ts_region *region,
			const struct ts_region_options *options)
{
	enum ts_tracker wanted = (enum ts_tracker)options->tracker;

	return region->unit_pages > 1 ?
	       ts_tracker_find_hugetlb(wanted, &engine->probe, region->name, &region->tracker) :
	       ts_tracker_find(wanted, (enum ts_memory)options->memory, &engine->probe,
			       region->name, &region->tracker);
}

static int open_region(struct ts_engine *engine, struct ts_region *region,
		       const struct ts_region_options *options)
{
	uint64_t addr = (uintptr_t)options->addr;
	bool is_resumed = false;

	int rc = find_tracker(engine, region, options);
	if (!rc && options->is_persistent)
		rc = claim_state(engine, region, options, &is_resumed);
	if (rc)
		return rc;
	uint32_t nr_pages = (uint32_t)(options->len_bytes >> TS_PAGE_SHIFT);
	rc = ts_region_pages_init(region, nr_pages, nr_pages, engine->secret);
	if (rc)
		return ts_fail(rc, "%s: no memory for its page table", region->name);
	cut_shards(region, options->nr_shards, addr);
	region->pagemap_fd = ts_pagemap_open();
	if (region->pagemap_fd < 0)
		return ts_fail(region->pagemap_fd, "%s: /proc/self/pagemap: %s", region->name,
			       ts_strerror(region->pagemap_fd));
	if (options->memory == TS_MEMORY_MEMFD)
		region->memfd = ts_sys_reopen(options->memfd);
	if (options->memory == TS_MEMORY_MEMFD && region->memfd < 0)
		return ts_fail(region->memfd, "%s: dup of the memfd: %s", region->name,
			       ts_strerror(region->memfd));
	if (region->memfd >= 0)
		ts_region_add_backing(region, 0, nr_pages, region->memfd, options->memfd_offset);
	if (region->memfd >= 0 && region->tracker->id == TS_TRACKER_RWP)
		region->memory = region->unit_pages > 1 ? &ts_memory_hugetlb_ops :
				 &ts_memory_memfd_rwp_ops;
	if (region->serve == TS_SERVE_IN_THREAD)
		rc = ts_inthread_add(region);
	for (unsigned s = 0; s < region->nr_shards && !rc; s++)
		rc = open_shard(engine, region, s);
	if (!rc)
		rc = ts_sys_madvise(options->addr, options->len_bytes, MADV_DONTFORK);
	return rc ? rc : learn_pages(engine, region, addr, is_resumed);
}

int ts_region_attach(struct ts_engine *engine, const struct ts_region_options *options,
		     struct ts_region **region_out)
{
	struct ts_region_options known;
	bool is_hugetlb = false;
	char name[64];
	int rc = ts_sized_in(&known, sizeof(known), options, "ts_region_options");

	if (rc)
		return rc;
	TS_SCOPED_LOCK(&engine->control);
	if (known.name)
		snprintf(name, sizeof(name), "%s", known.name);
	else
		snprintf(name, sizeof(name), "region%u", engine->next_region_id + 1);
	rc = check_options(engine, &known, name);
	if (!rc)
		rc = check_overlap(engine, &known, name);
	if (!rc)
		rc = ts_mapping_check(&known, name, &is_hugetlb);
	if (!rc && is_hugetlb)
		rc = ts_hugetlb_check(&known, name);
	if (rc)
		return rc;
	struct ts_region *region = create_region(engine, &known, name);
	if (!region)
		return ts_fail(-ENOMEM, "%s: out of memory", name);
	region->unit_pages = is_hugetlb ? TS_CHUNK_PAGES : 1;
	rc = open_region(engine, region, &known);
	if (!rc)
		rc = ts_life_serve(engine, region);
	if (rc) {
		if (rc > -10000)
			ts_fail(rc, "%s: attach: %s", name, ts_strerror(rc));
		ts_life_unregister(region);
		ts_life_release(engine, region);
		ts_state_region_undo(engine, region);
		ts_life_destroy(region);
		return rc;
	}
	ts_log(engine, TS_LOG_INFO, "%s: attached, %u pages, tracker %s, memory %s, %u shards",
	       name, region->nr_pages, region->tracker->name, region->memory->name,
	       region->nr_shards);
	*region_out = region;
	return 0;
}

/* ---- Detach ----------------------------------------------------------------------------- */

int ts_region_detach(struct ts_region *region)
{
	struct ts_engine *engine = region->engine;

	TS_SCOPED_LOCK(&engine->control);
	if (ts_adopt_is_gone(region)) {
		ts_adopt_drop(region);
		return 0;
	}
	ts_life_drain(engine, region);
	int rc = ts_tool_restore(engine->tool, region, 0, region->nr_pages, true);
	ts_life_unregister(region);
	ts_life_release(engine, region);
	ts_life_drop_frames(engine, region);
	ts_life_add_past(engine, region);
	if (rc)
		ts_fail(rc, "%s: some pages could not be read back and were poisoned",
			region->name);
	ts_log(engine, rc ? TS_LOG_ERROR : TS_LOG_INFO, "%s: detached", region->name);
	ts_state_region_drop(engine, region);
	ts_life_destroy(region);
	return rc;
}
