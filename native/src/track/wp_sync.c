/* SPDX-License-Identifier: Apache-2.0
 *
 * wp_sync.c — the tracker for another process's memory that it registered for synchronous write
 * protection: writes only, each told by a message.
 *
 * What the kernel gives us: a write to a protected page waits, and a message says so; the fault
 * server lifts the protection of that page (fault/serve.c:serve_resident) and it goes on.  Nothing
 * of this needs more than the handed descriptor: not the other process's page table, for which one
 * needs the right to trace it.
 * What that means here: the fault server sets a mark for each page that it lifts the protection of,
 * or installs; the marks are what was touched.  A page costs a message for its first write after
 * each deactivate, which is why only regions that can be evicted from are worth tracking like this.
 * Reads are not seen: pages that are only read leave, come back by a fault, and are then guarded
 * for longer and longer (fault/install.c:ts_install_guard_scans).
 * With a page table to look at, pages are found, too, that somebody else populated.
 */
#include <errno.h>

#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"

static void clear_marks(struct ts_region *region, uint32_t page, uint32_t nr_pages)
{
	for (uint32_t end = page + nr_pages; page < end;) {
		uint32_t n = TS_MIN(64 - page % 64, end - page);
		uint64_t bits = n == 64 ? UINT64_MAX : ((UINT64_C(1) << n) - 1) << (page % 64);
		atomic_fetch_and_explicit(&region->marks[page / 64], ~bits, memory_order_relaxed);
		page += n;
	}
}

/* Marks go first: a write in between is one from before. */
static int deactivate(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	struct ts_region *region = shard->region;
	uint32_t page, nr_pages = (uint32_t)(len_bytes >> TS_PAGE_SHIFT);

	if (!ts_shard_page(shard, addr, &page))
		return 0;
	clear_marks(region, page, nr_pages);
	int rc = ts_uffd_protect(shard->uffd, addr, len_bytes, true);
	if (!rc)
		return 0;
	/* An event is queued, or part of it is registered no more: what can't be watched counts as
	 * touched. */
	for (uint32_t i = 0; i < nr_pages; i++)
		ts_region_mark(region, page + i);
	return rc == -EAGAIN || rc == -ENOENT ? 0 : rc;
}

static int touched(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap)
{
	static const struct ts_scan_filter unprotected = { .mask = PAGE_IS_PRESENT,
							   .anyof = PAGE_IS_WRITTEN };

	for (uint32_t i = 0; i < extent->nr_pages; i++) {
		uint32_t page = extent->first_page + i;
		uint64_t marks = atomic_load_explicit(&region->marks[page / 64],
						      memory_order_relaxed);
		bitmap[i / 64] |= (marks >> (page % 64) & 1) << (i % 64);
	}
	/* Marks alone are enough; the kernel may have changed its mind about us, or the process be
	 * gone. */
	if (region->pagemap_fd >= 0)
		(void)ts_pagemap_scan_bits(region->pagemap_fd, extent->addr,
					   (uint64_t)extent->nr_pages << TS_PAGE_SHIFT,
					   &unprotected, bitmap);
	return 0;
}

const struct ts_tracker_ops ts_tracker_wp_sync_ops = {
	.name = "wp-sync",
	.id = TS_TRACKER_WP,
	.uffd_features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	.uffd_modes = UFFDIO_REGISTER_MODE_WP,
	.needs_probation = true,
	.can_recheck = true,
	.deactivate = deactivate,
	.touched = touched,
};

/* ---- Memory that can only be served ----------------------------------------------------- */

static int deactivate_none(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	(void)shard;
	(void)addr;
	(void)len_bytes;
	return TS_EUNSUPPORTED;
}

static int touched_none(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap)
{
	(void)region;
	(void)extent;
	(void)bitmap;
	return TS_EUNSUPPORTED;
}

const struct ts_tracker_ops ts_tracker_none_ops = {
	.name = "none",
	.deactivate = deactivate_none,
	.touched = touched_none,
};
