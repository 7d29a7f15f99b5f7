/* SPDX-License-Identifier: Apache-2.0
 *
 * mates.h — pages that a fault's read has brought along.
 *
 * A store on a disk reads whole blocks, and a block holds several small frames.  The other pages of
 * the block cost their decoding and copying, a tenth of what their own fault and read would; but a
 * guest that does not want them has less room for what it wants.  So there is a control group, one
 * in thirty-two pieces of 2 MiB, whose mates are never brought along.  In it, a fault counts how
 * many of its block's pages had to be fetched not long before and are still there: so many of its
 * mates would not have come in vain.  Where that is at least one in twelve, mates come along
 * outside of the control group, from a wider stretch of the disk, which takes little longer to
 * read; where it is one in five, from one twice as wide.
 *
 * For regions with TS_RESTORE_AUTO, stores that know their mates, and frames of one page.
 */
#ifndef TS_FAULT_MATES_H
#define TS_FAULT_MATES_H

#include "fault/serve.h"

/* Before the slot's read: how much of it there shall be. */
void ts_mates_plan(struct ts_fetch_slot *slot);
/* After the slot's own page has been installed, and before its buffer is used again. */
void ts_mates_serve(struct ts_serve_ctx *ctx, struct ts_fetch_slot *slot);

#endif
