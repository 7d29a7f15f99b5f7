/* SPDX-License-Identifier: Apache-2.0
 * touched.h — collects the runs of a scan in a bitmap. */
#ifndef TS_TRACK_TOUCHED_H
#define TS_TRACK_TOUCHED_H

#include <stdint.h>

struct ts_touched {
	uint64_t addr;     /* of bit 0 */
	uint64_t *bitmap;
};

/* A ts_scan_fn; `user` is a struct ts_touched. */
static inline void ts_touched_note(void *user, uint64_t addr, uint64_t len_bytes)
{
	struct ts_touched *touched = user;
	uint64_t bit = (addr - touched->addr) >> 12, end = bit + (len_bytes >> 12);

	if (end == bit + 1) {
		touched->bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
		return;
	}
	while (bit < end && bit % 64) {
		touched->bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
		bit++;
	}
	for (; bit + 64 <= end; bit += 64)
		touched->bitmap[bit / 64] = ~UINT64_C(0);
	for (; bit < end; bit++)
		touched->bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
}

#endif
