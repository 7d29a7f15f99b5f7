/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.h — the evict threads: jobs (evict so much of a region) and batches on probation.
 */
#ifndef TS_EVICT_POOL_H
#define TS_EVICT_POOL_H

#include "evict/evict.h"

int ts_evict_pool_create(struct ts_engine *engine, unsigned nr_threads,
			 struct ts_evict_pool **pool_out);
/* No job is running, no region attached.  NULL is accepted. */
void ts_evict_pool_destroy(struct ts_evict_pool *pool);

/* Runs one eviction to its end (batches that go on probation are stored later).  Blocks. */
int ts_evict_pool_run(struct ts_evict_pool *pool, struct ts_region *region,
		      const struct ts_evict_options *options, struct ts_evict_result *result);

/* Gives the region's batches on probation back to the guest: detach.  Blocks. */
void ts_evict_pool_return(struct ts_evict_pool *pool, struct ts_region *region);

#endif
