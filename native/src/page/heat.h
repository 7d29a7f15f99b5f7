/* SPDX-License-Identifier: Apache-2.0
 *
 * heat.h — how long a page has not been touched, and how it fared: 16 bits a page.
 *
 *   bits 0..7    age: scans since the last touch, stops at 255
 *   bits 8..11   guard: scans for which the page is left alone, because it came back by a fault
 *   bits 12..15  refaults: how often it came back soon after it had left, stops at 15
 *
 * Relaxed and racy on purpose: a lost update makes a page look a scan younger or older.
 */
#ifndef TS_PAGE_HEAT_H
#define TS_PAGE_HEAT_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint16_t ts_heat;

enum { TS_HEAT_AGE_MAX = 255, TS_HEAT_GUARD_MAX = 15, TS_HEAT_REFAULTS_MAX = 15 };

static inline uint16_t ts_heat_load(ts_heat *heat)
{
	return atomic_load_explicit(heat, memory_order_relaxed);
}

static inline void ts_heat_store(ts_heat *heat, unsigned value)
{
	atomic_store_explicit(heat, (uint16_t)value, memory_order_relaxed);
}

static inline unsigned ts_heat_age(uint16_t heat) { return heat & 0xff; }
static inline unsigned ts_heat_guard(uint16_t heat) { return heat >> 8 & 0xf; }
static inline unsigned ts_heat_refaults(uint16_t heat) { return heat >> 12; }

static inline unsigned ts_heat_make(unsigned age, unsigned guard, unsigned refaults)
{
	return age | guard << 8 | refaults << 12;
}

/* One scan later. */
static inline uint16_t ts_heat_scanned(uint16_t heat, int is_touched)
{
	unsigned age = is_touched ? 0 : ts_heat_age(heat);
	unsigned guard = ts_heat_guard(heat);

	if (!is_touched && age < TS_HEAT_AGE_MAX)
		age++;
	return (uint16_t)ts_heat_make(age, guard ? guard - 1 : 0, ts_heat_refaults(heat));
}

/* The page came back by a fault. */
static inline uint16_t ts_heat_refaulted(uint16_t heat, unsigned guard_scans)
{
	unsigned refaults = ts_heat_refaults(heat);

	if (refaults < TS_HEAT_REFAULTS_MAX)
		refaults++;
	return (uint16_t)ts_heat_make(0, guard_scans, refaults);
}

#endif
