/* SPDX-License-Identifier: Apache-2.0
 * hugetlb.h — what attaching a memfd of huge pages takes more than another. */
#ifndef TS_ENGINE_HUGETLB_H
#define TS_ENGINE_HUGETLB_H

#include "core/engine.h"

/* Pages of 2 MiB, whole ones, and nothing asked that such memory does not have. */
int ts_hugetlb_check(const struct ts_region_options *options, const char *name);
/* Which of them are there, mapped or not: all of a registered region's. */
int ts_hugetlb_populate(struct ts_region *region);

#endif
