/* SPDX-License-Identifier: Apache-2.0
 * pageset.h — a set of the 512 pages of a 2 MiB chunk, as bits. */
#ifndef TS_MEMORY_PAGESET_H
#define TS_MEMORY_PAGESET_H

#include <stdbool.h>
#include <stdint.h>

#include "util/limits.h"

enum { TS_CHUNK_PAGES = 512 };

struct ts_pageset {
	uint64_t bits[TS_CHUNK_PAGES / 64];
};

static inline void ts_pageset_add(struct ts_pageset *set, unsigned i)
{
	set->bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static inline void ts_pageset_remove(struct ts_pageset *set, unsigned i)
{
	set->bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

static inline bool ts_pageset_has(const struct ts_pageset *set, unsigned i)
{
	return set->bits[i / 64] >> (i % 64) & 1;
}

static inline unsigned ts_pageset_count(const struct ts_pageset *set)
{
	unsigned count = 0;

	for (unsigned w = 0; w < TS_CHUNK_PAGES / 64; w++)
		count += (unsigned)__builtin_popcountll(set->bits[w]);
	return count;
}

/* The first member at or after i; TS_CHUNK_PAGES if there is none. */
static inline unsigned ts_pageset_next(const struct ts_pageset *set, unsigned i)
{
	while (i < TS_CHUNK_PAGES) {
		uint64_t rest = set->bits[i / 64] >> (i % 64);
		if (rest)
			return i + (unsigned)__builtin_ctzll(rest);
		i = (i / 64 + 1) * 64;
	}
	return TS_CHUNK_PAGES;
}

/* for (each member i of set).  The set may lose i, not gain members, meanwhile. */
#define TS_PAGESET_EACH(i, set)                                                                    \
	for (unsigned i = ts_pageset_next(set, 0); i < TS_CHUNK_PAGES;                             \
	     i = ts_pageset_next(set, i + 1))

/* For ts_pagemap_scan() of a run of addresses: what it finds becomes members of a set. */
struct ts_pageset_run {
	struct ts_pageset *set;
	uint64_t addr;     /* of page `i` */
	unsigned i;
};

static inline void ts_pageset_note(void *user, uint64_t addr, uint64_t len_bytes)
{
	struct ts_pageset_run *run = user;
	unsigned first = run->i + (unsigned)((addr - run->addr) >> TS_PAGE_SHIFT);

	for (unsigned n = 0; n < len_bytes >> TS_PAGE_SHIFT; n++)
		ts_pageset_add(run->set, first + n);
}

#endif
