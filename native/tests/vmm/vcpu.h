/* SPDX-License-Identifier: Apache-2.0
 *
 * vcpu.h — threads that touch the double's RAM as a guest's vCPUs do: most of the time a hot part
 * of it, at a rate, some of it writes; every touch is checked and timed.
 */
#ifndef TS_TESTS_VMM_VCPU_H
#define TS_TESTS_VMM_VCPU_H

#include "ram.h"

enum { VCPU_MAX = 16 };

struct vcpu_options {
	unsigned nr_vcpus;
	unsigned touches_per_s;  /* of each vCPU; 0: as fast as they can */
	unsigned hot_pct;        /* so much of the pages gets nine of ten touches */
	unsigned write_pct;
};

struct vcpu_stats {
	uint64_t nr_reads, nr_writes;
	uint64_t nr_waits;       /* touches that took longer than 10 us */
	uint64_t wait_ns_max;
	unsigned nr_blocked;     /* touches that are under way since more than 10 ms */
	uint64_t blocked_ns_max;
};

/* They start paused. */
void vcpu_start(struct ram *ram, const struct vcpu_options *options);
void vcpu_run(void);
/* Returns when every vCPU has come to rest, which a blocked one does not. */
void vcpu_pause(void);
struct vcpu_stats vcpu_stats_get(void);

#endif
