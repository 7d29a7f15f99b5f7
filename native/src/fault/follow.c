/* SPDX-License-Identifier: Apache-2.0
 * follow.c — a fault thread goes to the CPU that the faults come from (follow.h). */
#include "fault/follow.h"

#include <pthread.h>

#include "util/thread.h"

enum {
	NOWHERE = -1,
	/* Of so many faults in a row so many must come from one CPU. */
	WINDOW = 32,
	MAJORITY = 24,
	/* An answer about a thread is believed for so many of its faults. */
	TRUSTED_USES = 1024,
};

void ts_follow_init(struct ts_follow *follow, bool is_on)
{
	*follow = (struct ts_follow){ .cpu = NOWHERE, .candidate = NOWHERE };
	follow->is_on = is_on && !sched_getaffinity(0, sizeof(follow->home), &follow->home) &&
			CPU_COUNT(&follow->home) > 1;
}

/* Real-time threads don't make room for a handler when it is woken. */
static bool is_preemptible(uint32_t tid)
{
	int policy = sched_getscheduler((pid_t)tid) & ~SCHED_RESET_ON_FORK;

	return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE;
}

/* The CPU that a thread is pinned to.  A machine with more CPUs than a cpu_set_t holds has no
 * answer. */
static int only_cpu_of(uint32_t tid, bool *is_free_out)
{
	cpu_set_t set;

	*is_free_out = false;
	if (sched_getaffinity((pid_t)tid, sizeof(set), &set))
		return NOWHERE;
	*is_free_out = CPU_COUNT(&set) > 1;
	if (CPU_COUNT(&set) != 1 || !is_preemptible(tid))
		return NOWHERE;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, &set))
			return cpu;
	return NOWHERE;
}

static int look_up(struct ts_follow *follow, uint32_t tid)
{
	unsigned at = tid % TS_FOLLOW_KNOWN;

	if (follow->known[at].tid != tid || follow->known[at].nr_uses++ == TRUSTED_USES) {
		follow->known[at].tid = tid;
		follow->known[at].nr_uses = 0;
		follow->known[at].cpu = only_cpu_of(tid, &follow->known[at].is_free);
	}
	return follow->known[at].cpu;
}

int ts_follow_cpu_of(struct ts_follow *follow, uint32_t tid, bool *is_free_out)
{
	*is_free_out = false;
	if (!follow->is_on || !tid)
		return NOWHERE;
	int cpu = look_up(follow, tid);
	*is_free_out = follow->known[tid % TS_FOLLOW_KNOWN].is_free;
	return cpu;
}

void ts_follow_go(struct ts_follow *follow, int cpu)
{
	cpu_set_t set;

	if (cpu == follow->cpu)
		return;
	/* Whoever confines this thread from outside while it is free is obeyed. */
	if (follow->cpu == NOWHERE && sched_getaffinity(0, sizeof(set), &set) == 0)
		follow->home = set;
	if (cpu != NOWHERE && !CPU_ISSET((size_t)cpu, &follow->home))
		return;
	/* Fails when a CPU went away; the kernel has then put us where we can run. */
	if (cpu == NOWHERE)
		(void)pthread_setaffinity_np(pthread_self(), sizeof(follow->home), &follow->home);
	else
		ts_thread_pin(cpu);
	follow->cpu = cpu;
}

void ts_follow_note(struct ts_follow *follow, uint32_t tid)
{
	if (!follow->is_on)
		return;
	/* What comes from nobody we know is no reason to stay. */
	int cpu = tid ? look_up(follow, tid) : NOWHERE;
	follow->nr_votes += cpu == follow->candidate;
	if (++follow->nr_faults < WINDOW)
		return;
	ts_follow_go(follow, follow->nr_votes >= MAJORITY ? follow->candidate : NOWHERE);
	follow->candidate = cpu;
	follow->nr_faults = follow->nr_votes = 0;
}

void ts_follow_stop(struct ts_follow *follow)
{
	if (!follow->is_on)
		return;
	ts_follow_go(follow, NOWHERE);
	follow->nr_faults = follow->nr_votes = 0;
}
