/* SPDX-License-Identifier: Apache-2.0
 * spin.c — a short look around before a fault thread sleeps (spin.h). */
#include "fault/spin.h"

#include <sched.h>

enum {
	READ_SPIN_US = 120,
	READS_MAX = 2,         /* more under way: the next one is never far, and CPUs are busy */
	SKIP_LOG2_MAX = 10,
	FAULT_SPIN_US = 50,    /* about what a wake-up takes */
	/* How long a fault that came soon takes when the thread slept: itself, and the wake-up. */
	SLEPT_SOON_US = 2 * FAULT_SPIN_US,
	SOON_MIN = 2,          /* in favour, before a look around for faults */
	SOON_MAX = 4,
};

void ts_spin_init(struct ts_spin *spin)
{
	cpu_set_t ours;

	*spin = (struct ts_spin){ .has_cpus = !sched_getaffinity(0, sizeof(ours), &ours) &&
						CPU_COUNT(&ours) > 1 };
}

static bool is_worth_it_for_reads(struct ts_spin *spin, unsigned nr_reads)
{
	if (!spin->has_cpus || !nr_reads || nr_reads > READS_MAX)
		return false;
	return !spin->nr_skips || (spin->nr_skips--, false);
}

static void note_read(struct ts_spin *spin, bool is_hit)
{
	spin->nr_misses = is_hit ? 0 : spin->nr_misses + 1;
	spin->nr_skips = is_hit ? 0 : 1u << TS_MIN(spin->nr_misses, (uint32_t)SKIP_LOG2_MAX);
}

static void note_fault(struct ts_spin *spin, bool has_spun, ts_mono_ns waited_ns)
{
	if (waited_ns <= (ts_mono_ns)(has_spun ? FAULT_SPIN_US : SLEPT_SOON_US) * 1000)
		spin->nr_soon = TS_MIN(spin->nr_soon + 1, (uint32_t)SOON_MAX);
	else
		spin->nr_soon -= TS_MIN(spin->nr_soon, (uint32_t)SOON_MIN);
}

int ts_spin_poll(struct ts_spin *spin, const struct ts_spin_wait *wait)
{
	bool is_for_reads = is_worth_it_for_reads(spin, wait->nr_reads);
	bool is_for_faults = wait->is_for_faults && spin->has_cpus && !wait->nr_reads;
	uint32_t spin_us = wait->spin_us;
	int nr_events = 0;

	if (is_for_reads)
		spin_us = TS_MAX(spin_us, (uint32_t)READ_SPIN_US);
	else if (is_for_faults && spin->nr_soon >= SOON_MIN)
		spin_us = TS_MAX(spin_us, (uint32_t)FAULT_SPIN_US);
	while (spin_us && !nr_events && ts_now_ns() - wait->start_ns < (ts_mono_ns)spin_us * 1000)
		nr_events = poll(wait->polls, wait->nr_polls, 0);
	if (is_for_reads)
		note_read(spin, nr_events > 0);
	if (!nr_events)
		nr_events = poll(wait->polls, wait->nr_polls, -1);
	if (is_for_faults)
		note_fault(spin, spin_us > 0, ts_now_ns() - wait->start_ns);
	return nr_events;
}
