/* SPDX-License-Identifier: Apache-2.0
 * verbs.c — deactivate, scan, evict, prefetch, serve, discard, sample; dictionaries. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/engine.h"
#include "engine/collapse.h"
#include "engine/tool.h"
#include "evict/pool.h"
#include "fault/caller.h"
#include "fault/forget.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"
#include "util/sized.h"

/* Pages that discard handles with the gate closed: 0.1 ms. */
enum { DISCARD_PAGES = 4096 };

/* Every verb holds the region for its duration; none waits for another. */
static int enter(struct ts_region *region)
{
	return ts_region_enter(region) ? 0 :
	       ts_fail(TS_ESTATE, "%s: is being detached", region->name);
}

static int check_can(const struct ts_region *region, uint32_t ability, const char *verb)
{
	return region->abilities & ability ? 0 :
	       ts_fail(TS_EUNSUPPORTED, "%s: %s: %s", region->name, verb, region->limits);
}

int ts_region_deactivate(struct ts_region *region)
{
	int rc = check_can(region, TS_CAN_TRACK, "deactivate");

	if (!rc)
		rc = enter(region);
	if (rc)
		return rc;
	/* Before the protection, which keeps the kernel from collapsing. */
	if (region->has_collapse)
		ts_collapse_region(region);
	rc = ts_track_deactivate(region);
	ts_region_leave(region);
	return rc;
}

int ts_region_scan(struct ts_region *region, struct ts_scan_result *result)
{
	struct ts_scan_result full = { 0 };
	int rc = ts_sized_check(result->size, "ts_scan_result");

	if (!rc)
		rc = check_can(region, TS_CAN_TRACK, "scan");
	if (!rc)
		rc = enter(region);
	if (rc)
		return rc;
	rc = ts_track_scan(region, &full);
	ts_region_leave(region);
	ts_sized_out(result, &full, sizeof(full));
	return rc;
}

int ts_region_evict(struct ts_region *region, const struct ts_evict_options *options,
		    struct ts_evict_result *result)
{
	struct ts_evict_options known;
	struct ts_evict_result full = { 0 };
	int rc = ts_sized_in(&known, sizeof(known), options, "ts_evict_options");

	if (!rc)
		rc = ts_sized_check(result->size, "ts_evict_result");
	if (!rc)
		rc = check_can(region, TS_CAN_EVICT, "evict");
	if (!rc)
		rc = enter(region);
	if (rc)
		return rc;
	rc = ts_evict_pool_run(region->engine->evict, region, &known, &full);
	ts_region_leave(region);
	ts_sized_out(result, &full, sizeof(full));
	return rc;
}

static int check_range(const struct ts_region *region, uint64_t offset_bytes, uint64_t len_bytes)
{
	uint64_t size_bytes = (uint64_t)region->nr_pages << TS_PAGE_SHIFT;

	if ((offset_bytes | len_bytes) % TS_PAGE_BYTES)
		return ts_fail(TS_EALIGN, "%s: offset and length must be multiples of %d",
			       region->name, TS_PAGE_BYTES);
	if (offset_bytes > size_bytes || len_bytes > size_bytes - offset_bytes)
		return ts_fail(TS_ECONFIG, "%s: range ends beyond the region", region->name);
	return 0;
}

int ts_region_prefetch(struct ts_region *region, uint64_t offset_bytes, uint64_t len_bytes)
{
	struct ts_engine *engine = region->engine;
	int rc = check_range(region, offset_bytes, len_bytes);

	if (rc)
		return rc;
	TS_SCOPED_LOCK(&engine->control);
	rc = enter(region);
	if (rc)
		return rc;
	rc = ts_tool_restore(engine->tool, region, (uint32_t)(offset_bytes >> TS_PAGE_SHIFT),
			     (uint32_t)(len_bytes >> TS_PAGE_SHIFT), false);
	ts_region_leave(region);
	if (rc == -ENOMEM)
		ts_fail(rc, "%s: prefetch: no huge page is free; raise vm.nr_hugepages",
			region->name);
	else if (rc)
		ts_fail(rc, "%s: some pages could not be read back and were poisoned",
			region->name);
	return rc;
}

