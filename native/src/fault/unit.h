/* SPDX-License-Identifier: Apache-2.0
 *
 * unit.h — the way back of pages that can only come together: a hugetlb page, 512 words.
 *
 * The first word is the lock: who swaps it into COMING may claim the others, and lets go of it
 * last.  Nobody but the evictor (memory/hugetlb.c), whoever holds the lock, the keeper (AWAY to
 * another frame) and discards, which are of whole units, changes the others.  So a unit whose first
 * word is nobody's is all RESIDENT, or all away (AWAY or ZERO), or all GONE.
 */
#ifndef TS_FAULT_UNIT_H
#define TS_FAULT_UNIT_H

#include "fault/serve.h"

/* Its buffers; false: no address space. */
bool ts_unit_init(struct ts_serve_ctx *ctx);
void ts_unit_finish(struct ts_serve_ctx *ctx);

/* As ts_serve_page(), for a region with units. */
enum ts_serve_outcome ts_unit_serve(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t page,
				    uint32_t flags, ts_mono_ns start_ns);
/* The read of a slot that belongs to a unit is complete. */
void ts_unit_got(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot);

#endif
