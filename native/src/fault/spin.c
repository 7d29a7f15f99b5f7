/* SPDX-License-Identifier: Apache-2.0
 * spin.c — a short look around before a fault thread sleeps (spin.h). */
#include "fault/spin.h"

#include <sched.h>

#include "util/base.h"

enum {
	READ_SPIN_US = 120,
	READS_MAX = 2,         /* more under way: the next one is never far, and CPUs are busy */
	SKIP_LOG2_MAX = 10,
};

void ts_spin_init(struct ts_spin *spin)
{
	cpu_set_t ours;

	*spin = (struct ts_spin){ .has_cpus = !sched_getaffinity(0, sizeof(ours), &ours) &&
						CPU_COUNT(&ours) > 1 };
}

static bool is_worth_it(struct ts_spin *spin, unsigned nr_reads)
{
	if (!spin->has_cpus || !nr_reads || nr_reads > READS_MAX)
		return false;
	return !spin->nr_skips || (spin->nr_skips--, false);
}

static void note(struct ts_spin *spin, bool is_hit)
{
	spin->nr_misses = is_hit ? 0 : spin->nr_misses + 1;
	spin->nr_skips = is_hit ? 0 : 1u << TS_MIN(spin->nr_misses, (uint32_t)SKIP_LOG2_MAX);
}

int ts_spin_poll(struct ts_spin *spin, struct pollfd *polls, nfds_t nr_polls, uint32_t spin_us,
		 unsigned nr_reads)
{
	bool is_for_reads = is_worth_it(spin, nr_reads);
	ts_mono_ns start_ns = is_for_reads || spin_us ? ts_now_ns() : 0;
	int nr_events = 0;

	if (is_for_reads)
		spin_us = TS_MAX(spin_us, (uint32_t)READ_SPIN_US);
	while (spin_us && !nr_events && ts_now_ns() - start_ns < (ts_mono_ns)spin_us * 1000)
		nr_events = poll(polls, nr_polls, 0);
	if (is_for_reads)
		note(spin, nr_events > 0);
	return nr_events ? nr_events : poll(polls, nr_polls, -1);
}