int ts_region_serve(struct ts_region *region, uint64_t offset_bytes, uint32_t flags)
{
	uint64_t page = offset_bytes >> TS_PAGE_SHIFT;

	if (flags & ~(uint32_t)TS_ACCESS_WRITE)
		return ts_fail(TS_ECONFIG, "%s: serve: flags %#x: 0 or TS_ACCESS_WRITE",
			       region->name, flags);
	int rc = enter(region);
	if (rc)
		return rc;
	/* Entered first: a region of another process may grow. */
	if (page >= region->nr_pages)
		rc = ts_fail(TS_ECONFIG, "%s: serve: offset %#llx is beyond the region",
			     region->name, (unsigned long long)offset_bytes);
	else
		rc = ts_callers_serve(region->engine->callers,
				      ts_region_shard(region, (uint32_t)page), (uint32_t)page,
				      flags & TS_ACCESS_WRITE ? TS_SERVE_WRITE : 0);
	ts_region_leave(region);
	if (rc == TS_ECORRUPT)
		ts_fail(rc, "%s: page %llu could not be read back and is poisoned, or was unmapped",
			region->name, (unsigned long long)page);
	return rc;
}

int ts_region_discard(struct ts_region *region, uint64_t offset_bytes, uint64_t len_bytes)
{
	uint64_t unit_bytes = (uint64_t)region->unit_pages << TS_PAGE_SHIFT;
	int rc = check_range(region, offset_bytes, len_bytes);

	/* A part of a huge page can't be given up. */
	if (!rc && (offset_bytes | len_bytes) % unit_bytes)
		rc = ts_fail(TS_EALIGN, "%s: discard: offset and length must be multiples of %llu",
			     region->name, (unsigned long long)unit_bytes);
	if (!rc)
		rc = enter(region);
	if (rc)
		return rc;
	uint32_t page = (uint32_t)(offset_bytes >> TS_PAGE_SHIFT);
	uint32_t end = page + (uint32_t)(len_bytes >> TS_PAGE_SHIFT);
	while (page < end) {
		struct ts_shard *shard = ts_region_shard(region, page);
		uint32_t shard_end = (page / region->pages_per_shard + 1) * region->pages_per_shard;
		uint32_t nr_pages = TS_MIN(TS_MIN(end, shard_end) - page, (uint32_t)DISCARD_PAGES);
		ts_gate_close(&shard->gate);
		ts_forget_pages(region->engine, shard, page, nr_pages, false);
		ts_gate_reopen(&shard->gate);
		page += nr_pages;
	}
	ts_region_leave(region);
	return 0;
}

/* ---- Training --------------------------------------------------------------------------- */

/* Copies a resident page.  The guest may write while we read, or may have given the page up (after
 * MADV_FREE it reads as it was for a while): such a sample is as good as any for training, and
 * nothing else is made of it. */
static bool copy_page(struct ts_region *region, uint32_t page, void *buf)
{
	struct ts_shard *shard = ts_region_shard(region, page);
	bool is_copied = false;

	if (region->memfd >= 0) {
		uint64_t offset;
		uint32_t run;
		int fd = ts_region_backing(region, page, &offset, &run);
		return !ts_sys_pread_all(fd, buf, TS_PAGE_BYTES, (off_t)offset);
	}
	/* Anonymous memory of another process: there is no way to look. */
	if (region->is_remote)
		return false;
	ts_word word = ts_word_load(&region->words[page]);
	if (!ts_word_is(word, TS_RESIDENT) ||
	    !ts_word_swap(&region->words[page], &word, ts_word_make(TS_COMING, 0, 0)))
		return false;
	/* COMING: nobody takes it away while we look. */
	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	if (addr) {
		uint64_t present = 0;
		off_t off = (off_t)(addr >> TS_PAGE_SHIFT << 3);
		/* A hole would make us wait for the fault server, which waits for us. */
		struct iovec to = { buf, TS_PAGE_BYTES };
		struct iovec from = { (void *)(uintptr_t)addr, TS_PAGE_BYTES };
		/* Not a load: the guest may have unmapped or moved it this moment. */
		is_copied = !ts_sys_pread_all(region->pagemap_fd, &present, 8, off) &&
			    (present >> 63) &&
			    process_vm_readv(getpid(), &to, 1, &from, 1, 0) == TS_PAGE_BYTES;
	}
	ts_gate_unshare(&shard->gate);
	if ((ts_word_finish(&region->words[page], word) & TS_WORD_REMOVED) && (word & TS_WORD_KEPT))
		ts_frames_unref(&region->engine->frames, ts_word_payload(word));
	/* A fault that came meanwhile was ignored. */
	if (addr)
		(void)ts_uffd_wake(shard->uffd, addr, TS_PAGE_BYTES);
	return is_copied;
}

