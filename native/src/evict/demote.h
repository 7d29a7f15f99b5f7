/* SPDX-License-Identifier: Apache-2.0
 *
 * demote.h — frames down the ladder: read from one tier, encoded anew for a lower one, published
 * there.
 *
 * Run by the keeper thread alone.  A new frame is made (its range may be larger, so that several
 * old frames go into one); page words swing from the old to the new one by one; an old frame dies
 * when its last page has left it.
 */
#ifndef TS_EVICT_DEMOTE_H
#define TS_EVICT_DEMOTE_H

#include "core/fetch.h"

struct ts_merge;

enum { TS_DEMOTE_BATCH = 64 };  /* new frames in one put */

struct ts_demoter {
	struct ts_engine *engine;
	struct ts_fetch fetch;
	struct ts_encoder *encoder;
	uint8_t *raw;      /* pages of a new frame */
	uint8_t *out;      /* encoded frames of one put */
	size_t out_used;
	unsigned from, to; /* tiers of the batch */
	unsigned nr_items;
	struct ts_put items[TS_DEMOTE_BATCH];
	struct ts_merge *merges;     /* [TS_DEMOTE_BATCH] */
	uint32_t hand[TS_TIER_MAX];  /* where the sweep of each tier's frames goes on */
};

int ts_demoter_init(struct ts_demoter *demoter, struct ts_engine *engine);
void ts_demoter_finish(struct ts_demoter *demoter);

/* Which frames of a tier: those of the regions whose slots' bits are set, and those of nobody. */
struct ts_demote_choice {
	unsigned tier;
	uint64_t owners;
};

/* Moves up to nr_max of these frames that are at least age_min_ticks old to a lower tier.
 * Returns how many pages went. */
uint64_t ts_demote_frames(struct ts_demoter *demoter, const struct ts_demote_choice *choice,
			  unsigned age_min_ticks, unsigned nr_max);
/* The age that at least nr_frames of them have: "the oldest". */
unsigned ts_demote_oldest(struct ts_engine *engine, const struct ts_demote_choice *choice,
			  uint64_t nr_frames);
/* Forgets up to nr_max kept copies of resident pages in the tier: they only take room there. */
uint64_t ts_demote_drop_kept(struct ts_demoter *demoter, unsigned tier, uint64_t nr_max);

#endif
