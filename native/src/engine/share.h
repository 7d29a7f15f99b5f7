/* SPDX-License-Identifier: Apache-2.0
 *
 * share.h — regions' parts of the tiers: whose frames go down the ladder first, and copies that a
 * region gives back.
 *
 * Regions with a weight (ts_adopt_options.share_weight) have fair shares of a tier: a region that
 * wants less than its part leaves the rest to those who want more, by their weights (max-min
 * fairness).  What a region holds is known by frame (page/frames.h:ts_frames_note_owner).
 */
#ifndef TS_ENGINE_SHARE_H
#define TS_ENGINE_SHARE_H

#include "core/engine.h"

#define TS_SHARE_ALL UINT64_MAX

struct ts_share_part {
	uint64_t held_bytes;
	uint32_t weight;       /* not 0 */
	bool is_over;          /* out: holds more than its share */
};

/* Which of them hold more than their share, if all of it is to fit total_bytes. */
void ts_share_judge(struct ts_share_part *parts, unsigned nr_parts, uint64_t total_bytes);

/* A bit for the slot of each region whose frames may go down so that total_bytes of this tier stay
 * used: those above their shares, and those without a weight; all, if nobody is above. */
uint64_t ts_share_over(struct ts_engine *engine, const struct ts_tier *tier, uint64_t total_bytes);

/* Frames that an earlier process has stored for the region, which nobody else looks at yet, are
 * its own: each as long as the tier's mean. */
void ts_share_note_resumed(struct ts_engine *engine, struct ts_region *region);

#endif
