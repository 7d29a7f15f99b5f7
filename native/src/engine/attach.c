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
#include "engine/mapping.h"
#include "engine/tool.h"
#include "evict/pool.h"
#include "fault/inthread.h"
#include "fault/server.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"

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
		for (unsigned s = 0; region && s < region->nr_shards; s++) {
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

static void close_shards(struct ts_region *region)
{
	for (unsigned s = 0; s < region->nr_shards; s++)
		if (region->shards[s].uffd >= 0)
			close(region->shards[s].uffd);
}

/* ---- What is populated ------------------------------------------------------------------ */

struct populate {
	struct ts_region *region;
	uint64_t addr;
};

static void note_present(void *user, uint64_t addr, uint64_t len_bytes)
{
	struct populate *populate = user;
	uint64_t first = (addr - populate->addr) >> TS_PAGE_SHIFT;

	for (uint64_t page = first; page < first + (len_bytes >> TS_PAGE_SHIFT); page++)
		atomic_store_explicit(&populate->region->words[page],
				      ts_word_make(TS_RESIDENT, 0, 0), memory_order_relaxed);
}

/* The region is registered, so a hole that the scan has seen can be filled by nobody but us. */
static int populate_anon(struct ts_region *region, uint64_t addr, uint64_t len_bytes)
{
	static const struct ts_scan_filter filter = { .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED };
	struct populate populate = { region, addr };

	return ts_pagemap_scan(region->pagemap_fd, addr, len_bytes, &filter, note_present,
			       &populate);
}

static int populate_memfd(struct ts_region *region, uint64_t addr, uint64_t len_bytes)
{
	struct populate populate = { region, addr };
	off_t base = (off_t)region->memfd_offset, end = base + (off_t)len_bytes, at = base;

	while (at < end) {
		off_t data = lseek(region->memfd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		off_t hole = data < 0 ? data : lseek(region->memfd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if (data >= end)
			return 0;
		hole = TS_MIN(hole, end);
		note_present(&populate, addr + (uint64_t)(data - base), (uint64_t)(hole - data));
		at = hole;
	}
	return 0;
}

/* ---- Attach ----------------------------------------------------------------------------- */

static void destroy_region(struct ts_region *region)
{
	close_shards(region);
	if (region->memfd >= 0)
		close(region->memfd);
	if (region->pagemap_fd >= 0)
		close(region->pagemap_fd);
	if (region->words)
		ts_region_pages_finish(region);
	free(region);
}

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
	region->memfd_offset = options->memfd_offset;
	region->serve = (enum ts_serve)options->serve;
	region->restore = (enum ts_restore)options->restore;
	region->probation_ms = options->probation_ms ? options->probation_ms : PROBATION_MS;
	region->guard_scans = options->guard_scans ? options->guard_scans : GUARD_SCANS;
	region->has_collapse = options->collapse && options->memory == TS_MEMORY_ANON;
	snprintf(region->name, sizeof(region->name), "%s", name);
	return region;
}

static int open_region(struct ts_engine *engine, struct ts_region *region,
		       const struct ts_region_options *options)
{
	uint64_t addr = (uintptr_t)options->addr;

	int rc = ts_tracker_find((enum ts_tracker)options->tracker, (enum ts_memory)options->memory,
				 &engine->probe, region->name, &region->tracker);
	if (rc)
		return rc;
	rc = ts_region_pages_init(region, (uint32_t)(options->len_bytes >> TS_PAGE_SHIFT),
				      engine->secret);
	if (rc)
		return ts_fail(rc, "%s: no memory for its page table", region->name);
	cut_shards(region, options->nr_shards, addr);
	region->pagemap_fd = ts_pagemap_open();
	if (region->pagemap_fd < 0)
		return ts_fail(region->pagemap_fd, "%s: /proc/self/pagemap: %s", region->name,
			       ts_strerror(region->pagemap_fd));
	if (options->memory == TS_MEMORY_MEMFD)
		region->memfd = fcntl(options->memfd, F_DUPFD_CLOEXEC, 3);
	if (options->memory == TS_MEMORY_MEMFD && region->memfd < 0)
		return ts_fail(-errno, "%s: dup of the memfd: %m", region->name);
	if (region->serve == TS_SERVE_IN_THREAD)
		rc = ts_inthread_add(region);
	for (unsigned s = 0; s < region->nr_shards && !rc; s++)
		rc = open_shard(engine, region, s);
	if (!rc)
		rc = ts_sys_madvise(options->addr, options->len_bytes, MADV_DONTFORK);
	if (!rc)
		rc = region->memfd < 0 ? populate_anon(region, addr, options->len_bytes) :
		     populate_memfd(region, addr, options->len_bytes);
	return rc;
}

/* Undoes what open_region did to the guest's memory. */
static void unregister(struct ts_region *region)
{
	if (region->serve == TS_SERVE_IN_THREAD)
		ts_inthread_fade(region);
	for (unsigned s = 0; s < region->nr_shards; s++) {
		struct ts_shard *shard = &region->shards[s];
		struct ts_extent extents[TS_EXTENT_MAX];
		ts_gate_share(&shard->gate);
		unsigned nr_extents = shard->nr_extents;
		memcpy(extents, shard->extents, nr_extents * sizeof(extents[0]));
		ts_gate_unshare(&shard->gate);
		for (unsigned i = 0; i < nr_extents && shard->uffd >= 0; i++) {
			uint64_t len_bytes = (uint64_t)extents[i].nr_pages << TS_PAGE_SHIFT;
			/* An injected failure passes; a real one means that the range is gone. */
			if (ts_uffd_unregister(shard->uffd, extents[i].addr, len_bytes))
				(void)ts_uffd_unregister(shard->uffd, extents[i].addr, len_bytes);
			/* UNREGISTER wakes only those who wait for a missing page. */
			(void)ts_uffd_wake(shard->uffd, extents[i].addr, len_bytes);
			(void)ts_sys_madvise((void *)(uintptr_t)extents[i].addr, len_bytes,
					     MADV_DOFORK);
		}
	}
}

static int publish_region(struct ts_engine *engine, struct ts_region *region)
{
	TS_SCOPED_LOCK(&engine->regions_lock);
	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		if (engine->regions[r])
			continue;
		engine->regions[r] = region;
		engine->nr_regions++;
		return 0;
	}
	return ts_fail(TS_ELIMIT, "%s: at most %d regions an engine", region->name, TS_REGION_MAX);
}

static void unpublish_region(struct ts_engine *engine, struct ts_region *region)
{
	TS_SCOPED_LOCK(&engine->regions_lock);
	for (unsigned r = 0; r < TS_REGION_MAX; r++)
		if (engine->regions[r] == region) {
			engine->regions[r] = NULL;
			engine->nr_regions--;
		}
}

static int serve_region(struct ts_engine *engine, struct ts_region *region)
{
	int rc = ts_fault_server_add(engine->faults, region);

	if (!rc)
		rc = publish_region(engine, region);
	if (!rc && region->serve == TS_SERVE_IN_THREAD)
		ts_inthread_ready(region);
	return rc;
}

/* Everybody lets go of a region that is unregistered. */
static void release_region(struct ts_engine *engine, struct ts_region *region)
{
	ts_fault_server_remove(engine->faults, region);
	if (region->serve == TS_SERVE_IN_THREAD)
		ts_inthread_remove(region);
	unpublish_region(engine, region);
}

int ts_region_attach(struct ts_engine *engine, const struct ts_region_options *options,
		     struct ts_region **region_out)
{
	struct ts_region_options known = { 0 };
	char name[64];

	if (options->size < sizeof(options->size))
		return ts_fail(TS_EVERSION, "ts_region_options.size is %zu: set it to sizeof the "
			       "struct", options->size);
	memcpy(&known, options, TS_MIN(options->size, sizeof(known)));
	TS_SCOPED_LOCK(&engine->control);
	if (known.name)
		snprintf(name, sizeof(name), "%s", known.name);
	else
		snprintf(name, sizeof(name), "region%u", engine->next_region_id + 1);
	int rc = check_options(engine, &known, name);
	if (!rc)
		rc = check_overlap(engine, &known, name);
	if (!rc)
		rc = ts_mapping_check(&known, name);
	if (rc)
		return rc;
	struct ts_region *region = create_region(engine, &known, name);
	if (!region)
		return ts_fail(-ENOMEM, "%s: out of memory", name);
	rc = open_region(engine, region, &known);
	if (!rc)
		rc = serve_region(engine, region);
	if (rc) {
		if (rc > -10000)
			ts_fail(rc, "%s: attach: %s", name, ts_strerror(rc));
		unregister(region);
		release_region(engine, region);
		destroy_region(region);
		return rc;
	}
	ts_log(engine, TS_LOG_INFO, "%s: attached, %u pages, tracker %s, memory %s, %u shards",
	       name, region->nr_pages, region->tracker->name, region->memory->name,
	       region->nr_shards);
	*region_out = region;
	return 0;
}

/* ---- Detach ----------------------------------------------------------------------------- */

static void drain(struct ts_engine *engine, struct ts_region *region)
{
	atomic_store(&region->is_draining, true);
	TS_PHASE(TS_PHASE_DETACH);
	/* Whoever is at work ends its batch; a batch that goes on probation meanwhile is
	 * returned. */
	do {
		ts_evict_pool_return(engine->evict, region);
		sched_yield();
	} while (atomic_load(&region->nr_users) > 0);
}

static void drop_kept(struct ts_engine *engine, struct ts_region *region)
{
	for (uint32_t page = 0; page < region->nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		if (ts_word_is(word, TS_RESIDENT) && (word & TS_WORD_KEPT) &&
		    ts_word_swap(&region->words[page], &word, ts_word_make(TS_RESIDENT, 0, 0)))
			ts_frames_unref(&engine->frames, ts_word_payload(word));
	}
}

static void add_past(struct ts_engine *engine, struct ts_region *region)
{
	_Atomic uint64_t *src = (_Atomic uint64_t *)&region->counters;
	_Atomic uint64_t *dst = (_Atomic uint64_t *)&engine->past;

	for (size_t i = 0; i < sizeof(region->counters) / sizeof(*src); i++)
		ts_bump(&dst[i], atomic_load_explicit(&src[i], memory_order_relaxed));
}

int ts_region_detach(struct ts_region *region)
{
	struct ts_engine *engine = region->engine;

	TS_SCOPED_LOCK(&engine->control);
	drain(engine, region);
	int rc = ts_tool_restore(engine->tool, region, 0, region->nr_pages, true);
	unregister(region);
	release_region(engine, region);
	drop_kept(engine, region);
	add_past(engine, region);
	if (rc)
		ts_fail(rc, "%s: some pages could not be read back and were poisoned",
			region->name);
	ts_log(engine, rc ? TS_LOG_ERROR : TS_LOG_INFO, "%s: detached", region->name);
	destroy_region(region);
	return rc;
}
