/* SPDX-License-Identifier: Apache-2.0
 * life.c — what all regions go through (life.h). */
#include "engine/life.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "evict/pool.h"
#include "fault/inthread.h"
#include "fault/server.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"

/* ---- What is populated ------------------------------------------------------------------ */

static void note_present(struct ts_region *region, uint32_t first_page, uint64_t len_bytes)
{
	for (uint32_t page = first_page; page < first_page + (len_bytes >> TS_PAGE_SHIFT); page++)
		atomic_store_explicit(&region->words[page], ts_word_make(TS_RESIDENT, 0, 0),
				      memory_order_relaxed);
}

struct populate {
	struct ts_region *region;
	uint64_t addr;
	uint32_t first_page;
};

static void note_run(void *user, uint64_t addr, uint64_t len_bytes)
{
	struct populate *populate = user;
	uint64_t idx = (addr - populate->addr) >> TS_PAGE_SHIFT;

	note_present(populate->region, populate->first_page + (uint32_t)idx, len_bytes);
}

/* The region is registered, so a hole that the scan has seen can be filled by nobody but us. */
int ts_life_populate_anon(struct ts_region *region, uint64_t addr, uint32_t first_page,
			  uint32_t nr_pages)
{
	static const struct ts_scan_filter filter = { .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED };
	struct populate populate = { region, addr, first_page };

	return ts_pagemap_scan(region->pagemap_fd, addr, (uint64_t)nr_pages << TS_PAGE_SHIFT,
			       &filter, note_run, &populate);
}

/* Data in [base, base + len) of the descriptor. */
static int populate_piece(struct ts_region *region, uint32_t first_page, int fd, off_t base,
			  off_t len_bytes)
{
	off_t end = base + len_bytes, at = base;

	while (at < end) {
		off_t data = lseek(fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		off_t hole = data < 0 ? data : lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if (data >= end)
			return 0;
		hole = TS_MIN(hole, end);
		note_present(region, first_page + (uint32_t)((data - base) >> TS_PAGE_SHIFT),
			     (uint64_t)(hole - data));
		at = hole;
	}
	return 0;
}

int ts_life_populate_shared(struct ts_region *region, uint32_t first_page, uint32_t nr_pages)
{
	uint32_t end = first_page + nr_pages;
	int rc = 0;

	while (first_page < end && !rc) {
		uint64_t offset;
		uint32_t run;
		int fd = ts_region_backing(region, first_page, &offset, &run);
		run = TS_MIN(run, end - first_page);
		rc = populate_piece(region, first_page, fd, (off_t)offset,
				    (off_t)run << TS_PAGE_SHIFT);
		first_page += run;
	}
	return rc;
}

/* ---- Served ----------------------------------------------------------------------------- */

/* Control alone adds to the list. */
unsigned ts_life_free_slot(struct ts_engine *engine)
{
	unsigned slot = 0;

	TS_SCOPED_LOCK(&engine->regions_lock);
	while (slot < TS_REGION_MAX && engine->regions[slot])
		slot++;
	return slot;
}

static int publish(struct ts_engine *engine, struct ts_region *region)
{
	region->slot = ts_life_free_slot(engine);
	TS_SCOPED_LOCK(&engine->regions_lock);
	if (region->slot < TS_REGION_MAX) {
		engine->regions[region->slot] = region;
		engine->nr_regions++;
		return 0;
	}
	return ts_fail(TS_ELIMIT, "%s: at most %d regions an engine", region->name, TS_REGION_MAX);
}

static void unpublish(struct ts_engine *engine, struct ts_region *region)
{
	TS_SCOPED_LOCK(&engine->regions_lock);
	for (unsigned r = 0; r < TS_REGION_MAX; r++)
		if (engine->regions[r] == region) {
			engine->regions[r] = NULL;
			engine->nr_regions--;
		}
}

int ts_life_serve(struct ts_engine *engine, struct ts_region *region)
{
	int rc = ts_fault_server_add(engine->faults, region);

	if (!rc)
		rc = publish(engine, region);
	if (!rc && region->serve == TS_SERVE_IN_THREAD)
		ts_inthread_ready(region);
	return rc;
}

/* ---- Let go ----------------------------------------------------------------------------- */

void ts_life_drain(struct ts_engine *engine, struct ts_region *region)
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

static void unregister_extent(struct ts_shard *shard, const struct ts_extent *extent)
{
	uint64_t len_bytes = (uint64_t)extent->nr_pages << TS_PAGE_SHIFT;

	/* An injected failure passes; a real one means that the range, or its process, is gone. */
	if (ts_uffd_unregister(shard->uffd, extent->addr, len_bytes))
		(void)ts_uffd_unregister(shard->uffd, extent->addr, len_bytes);
	/* UNREGISTER wakes only those who wait for a missing page. */
	(void)ts_uffd_wake(shard->uffd, extent->addr, len_bytes);
	/* What lies at this address in our own process is none of ours, if it is another's. */
	if (!shard->region->is_remote)
		(void)ts_sys_madvise((void *)(uintptr_t)extent->addr, len_bytes, MADV_DOFORK);
}

void ts_life_unregister(struct ts_region *region)
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
		for (unsigned i = 0; i < nr_extents && shard->uffd >= 0; i++)
			unregister_extent(shard, &extents[i]);
	}
}

