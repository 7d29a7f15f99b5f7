/* SPDX-License-Identifier: Apache-2.0
 *
 * rwp.c — the tracker of Linux 7.3: reads and writes, told by the page table itself.
 *
 * What the kernel gives us: RWPROTECT takes the access rights away from populated entries and
 * leaves the pages where they are; with RWP_ASYNC the first access, read or write, by a program or
 * by the kernel on its behalf, gets them back without a message.  PAGEMAP_SCAN tells protected
 * entries from others.  Holes get no marker; a swapped page keeps its protection.
 * What that means here: not accessed since the deactivate means cold, so there is no probation.
 * Pages that we install count as accessed until the next deactivate; pages that MOVE puts back are
 * protected, and so count as cold until they are touched.
 * What can go wrong: an event is queued (EAGAIN), or a part of the range is registered no more
 * (ENOENT).  Nothing was protected then, and everything there counts as accessed until the next
 * deactivate; to wait for the event to be read would be to wait for the gate that we share.  Guard
 * pages report as accessed, hence the filter.
 * Huge pages: protection keeps them whole; one access makes all 512 pages accessed.  Those of a
 * memfd it unmaps instead; MODE_MINOR then makes the next touch of each page a message, whose
 * answer maps that page alone (fault/minor.c), and from then on they are pages like others.  The
 * same holds for pages that the kernel swapped out, and for those that were in the memfd before it
 * was mapped.
 */
#include <errno.h>

#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"

/* 8 MiB, should all of them be there after all: 140 us. */
enum { SPARSE_PAGES_MAX = 2048 };

static int deactivate(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes)
{
	int rc = ts_uffd_rwprotect(shard->uffd, addr, len_bytes, true);

	return rc == -EAGAIN || rc == -ENOENT ? 0 : rc;
}

static int touched(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap)
{
	/* The shared zero page is no memory to gain: counted as touched, it never gets old. */
	static const struct ts_scan_filter accessed = {
		.mask = PAGE_IS_GUARD,
		.inverted = PAGE_IS_GUARD,
		.anyof = PAGE_IS_ACCESSED | PAGE_IS_PFNZERO,
	};

	return ts_pagemap_scan_bits(region->pagemap_fd, extent->addr,
				    (uint64_t)extent->nr_pages << TS_PAGE_SHIFT, &accessed,
				    bitmap);
}

const struct ts_tracker_ops ts_tracker_rwp_ops = {
	.name = "rwp",
	.id = TS_TRACKER_RWP,
	.uffd_features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC,
	.uffd_modes = UFFDIO_REGISTER_MODE_RWP,
	.can_recheck = true,
	.sparse_pages_max = SPARSE_PAGES_MAX,
	.deactivate = deactivate,
	.touched = touched,
};

const struct ts_tracker_ops ts_tracker_rwp_memfd_ops = {
	.name = "rwp",
	.id = TS_TRACKER_RWP,
	.uffd_features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC | UFFD_FEATURE_MISSING_SHMEM |
			 UFFD_FEATURE_MINOR_SHMEM,
	.uffd_modes = UFFDIO_REGISTER_MODE_RWP | UFFDIO_REGISTER_MODE_MINOR,
	.can_recheck = true,
	.sparse_pages_max = SPARSE_PAGES_MAX,
	.is_proof = true,
	.deactivate = deactivate,
	.touched = touched,
};

/* MISSING_HUGETLBFS, MINOR_HUGETLBFS: the unit of all this is the huge page. */
const struct ts_tracker_ops ts_tracker_rwp_hugetlb_ops = {
	.name = "rwp",
	.id = TS_TRACKER_RWP,
	.uffd_features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC |
			 UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS,
	.uffd_modes = UFFDIO_REGISTER_MODE_RWP | UFFDIO_REGISTER_MODE_MINOR,
	.can_recheck = true,
	.is_proof = true,
	.deactivate = deactivate,
	.touched = touched,
};
