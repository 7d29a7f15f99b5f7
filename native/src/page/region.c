/* SPDX-License-Identifier: Apache-2.0
 * region.c — pages and addresses of a region (region.h). */
#include "page/region.h"

#include <errno.h>
#include <string.h>

#include "os/sys.h"

int ts_region_pages_init(struct ts_region *region, uint32_t nr_pages, uint32_t nr_pages_max,
			 uint64_t secret)
{
	atomic_store(&region->nr_pages, nr_pages);
	region->nr_pages_max = nr_pages_max;
	region->unit_pages = TS_MAX(region->unit_pages, 1u);
	bool has_words = region->words;

	if (!has_words)
		region->words = ts_sys_alloc_table((size_t)nr_pages_max * sizeof(ts_word));
	/* Not in huge pages: it is given up by the page (ts_region_drop_heat()). */
	region->heat = ts_sys_alloc_pages((size_t)nr_pages_max * sizeof(ts_heat));
	region->lately = ts_sys_alloc_pages(sizeof(*region->lately));
	if (!region->words || !region->heat || !region->lately ||
	    ts_kept_init(&region->kept, nr_pages_max, secret) ||
	    ts_blocks_init(&region->blocks, nr_pages_max)) {
		ts_region_pages_finish(region);
		return -ENOMEM;
	}
	/* Those that may be added later say so then; untouched, their words cost nothing. */
	for (uint32_t page = 0; !has_words && page < nr_pages; page++)
		atomic_store_explicit(&region->words[page], ts_word_make(TS_ZERO, 0, 0),
				      memory_order_relaxed);
	return 0;
}

void ts_region_pages_finish(struct ts_region *region)
{
	if (region->state.base)
		ts_mapfile_close(&region->state);
	else
		ts_sys_free_pages((void *)region->words,
				  (size_t)region->nr_pages_max * sizeof(ts_word));
	ts_sys_free_pages((void *)region->heat, (size_t)region->nr_pages_max * sizeof(ts_heat));
	ts_sys_free_pages(region->lately, sizeof(*region->lately));
	ts_kept_finish(&region->kept);
	ts_blocks_finish(&region->blocks);
	region->lately = NULL;
	region->words = NULL;
	region->heat = NULL;
}

int ts_region_backing(const struct ts_region *region, uint32_t page, uint64_t *offset_out,
		      uint32_t *run_out)
{
	unsigned nr_backings = atomic_load_explicit(&region->nr_backings, memory_order_acquire);

	for (unsigned i = 0; i < nr_backings; i++) {
		const struct ts_backing *backing = &region->backings[i];
		uint32_t idx = page - backing->first_page;
		if (page < backing->first_page || idx >= backing->nr_pages)
			continue;
		*offset_out = backing->offset + ((uint64_t)idx << TS_PAGE_SHIFT);
		*run_out = backing->nr_pages - idx;
		return backing->fd;
	}
	TS_ASSERT(!"every page of shared memory has a backing");
	return -1;
}

void ts_region_add_backing(struct ts_region *region, uint32_t first_page, uint32_t nr_pages, int fd,
			   uint64_t offset)
{
	unsigned nr_backings = atomic_load(&region->nr_backings);

	TS_ASSERT(nr_backings < TS_EXTENT_MAX);
	region->backings[nr_backings] = (struct ts_backing){ first_page, nr_pages, fd, offset };
	atomic_store_explicit(&region->nr_backings, nr_backings + 1, memory_order_release);
}

/* Words are all written at the start; ages and hashes only as pages are scanned and come back. */
uint64_t ts_region_pages_bytes(const struct ts_region *region)
{
	uint32_t nr_pages = region->nr_pages;
	uint64_t words_bytes = (uint64_t)nr_pages * sizeof(ts_word);
	uint64_t heat_bytes = (uint64_t)nr_pages * sizeof(ts_heat);

	return words_bytes + ts_sys_resident_bytes((const void *)region->heat, heat_bytes) +
	       ts_sys_resident_bytes(region->lately, sizeof(*region->lately)) +
	       ts_kept_bytes(&region->kept) + ts_blocks_bytes(&region->blocks);
}

/* Not if a page of them has come back before: that decides where it goes next time.  Racy on
 * purpose, like all that is done with ages: a page that comes back between look and drop
 * may lose its guard. */
void ts_region_drop_heat(struct ts_region *region, uint32_t first_page, uint32_t nr_pages)
{
	enum { GROUP = TS_PAGE_BYTES / sizeof(ts_heat) };
	uint32_t nr_all = region->nr_pages, end = TS_MIN(first_page + nr_pages, nr_all);

	for (uint32_t page = first_page / GROUP * GROUP; page < end; page += GROUP) {
		uint32_t group_end = TS_MIN(page + GROUP, nr_all), at = page;
		while (at < group_end) {
			enum ts_state state = ts_word_state(ts_word_load(&region->words[at]));
			if ((state != TS_AWAY && state != TS_ZERO && state != TS_GONE) ||
			    ts_heat_refaults(ts_heat_load(&region->heat[at])))
				break;
			at++;
		}
		/* Only RAM is at stake. */
		if (at == group_end)
			(void)ts_sys_madvise((void *)&region->heat[page],
					     GROUP * sizeof(ts_heat), MADV_DONTNEED);
	}
}

