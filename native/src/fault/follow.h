/* SPDX-License-Identifier: Apache-2.0
 *
 * follow.h — a fault thread goes to the CPU that the faults come from.
 *
 * A thread that faults goes to sleep, and leaves its CPU to whoever is woken there.  A handler that
 * sleeps there answers four times sooner than one on an idle CPU beside it, which has to be woken
 * first, and takes no CPU from anybody, since the guest can't run meanwhile
 * (native/tests/kernel/bench_handlers.c).  The scheduler does not see that: it prefers idle CPUs.
 * So a handler pins itself, but only where the faulting thread is pinned as well, as vCPUs often
 * are: a free one would be moved to an idle CPU when the handler wakes it, and nothing be gained.
 *
 * The faults' threads come with the messages (UFFD_FEATURE_THREAD_ID).  Where they don't, as from
 * another process's descriptor, nothing is followed; enough of those in a row free a handler that
 * had followed others.
 */
#ifndef TS_FAULT_FOLLOW_H
#define TS_FAULT_FOLLOW_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

enum { TS_FOLLOW_KNOWN = 16 };

struct ts_follow {
	bool is_on;
	int cpu;                 /* pinned to it; -1: free */
	cpu_set_t home;          /* where it may run when it is free */
	/* The only CPU of a thread, or -1; whether it may run on several; asked for again now and
	 * then. */
	struct {
		uint32_t tid;
		int cpu;
		bool is_free;
		unsigned nr_uses;
	} known[TS_FOLLOW_KNOWN];
	/* Of the last faults, how many came from a CPU. */
	int candidate;
	unsigned nr_faults, nr_votes;
};

/* Of the calling thread, as all of these.  is_on: may be pinned. */
void ts_follow_init(struct ts_follow *follow, bool is_on);
/* A fault has been served, of a thread of this process, or (0) of who knows whom.  A system call or
 * two, now and then. */
void ts_follow_note(struct ts_follow *follow, uint32_t tid);
/* Free again. */
void ts_follow_stop(struct ts_follow *follow);
/* To a CPU, whatever the faults say; -1: free. */
void ts_follow_go(struct ts_follow *follow, int cpu);
/* The only CPU of a thread, or -1; whether it may run on several; as far as known. */
int ts_follow_cpu_of(struct ts_follow *follow, uint32_t tid, bool *is_free_out);

#endif
