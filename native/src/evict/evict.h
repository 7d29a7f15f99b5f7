/* SPDX-License-Identifier: Apache-2.0
 *
 * evict.h — a cold page's way out: claim, take, encode, put, publish, release.
 *
 * One thread carries a batch from take to release; each evict thread has an evictor with encoder
 * and buffers.  A batch of memory that can wait outside the guest (anonymous) may be parked between
 * take and encode: the probation of a tracker that sees writes only.
 */
#ifndef TS_EVICT_EVICT_H
#define TS_EVICT_EVICT_H

#include "core/engine.h"

struct ts_evictor {
	struct ts_engine *engine;
	struct ts_stages *stages;
	struct ts_encoder *encoder;
	unsigned index;      /* of the evict thread */
	uint8_t *data;       /* a chunk's contents, for memory that is read and not moved */
	uint8_t *gather;     /* pages of one frame, made contiguous */
	uint8_t *out;        /* encoded frames of one put */
	size_t data_bytes, gather_bytes, out_bytes;
};

/* What an eviction did, added to by several threads. */
struct ts_evict_tally {
	_Atomic uint64_t nr_claimed, nr_evicted, nr_filled, nr_reused, nr_probation, nr_cancelled,
		nr_failed;
};

int ts_evictor_init(struct ts_evictor *evictor, struct ts_engine *engine, unsigned index);
void ts_evictor_finish(struct ts_evictor *evictor);

/* Opens a batch over the chunk and claims up to pages_max pages that are at least age_min scans
 * old. NULL: nothing to claim, no staging segment free, no memory; *is_blocked says that it was not
 * for lack of pages.  The caller has entered the region; the batch enters it on its own. */
struct ts_batch *ts_batch_claim(struct ts_evictor *evictor, struct ts_region *region,
				uint32_t first_page, unsigned age_min, uint32_t pages_max,
				bool *is_blocked);
/* Takes the pages out of the guest (or guards them). */
void ts_batch_take(struct ts_evictor *evictor, struct ts_batch *batch);
/* Encode, put, publish, release; what can't be stored goes back.  Ends the batch. */
void ts_batch_store(struct ts_evictor *evictor, struct ts_batch *batch,
		    struct ts_evict_tally *tally);
/* Gives everything back.  Ends the batch.  Any thread. */
void ts_batch_abort(struct ts_batch *batch);

/* ---- put.c ------------------------------------------------------------------------------ */

/* Encodes the batch's owned pages for one tier after the other and publishes what was stored; what
 * is left in batch->owned found no room. */
void ts_evict_put(struct ts_evictor *evictor, struct ts_batch *batch, struct ts_evict_tally *tally);
/* LEAVING -> AWAY in this frame, which the caller holds a reference to.  False: cancelled. */
bool ts_evict_publish(struct ts_engine *engine, struct ts_batch *batch, unsigned i, uint32_t frame);

#endif