bool ts_region_enter(struct ts_region *region)
{
	atomic_fetch_add(&region->nr_users, 1);
	if (!atomic_load(&region->is_draining))
		return true;
	atomic_fetch_sub(&region->nr_users, 1);
	return false;
}

void ts_region_leave(struct ts_region *region)
{
	uint32_t before = atomic_fetch_sub(&region->nr_users, 1);
	TS_ASSERT(before > 0);
}

uint64_t ts_shard_addr(const struct ts_shard *shard, uint32_t page, uint32_t *run_out)
{
	for (unsigned i = 0; i < shard->nr_extents; i++) {
		const struct ts_extent *extent = &shard->extents[i];
		uint32_t idx = page - extent->first_page;
		if (page < extent->first_page || idx >= extent->nr_pages)
			continue;
		if (run_out)
			*run_out = extent->nr_pages - idx;
		return extent->addr + ((uint64_t)idx << TS_PAGE_SHIFT);
	}
	return 0;
}

bool ts_shard_page(const struct ts_shard *shard, uint64_t addr, uint32_t *page_out)
{
	for (unsigned i = 0; i < shard->nr_extents; i++) {
		const struct ts_extent *extent = &shard->extents[i];
		uint64_t idx = (addr - extent->addr) >> TS_PAGE_SHIFT;
		if (addr < extent->addr || idx >= extent->nr_pages)
			continue;
		*page_out = extent->first_page + (uint32_t)idx;
		return true;
	}
	return false;
}

/* Cuts [addr, addr + len) out of every extent; the pieces cut out go to `out`, if given.  Works on
 * a copy, so that a bound that is met leaves the shard as it was. */
static bool cut(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes, struct ts_extent *out,
		unsigned *nr_out)
{
	struct ts_extent rest[TS_EXTENT_MAX];
	unsigned nr_rest = 0;
	uint64_t end = addr + len_bytes;

	*nr_out = 0;
	for (unsigned i = 0; i < shard->nr_extents; i++) {
		struct ts_extent extent = shard->extents[i];
		uint64_t extent_end = extent.addr + ((uint64_t)extent.nr_pages << TS_PAGE_SHIFT);
		uint64_t lo = TS_MAX(addr, extent.addr), hi = TS_MIN(end, extent_end);
		if (lo >= hi)
			lo = hi = extent_end;  /* untouched: all of it is "before the cut" */
		uint32_t before = (uint32_t)((lo - extent.addr) >> TS_PAGE_SHIFT);
		uint32_t inside = (uint32_t)((hi - lo) >> TS_PAGE_SHIFT);
		uint32_t after = extent.nr_pages - before - inside;
		if (nr_rest + (before > 0) + (after > 0) > TS_EXTENT_MAX)
			return false;
		if (before)
			rest[nr_rest++] =
				(struct ts_extent){ extent.addr, extent.first_page, before };
		if (inside)
			out[(*nr_out)++] =
				(struct ts_extent){ lo, extent.first_page + before, inside };
		if (after)
			rest[nr_rest++] = (struct ts_extent){
				hi, extent.first_page + before + inside, after };
	}
	memcpy(shard->extents, rest, nr_rest * sizeof(rest[0]));
	shard->nr_extents = nr_rest;
	return true;
}

bool ts_shard_moved(struct ts_shard *shard, uint64_t from, uint64_t to, uint64_t len_bytes)
{
	struct ts_extent pieces[TS_EXTENT_MAX], saved[TS_EXTENT_MAX];
	unsigned nr_pieces, nr_saved = shard->nr_extents;

	memcpy(saved, shard->extents, sizeof(saved));
	if (!cut(shard, from, len_bytes, pieces, &nr_pieces))
		return false;
	if (shard->nr_extents + nr_pieces > TS_EXTENT_MAX) {
		memcpy(shard->extents, saved, sizeof(saved));
		shard->nr_extents = nr_saved;
		return false;
	}
	for (unsigned i = 0; i < nr_pieces; i++) {
		pieces[i].addr = pieces[i].addr - from + to;
		shard->extents[shard->nr_extents++] = pieces[i];
	}
	return true;
}

bool ts_shard_unmapped(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	struct ts_extent pieces[TS_EXTENT_MAX];
	unsigned nr_pieces;

	return cut(shard, addr, len_bytes, pieces, &nr_pieces);
}
