/* SPDX-License-Identifier: Apache-2.0
 *
 * walk.h — does the guest walk through its memory?  Then its next pages come before it asks.
 *
 * A walk is seen by its faults: each lies in, or next to, one of the last few 64 KiB ranges that
 * were asked for or brought along.  Who answers such a fault restores the whole frame
 * (fault/rest.c).  Two may be neighbours by chance; from the third on a fault thread that has
 * nothing to do is asked to bring back the next frame meanwhile, for its wake-up is dear.  If it is
 * not up when the page has been installed, who asked takes that back and goes on by itself.  At
 * most TS_WALK_AHEAD_PAGES, or one frame, are brought back in vain when the walk ends there.
 *
 * A lone fault gets its page alone, unless most of those before it were the beginning of a walk:
 * then it gets its frame, and, if those walks went on, the next one is fetched: by another thread,
 * as above; or before the page itself, where the guest will run on this CPU as soon as it is woken
 * and decoding takes less than waking somebody else.  Whether they were is seen by what the guest
 * asked for next, and goes on being seen by one fault in sixteen, which gets its page alone: what
 * is there raises no fault.
 */
#ifndef TS_FAULT_WALK_H
#define TS_FAULT_WALK_H

#include "fault/serve.h"

#define TS_WALK_AHEAD_PAGES 16u

/* The restore rule, for a page that is about to be read: is its whole frame to come back?
 * Neighbours are worth having when the guest walks; a lone fault gets its page alone.  Has what
 * comes after the frame's range fetched.  Async-signal-safe. */
void ts_walk_note(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot);

/* The page has been installed.  If the thread that was asked to fetch ahead (ctx->asked) is not up
 * yet, takes that back and does it: the guest is only just waking up, too. */
void ts_walk_go_on(struct ts_serve_ctx *ctx);

/* Where fault threads are asked to fetch ahead. */
struct ts_ahead {
	unsigned nr_threads;
	struct ts_ahead_place {
		atomic_bool is_idle;      /* the thread waits for something to do */
		/* The region's id, above the first page; 0: nothing. */
		_Atomic uint64_t wanted;
		int kick_fd;
	} places[TS_FAULT_THREAD_MAX];
};

/* Does what was asked of this place. */
void ts_ahead_serve(struct ts_ahead_place *place, struct ts_serve_ctx *ctx);

#endif
