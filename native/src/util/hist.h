/* SPDX-License-Identifier: Apache-2.0
 *
 * hist.h — histograms of nanoseconds, cheap enough for the fault path.
 *
 * One thread adds to a histogram; any thread may read it at the same time (ts_hist_merge).  Each
 * number read is one that was there at some moment; count, sum and buckets may differ by the
 * samples that arrived meanwhile, so readers take the total from the buckets.
 */
#ifndef TS_UTIL_HIST_H
#define TS_UTIL_HIST_H

#include <stdint.h>

#include <tierstore/tierstore.h>

/* The bucket that `value_ns` falls in; the last one takes all that is larger (about 34 s). */
unsigned ts_hist_bucket(uint64_t value_ns);

/* The histogram's one writer.  No lock, no locked instruction: about 2 ns. */
void ts_hist_add(struct ts_hist *hist, uint64_t value_ns);

/* Adds what `src` holds now to `dst`, which nobody else writes or reads.  With a zeroed `dst` this
 * is the way to take a snapshot of a live histogram. */
void ts_hist_merge(struct ts_hist *dst, const struct ts_hist *src);

#endif
