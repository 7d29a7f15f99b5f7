/* SPDX-License-Identifier: Apache-2.0
 *
 * wp.c — the tracker for anonymous memory before Linux 7.3: writes only.
 *
 * What the kernel gives us: WP_ASYNC (6.7) lifts a write protection by itself at the first write
 * and PAGEMAP_SCAN tells which pages were written, and protects them again in the same pass.
 * What that means here: a page that is only read looks cold.  It is taken from the guest all the
 * same, but passes a probation in the staging area before it is encoded; a read in that time brings
 * it back at the price of one fault.  The scan asks for WRITTEN and PRESENT together: with WRITTEN
 * alone the kernel puts markers into holes, which MOVE and ZEROPAGE then take for pages (EEXIST).
 * Huge pages: protection keeps them whole; the first write splits the mapping.
 */
#include "os/pagemap.h"
#include "os/sys.h"
#include "track/track.h"

static int deactivate(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	return ts_pagemap_protect_written(shard->region->pagemap_fd, addr, len_bytes);
}

static int touched(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap)
{
	/* The shared zero page is no memory to gain: counted as touched, it never gets old. */
	static const struct ts_scan_filter written = { .mask = PAGE_IS_PRESENT,
						       .anyof = PAGE_IS_WRITTEN | PAGE_IS_PFNZERO };

	return ts_pagemap_scan_bits(region->pagemap_fd, extent->addr,
				    (uint64_t)extent->nr_pages << TS_PAGE_SHIFT, &written,
				    bitmap);
}

const struct ts_tracker_ops ts_tracker_wp_ops = {
	.name = "wp",
	.id = TS_TRACKER_WP,
	.uffd_features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC |
			 UFFD_FEATURE_WP_UNPOPULATED,
	.uffd_modes = UFFDIO_REGISTER_MODE_WP,
	.needs_probation = true,
	.call_pages_max = 4096,  /* 7 ns a page */
	.sparse_pages_max = 8192,
	.deactivate = deactivate,
	.touched = touched,
};
