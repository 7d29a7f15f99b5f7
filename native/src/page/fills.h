/* SPDX-License-Identifier: Apache-2.0
 *
 * fills.h — the 8-byte values that whole pages are filled with.
 *
 * A page of one repeated value is stored nowhere: its word (ZERO) names the value by an index.  The
 * table only grows, is bounded (limits.h), and is read without a lock; index 0 is the zero page.
 */
#ifndef TS_PAGE_FILLS_H
#define TS_PAGE_FILLS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "util/limits.h"

/* The table itself; all zero is an empty one.  May lie in a shared map (engine/state.c). */
struct ts_fill_table {
	_Atomic uint64_t values[TS_FILL_MAX];
	_Atomic uint32_t nr_values;
};

struct ts_fills {
	struct ts_fill_table *table;
	struct ts_fill_table own;
	pthread_mutex_t lock;  /* Guards additions.  Evictors only; innermost. */
};

/* table: NULL, or one that outlives the process, with what it holds. */
void ts_fills_init(struct ts_fills *fills, struct ts_fill_table *table);
void ts_fills_finish(struct ts_fills *fills);
/* The value's index, added if need be; TS_ELIMIT when the table is full. */
int ts_fills_find(struct ts_fills *fills, uint64_t value);
static inline uint64_t ts_fills_value(struct ts_fills *fills, uint32_t idx)
{
	return atomic_load_explicit(&fills->table->values[idx], memory_order_relaxed);
}

#endif
