/* SPDX-License-Identifier: Apache-2.0
 * fills.c — values of same-filled pages (fills.h). */
#include "page/fills.h"

#include "util/base.h"

void ts_fills_init(struct ts_fills *fills, struct ts_fill_table *table)
{
	pthread_mutex_init(&fills->lock, NULL);
	fills->table = table ? table : &fills->own;
	if (!atomic_load(&fills->table->nr_values))
		atomic_store(&fills->table->nr_values, 1);
}

void ts_fills_finish(struct ts_fills *fills)
{
	pthread_mutex_destroy(&fills->lock);
}

static int search(struct ts_fills *fills, uint64_t value)
{
	uint32_t nr_values = atomic_load_explicit(&fills->table->nr_values, memory_order_acquire);

	for (uint32_t i = 0; i < nr_values; i++)
		if (ts_fills_value(fills, i) == value)
			return (int)i;
	return TS_ENOTFOUND;
}

int ts_fills_find(struct ts_fills *fills, uint64_t value)
{
	int idx = search(fills, value);

	if (idx >= 0)
		return idx;
	TS_SCOPED_LOCK(&fills->lock);
	idx = search(fills, value);
	if (idx >= 0)
		return idx;
	uint32_t nr_values = atomic_load(&fills->table->nr_values);
	if (nr_values == TS_FILL_MAX)
		return TS_ELIMIT;
	atomic_store_explicit(&fills->table->values[nr_values], value, memory_order_relaxed);
	atomic_store_explicit(&fills->table->nr_values, nr_values + 1, memory_order_release);
	return (int)nr_values;
}