int64_t ts_region_sample(struct ts_region *region, uint32_t age_min, void *buf, uint64_t nr_max)
{
	uint64_t nr_samples = 0, nr_old = 0;
	int rc = enter(region);

	if (rc)
		return rc;
	for (uint32_t page = 0; page < region->nr_pages; page++)
		nr_old += ts_word_is(ts_word_load(&region->words[page]), TS_RESIDENT) &&
			  ts_heat_age(ts_heat_load(&region->heat[page])) >= age_min;
	uint64_t stride = TS_MAX(nr_old / TS_MAX(nr_max, 1), 1), seen = 0;
	for (uint32_t page = 0; page < region->nr_pages && nr_samples < nr_max; page++) {
		if (!ts_word_is(ts_word_load(&region->words[page]), TS_RESIDENT) ||
		    ts_heat_age(ts_heat_load(&region->heat[page])) < age_min || seen++ % stride)
			continue;
		nr_samples += copy_page(region, page, (char *)buf + nr_samples * TS_PAGE_BYTES);
	}
	ts_region_leave(region);
	return (int64_t)nr_samples;
}

static int store_dictionary(struct ts_tier *tier, const void *data, size_t len_bytes, uint32_t id)
{
	size_t cap_bytes = len_bytes + TS_FRAME_HEAD_BYTES;
	void *frame = malloc(cap_bytes);

	if (!frame)
		return ts_fail(-ENOMEM, "tier %s: dictionary: out of memory", tier->name);
	int len = ts_encode_dict_frame(data, len_bytes, id, frame, cap_bytes);
	struct ts_put item = { .key = (uint64_t)TS_KEY_DICT + id, .data = frame,
			       .len_bytes = (uint32_t)TS_MAX(len, 0) };
	int rc = len < 0 ? len : ts_store_put(tier->store, &item, 1);
	if (!rc)
		rc = item.status;
	free(frame);
	if (rc)
		ts_fail(rc, "tier %s: dictionary: %s", tier->name, ts_strerror(rc));
	return rc;
}

int ts_tier_set_dictionary(struct ts_engine *engine, unsigned tier_index, const void *data,
			   size_t len_bytes)
{
	TS_SCOPED_LOCK(&engine->control);
	if (tier_index >= engine->nr_tiers)
		return ts_fail(TS_ECONFIG, "dictionary: there is no tier %u", tier_index);
	struct ts_tier *tier = &engine->tiers[tier_index];
	if (tier->codec != TS_CODEC_ZSTD)
		return ts_fail(TS_ECONFIG, "tier %s: only zstd uses dictionaries", tier->name);
	if (len_bytes > TS_DICT_BYTES_MAX)
		return ts_fail(TS_ELIMIT, "tier %s: a dictionary has at most %d bytes", tier->name,
			       TS_DICT_BYTES_MAX);
	int id = ts_dict_add(engine->dicts, data, len_bytes, tier->level);
	if (id == TS_ELIMIT)
		return id;  /* it has said so, and what to do */
	if (id < 0)
		return ts_fail(id, "tier %s: dictionary: %s", tier->name, ts_strerror(id));
	/* For the offline tools; first, so that no frame names a dictionary that is not there. */
	int rc = store_dictionary(tier, data, len_bytes, (uint32_t)id);
	if (rc)
		return rc;
	ts_dict_gain_init(&tier->gain);
	atomic_store_explicit(&tier->dict_id, (uint32_t)id, memory_order_release);
	return id;
}
