/* SPDX-License-Identifier: Apache-2.0
 * mapping.h — what is mapped where, before a region is attached there. */
#ifndef TS_ENGINE_MAPPING_H
#define TS_ENGINE_MAPPING_H

#include "core/engine.h"

/* Checks that the whole range is memory of the kind the options name, which can be served.  0, or
 * TS_EBACKING, TS_EREGISTERED ... with a text that says which part and why.  *is_hugetlb_out: it
 * is a memfd of huge pages (engine/hugetlb.h). */
int ts_mapping_check(const struct ts_region_options *options, const char *name,
		     bool *is_hugetlb_out);

#endif
