/* SPDX-License-Identifier: Apache-2.0
 * pair.c — when two fault threads wait on a CPU each (pair.h). */
#include "fault/pair.h"

#include <sched.h>

enum {
	/* Of so many faults in a row so many must be in favour, or against. */
	WINDOW = 32,
	MAJORITY = 20,
	/* Of so many faults in a row so few make two threads: most follow one of their own. */
	TWO_BEGIN = 8,
	TWO_STAY = 4,
	/* And so many of neither of two make more than two, whose messages are better read many at
	 * a time by whoever is awake. */
	OTHERS_MAX = 8,
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

/* A thread and the CPU that it is pinned to; 0: not known, or one that makes no room for a handler
 * beside it (follow.c). */
static uint64_t who_of(const struct ts_pair_fault *fault)
{
	if (!fault->tid || (!fault->is_free && fault->cpu < 0))
		return 0;
	return (uint64_t)(uint32_t)(fault->cpu + 1) << 32 | fault->tid;
}

/* Different threads that can run at a time. */
static bool are_two(uint64_t one, uint64_t other)
{
	uint64_t cpu = one >> 32;

	return one && other && one != other && !(cpu && cpu == other >> 32);
}

static void note_others(struct ts_pair_votes *votes, uint64_t who)
{
	for (unsigned i = 0; i < TS_PAIR_CPUS; i++)
		if (votes->known[i] == who)
			return;
	votes->known[votes->nr_others++ % TS_PAIR_CPUS] = who;
}

/* Do two threads fault at a time?  In a pair mostly each one's own handler serves it, so what the
 * other handler had last counts as much as what was here before. */
static bool note_who(struct ts_pair *pair, struct ts_pair_votes *votes,
		     const struct ts_pair_fault *fault)
{
	uint64_t who = who_of(fault), before = votes->who;
	_Atomic uint64_t *mine = &pair->who[fault->index];
	uint64_t others = atomic_load_explicit(&pair->who[!fault->index], memory_order_relaxed);

	votes->who = who;
	note_others(votes, who);
	/* Written seldom, for the other one reads it at every fault. */
	if (atomic_load_explicit(mine, memory_order_relaxed) != who)
		atomic_store_explicit(mine, who, memory_order_relaxed);
	return !fault->has_read && (are_two(who, before) || are_two(who, others));
}

bool ts_pair_note(struct ts_pair *pair, struct ts_pair_votes *votes,
		  const struct ts_pair_fault *fault)
{
	bool is_on = ts_pair_is_on(pair);
	/* A disk's answer takes long enough for CPUs to fall asleep; where several threads fault,
	 * they have work meanwhile. */
	bool is_long = fault->has_read && fault->tid == (uint32_t)votes->who;

	if (!pair->is_possible)
		return false;
	votes->nr_two += note_who(pair, votes, fault);
	votes->nr_in_favour += fault->is_free && (is_long || fault->gap_ns > LATE_NS);
	if (++votes->nr_faults < WINDOW)
		return false;
	bool are_many = votes->nr_others > OTHERS_MAX;
	bool is_wanted = is_on ? votes->nr_in_favour > WINDOW - MAJORITY ||
				 (votes->nr_two >= TWO_STAY && !are_many) :
				 votes->nr_in_favour >= MAJORITY ||
				 (votes->nr_two >= TWO_BEGIN && !are_many);
	votes->nr_faults = votes->nr_in_favour = votes->nr_two = votes->nr_others = 0;
	/* Until it serves another, nobody faults there. */
	atomic_store_explicit(&pair->who[!fault->index], 0, memory_order_relaxed);
	if (is_wanted == is_on)
		return false;
	/* The other thread of the pair may have been of the same opinion. */
	return atomic_compare_exchange_strong(&pair->is_on, &is_on, is_wanted);
}
