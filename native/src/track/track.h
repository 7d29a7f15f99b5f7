/* SPDX-License-Identifier: Apache-2.0
 *
 * track.h — which pages has nobody touched since the last deactivate?  One table of functions for
 * each way of asking the kernel.
 *
 *   tracker  memory  sees              asks by                               a touch costs
 *   rwp      both    reads and writes  RWPROTECT, async; PAGE_IS_ACCESSED    a minor fault, 0.7 us
 *   zap      memfd   reads and writes  MADV_DONTNEED; what is mapped again   a minor fault, 1.2 us
 *   wp       anon    writes            WP_ASYNC; PAGE_IS_WRITTEN             a minor fault, 0.8 us
 *   wp-sync  remote  writes            WRITEPROTECT; marks (wp_sync.c)       a message, if a write
 *   none     remote  nothing                                                 nothing
 *
 * A tracker only reports; ages are kept by ts_track_scan().
 */
#ifndef TS_TRACK_TRACK_H
#define TS_TRACK_TRACK_H

#include <stdbool.h>
#include <stdint.h>

#include "page/region.h"

struct ts_tracker_ops {
	const char *name;
	enum ts_tracker id;
	/* What the kernel must offer, beside MISSING: features for UFFDIO_API, modes for
	 * REGISTER. */
	uint64_t uffd_features, uffd_modes;
	/* Reads are not seen: pages pass a probation before they leave. */
	bool needs_probation;
	/* A page that was touched since the scan can still be told when it is taken. */
	bool can_recheck;
	/* What it has deactivated and finds untouched was not touched, whatever became of the page
	 * meanwhile: eviction relies on it, so nobody else's pages may be deactivated. */
	bool is_proof;
	/* Pages of one deactivate() that take no more than some 30 us, for a fault may have to wait
	 * so long: whole huge pages; 0: one. */
	uint32_t call_pages_max;
	/* The same where few pages are there, found out by how long the calls take: most of a call
	 * is then its flush of the other CPUs' translations.  0: call_pages_max. */
	uint32_t sparse_pages_max;

	/* From now on touches of [addr, addr + len) are noticed.  0 or -errno. */
	int (*deactivate)(struct ts_shard *shard, uint64_t addr, uint64_t len_bytes);
	/* Sets the bit of every page of the extent that was touched, in a bitmap whose bit 0 is the
	 * extent's first page.  0 or -errno. */
	int (*touched)(struct ts_region *region, const struct ts_extent *extent, uint64_t *bitmap);
};

extern const struct ts_tracker_ops ts_tracker_zap_ops, ts_tracker_wp_ops, ts_tracker_rwp_ops,
	ts_tracker_rwp_memfd_ops, ts_tracker_rwp_hugetlb_ops;
/* For another process's memory (engine/adopt.c). */
extern const struct ts_tracker_ops ts_tracker_wp_sync_ops, ts_tracker_none_ops;

/* The tracker for this memory: the one asked for, or the best there is.  Else TS_EUNSUPPORTED (this
 * kernel) or TS_ECONFIG (never on such memory); ts_last_error() names region_name and the
 * reason. */
int ts_tracker_find(enum ts_tracker wanted, enum ts_memory memory, const struct ts_probe *probe,
		    const char *region_name, const struct ts_tracker_ops **tracker_out);

/* The same for a memfd of hugetlb pages: rwp or nothing. */
int ts_tracker_find_hugetlb(enum ts_tracker wanted, const struct ts_probe *probe,
			    const char *region_name, const struct ts_tracker_ops **tracker_out);

int ts_track_deactivate(struct ts_region *region);
int ts_track_scan(struct ts_region *region, struct ts_scan_result *result);

#endif
