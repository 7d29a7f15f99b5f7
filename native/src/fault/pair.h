/* SPDX-License-Identifier: Apache-2.0
 *
 * pair.h — a fault thread on each of two CPUs, for guest threads that run on either.
 *
 * A free thread has the worst of it where the scheduler has its way: the handler is woken on the
 * idle CPU, and by the time it answers, the CPU of the fault has fallen asleep as well; each takes
 * its 30 us to come back.  With a handler on either CPU, both waiting, the one beside the fault
 * answers at once.  The other is woken in vain, but not for nothing: as its CPU is awake, it does
 * not look idle to the scheduler, which would move the guest's thread there.
 *
 * All of them are woken by every fault, so this is for two CPUs; and not for faults of one thread
 * that come soon after one another: for those a handler waits awake (spin.h).
 *
 * It is as well for two threads, and no more, that fault at a time, free or pinned to a CPU each: a
 * thread that faults leaves its CPU to the handler there, and is woken on the CPU that it slept on.
 * Handlers that run anywhere, or poll, take the other guest thread's CPU, and wake across CPUs.
 */
#ifndef TS_FAULT_PAIR_H
#define TS_FAULT_PAIR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/base.h"

enum { TS_PAIR_CPUS = 2 };

/* Of a server. */
struct ts_pair {
	bool is_possible;
	int cpus[TS_PAIR_CPUS];  /* of the threads 0 and 1 */
	atomic_bool is_on;
	/* Whose fault each of the two served last, as tid and CPU (who_of()); 0: nobody's, since
	 * the other looked. */
	_Atomic uint64_t who[TS_PAIR_CPUS];
};

/* Of a thread. */
struct ts_pair_votes {
	unsigned nr_faults, nr_in_favour, nr_two, nr_others;
	uint64_t who;            /* whose the fault before was */
	uint64_t known[TS_PAIR_CPUS];  /* the last two; whose else counts as others */
};

struct ts_pair_fault {
	unsigned index;          /* of the fault thread: 0 or 1 */
	uint32_t tid;
	int cpu;                 /* the only one of the fault's thread, or -1 */
	bool is_free;            /* its thread may run on several CPUs */
	bool has_read;           /* from a disk */
	ts_mono_ns gap_ns;       /* since there was one before, at least */
};

/* Before the threads start, on one that may run where they may. */
void ts_pair_init(struct ts_pair *pair, unsigned nr_threads);
/* One of a pair's threads, or the only one that waits, has served a fault.  Turns the pair on or
 * off; returns whether it did. */
bool ts_pair_note(struct ts_pair *pair, struct ts_pair_votes *votes,
		  const struct ts_pair_fault *fault);

static inline bool ts_pair_is_on(struct ts_pair *pair)
{
	return atomic_load_explicit(&pair->is_on, memory_order_relaxed);
}

#endif
