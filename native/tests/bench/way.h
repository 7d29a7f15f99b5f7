/* SPDX-License-Identifier: Apache-2.0
 *
 * way.h — the ways out of memory and back that bench_memory compares.  leave() takes every page
 * out; touches then bring them back; report() adds figures of its own to the results. */
#ifndef TS_TESTS_WAY_H
#define TS_TESTS_WAY_H

#include "measure.h"

struct way {
	void (*open)(const struct measure_args *args, struct memory *memory);
	void (*leave)(void);           /* what "evict" measures */
	void (*settle)(void);          /* after it, untimed: whatever must be so before touches */
	void (*report)(void);          /* after leave and settle, before touches */
	void (*close)(void);
};

#endif
