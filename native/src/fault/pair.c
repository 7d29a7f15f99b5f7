/* SPDX-License-Identifier: Apache-2.0
 * pair.c — when two fault threads wait on a CPU each (pair.h). */
#include "fault/pair.h"

#include <sched.h>

enum {
	/* Of so many faults in a row so many must be in favour, or against. */
	WINDOW = 32,
	MAJORITY = 20,
	/* What comes sooner than this after the fault before is better waited for awake: as long as
	 * spin.c believes in it. */
	LATE_NS = 100000,
};

void ts_pair_init(struct ts_pair *pair, unsigned nr_threads)
{
	unsigned nr_cpus = 0;
	cpu_set_t ours;

	*pair = (struct ts_pair){ .cpus = { -1, -1 } };
	if (nr_threads < TS_PAIR_CPUS || sched_getaffinity(0, sizeof(ours), &ours) ||
	    CPU_COUNT(&ours) != TS_PAIR_CPUS)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE && nr_cpus < TS_PAIR_CPUS; cpu++)
		if (CPU_ISSET((size_t)cpu, &ours))
			pair->cpus[nr_cpus++] = cpu;
	pair->is_possible = true;
}

bool ts_pair_note(struct ts_pair *pair, struct ts_pair_votes *votes,
		  const struct ts_pair_fault *fault)
{
	bool is_on = ts_pair_is_on(pair);
	/* A disk's answer takes long enough for CPUs to fall asleep; where several threads fault,
	 * they have work meanwhile. */
	bool is_long = fault->has_read && fault->tid == votes->tid;

	if (!pair->is_possible)
		return false;
	votes->tid = fault->tid;
	votes->nr_in_favour += fault->is_free && (is_long || fault->gap_ns > LATE_NS);
	if (++votes->nr_faults < WINDOW)
		return false;
	unsigned nr_in_favour = votes->nr_in_favour;
	votes->nr_faults = votes->nr_in_favour = 0;
	bool is_wanted = is_on ? nr_in_favour > WINDOW - MAJORITY : nr_in_favour >= MAJORITY;
	if (is_wanted == is_on)
		return false;
	/* The other thread of the pair may have been of the same opinion. */
	return atomic_compare_exchange_strong(&pair->is_on, &is_on, is_wanted);
}
