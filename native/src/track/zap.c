/* SPDX-License-Identifier: Apache-2.0
 *
 * zap.c — the tracker for memfd memory before Linux 7.3: unmap, and see what gets mapped again.
 *
 * What the kernel gives us: MADV_DONTNEED on a shared mapping drops page-table entries and nothing
 * else; the next touch maps the page from the page cache, without a message and, in a range
 * registered with a userfaultfd, without its neighbours.
 * What that means here: present after a deactivate means touched, by a read or a write.  Pages that
 * the fault server installs are mapped, so they count as touched.  EVENT_REMOVE must be off, or
 * every deactivate would be announced as a removal.
 */
#include "os/pagemap.h"
#include "os/sys.h"
#include "track/track.h"

static int deactivate(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	(void)shard;
	return ts_sys_madvise((void *)(uintptr_t)addr, len_bytes, MADV_DONTNEED);
}

static int touched(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap)
{
	static const struct ts_scan_filter present = { .mask = PAGE_IS_PRESENT };

	return ts_pagemap_scan_bits(region->pagemap_fd, extent->addr,
				    (uint64_t)extent->nr_pages << TS_PAGE_SHIFT, &present,
				    bitmap);
}

const struct ts_tracker_ops ts_tracker_zap_ops = {
	.name = "zap",
	.id = TS_TRACKER_ZAP,
	.uffd_features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
			 UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	.uffd_modes = UFFDIO_REGISTER_MODE_WP,
	.can_recheck = true,
	.sparse_pages_max = 2048, /* a page that is mapped costs 300 ns, one that is not 1 */
	.deactivate = deactivate,
	.touched = touched,
};
