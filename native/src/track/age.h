/* SPDX-License-Identifier: Apache-2.0
 * age.h — a scan's result for each page: one scan older, or new. */
#ifndef TS_TRACK_AGE_H
#define TS_TRACK_AGE_H

#include "page/region.h"

/* How many resident pages have which age, counted while they are aged.  Four tables, because
 * neighbours often have one age, and a counter that was just written is slow to count up again. */
struct ts_ages {
	uint32_t nr[4][256];
	uint32_t nr_guarded, nr_guarded_touched;  /* not in nr[] */
	bool has_blocks;                          /* region->blocks is taken */
};

/* Ages nr_pages pages from first_page on; bit 0 of touched[0] is the first. */
void ts_age_pages(struct ts_region *region, uint32_t first_page, uint32_t nr_pages,
		  const uint64_t *touched, struct ts_ages *ages);
/* Adds what was counted. */
void ts_ages_report(const struct ts_ages *ages, struct ts_scan_result *result);

#endif