void ts_life_release(struct ts_engine *engine, struct ts_region *region)
{
	ts_fault_server_remove(engine->faults, region);
	if (region->serve == TS_SERVE_IN_THREAD)
		ts_inthread_remove(region);
	unpublish(engine, region);
}

void ts_life_drop_frames(struct ts_engine *engine, struct ts_region *region)
{
	for (uint32_t page = 0; page < region->nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		uint32_t frame = ts_word_payload(word);
		bool is_kept = ts_word_is(word, TS_RESIDENT) && (word & TS_WORD_KEPT);
		bool is_away = ts_word_is(word, TS_AWAY);
		if (!is_kept && !is_away)
			continue;
		/* The keeper may be about to move the page to another frame. */
		ts_word to = is_kept ? ts_word_make(TS_RESIDENT, 0, 0) :
			     ts_word_make(TS_GONE, 0, 0);
		if (!ts_word_swap(&region->words[page], &word, to))
			page--;
		else if (is_away)
			ts_frames_drop_page(&engine->frames, frame);
		else
			ts_frames_unref(&engine->frames, frame);
	}
}

void ts_life_add_past(struct ts_engine *engine, struct ts_region *region)
{
	_Atomic uint64_t *src = (_Atomic uint64_t *)&region->counters;
	_Atomic uint64_t *dst = (_Atomic uint64_t *)&engine->past;

	for (size_t i = 0; i < sizeof(region->counters) / sizeof(*src); i++)
		ts_bump(&dst[i], atomic_load_explicit(&src[i], memory_order_relaxed));
}

static void close_all(struct ts_region *region)
{
	for (unsigned s = 0; s < region->nr_shards; s++)
		if (region->shards[s].uffd >= 0)
			close(region->shards[s].uffd);
	if (region->pagemap_fd >= 0)
		close(region->pagemap_fd);
	unsigned nr_backings = atomic_load(&region->nr_backings);
	for (unsigned i = 0; i < nr_backings; i++)
		close(region->backings[i].fd);
	/* Not counted yet: attaching failed in between. */
	if (!nr_backings && region->memfd >= 0)
		close(region->memfd);
}

void ts_life_destroy(struct ts_region *region)
{
	close_all(region);
	ts_sys_free_pages((void *)region->marks, (size_t)region->nr_pages_max / 8 + 8);
	ts_sys_free_pages(region->faulted, region->nr_faulted_max * sizeof(uint32_t));
	if (region->words)
		ts_region_pages_finish(region);
	free(region);
}
