/* SPDX-License-Identifier: Apache-2.0
 * minor.h — faults on pages that are in the page cache and not in the page table (MODE_MINOR). */
#ifndef TS_FAULT_MINOR_H
#define TS_FAULT_MINOR_H

#include "fault/serve.h"

/* Is such a fault to be answered by mapping the page?  If not, the word says what else: AWAY means
 * that the message is old, or that somebody else wrote to the memfd; both are found out by serving
 * it as a missing page. */
static inline bool ts_minor_is_due(ts_word word)
{
	switch (ts_word_state(word)) {
	case TS_RESIDENT:
	case TS_LEAVING:
		return true;
	case TS_ZERO:
		return !(word & TS_WORD_RELEASING);
	case TS_AWAY:
	case TS_COMING:
	case TS_GONE:
	case TS_STATE_COUNT:
		break;
	}
	return false;
}

/* COMING back to what it was, unless the guest gave the page up meanwhile. */
void ts_minor_retreat(struct ts_serve_ctx *ctx, ts_word_slot *slot, ts_word coming, ts_word before);

enum ts_serve_outcome ts_minor_serve(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				     uint32_t page, ts_mono_ns start_ns, ts_word word);

#endif
