/* SPDX-License-Identifier: Apache-2.0
 *
 * place.h — how many fault threads there are, how many of them wait, and on which CPUs.
 *
 * All threads that wait for a fault are woken by it and one gets it; the others were disturbed, and
 * disturb, in vain.  So only as many wait as have had work: one, to begin with; one more when
 * messages pile up while it serves; one less when the last comes too late again and again.  Where
 * they run: beside a pinned guest thread (follow.h), on either CPU (pair.h), or anywhere.
 *
 * A guest thread on the handler's CPU runs as soon as it is woken, and faults again before the
 * handler gets to wait.  Where that is so the handler looks for the next message at once, which
 * saves it a poll(2); and it is no pile: nobody had to wait for its place in a queue.
 */
#ifndef TS_FAULT_PLACE_H
#define TS_FAULT_PLACE_H

#include <stdatomic.h>

#include <tierstore/tierstore.h>

#include "fault/follow.h"
#include "fault/pair.h"
#include "util/base.h"

/* Of a server. */
struct ts_crew {
	unsigned nr_threads;
	/* The threads below this index wait for faults; the others are parked. */
	_Atomic unsigned nr_active;
	struct ts_pair pair;
};

/* Of a thread. */
struct ts_place {
	unsigned index;
	int cpu;                      /* fixed; -1: see follow */
	struct ts_follow follow;
	ts_mono_ns round_end_ns;      /* when it last began to wait */
	ts_mono_ns gap_ns;            /* what it waited for the last messages */
	unsigned nr_busy_rounds, nr_vain_rounds;
	bool is_paired;
	struct ts_pair_votes votes;
	uint32_t last_tid;            /* whose fault was served last */
	unsigned nr_prompt;           /* messages that were there as soon as it looked */
	unsigned nr_at_once;          /* reads since it last waited */
	unsigned nr_single;           /* reads in a row that gave a message of the same thread */
};

/* What reading a shard gave. */
struct ts_place_read {
	int nr_faults;                /* or -EAGAIN, which a thread gets that came too late */
	uint32_t tid;                 /* of the first fault; 0: not known */
	bool is_at_once;              /* without waiting before it */
	ts_mono_ns start_ns;          /* when it had been read */
};

/* Fills cpus[TS_FAULT_THREAD_MAX] with where the threads shall run (-1: anywhere); returns how many
 * there shall be. */
unsigned ts_place_threads(const struct ts_engine_options *options, int *cpus);
/* How many wait to begin with; nr_threads is set later, as they come. */
void ts_crew_init(struct ts_crew *crew, unsigned nr_threads);
/* On the thread itself: goes to its CPU, if it has one. */
void ts_place_begin(struct ts_place *place);
/* How many messages to ask for.  A thread that faults alone sends one, and to look for a second
 * costs as much as a clock does ten times.  And who waits on a CPU of its own leaves the message of
 * the other CPU's thread to the one that waits there; unless it has reads under way (has_read), to
 * which more are best added at once. */
unsigned ts_place_read_max(const struct ts_crew *crew, const struct ts_place *place, bool has_read);
/* After reading messages.  Returns the index of a thread to be kicked, since it shall wait, too; or
 * -1. */
int ts_place_adapt(struct ts_crew *crew, struct ts_place *place, const struct ts_place_read *read);
/* Do those who fault run on this CPU? */
bool ts_place_is_beside(const struct ts_place *place);
/* After serving faults: is the next one likely to be there, so that it is worth reading at once? */
bool ts_place_may_read_on(const struct ts_crew *crew, const struct ts_place *place);
/* After serving a fault of a thread (0: not known), or beginning a read for it: where the next one
 * is best waited for.  Returns as above. */
int ts_place_note(struct ts_crew *crew, struct ts_place *place, uint32_t tid, bool has_read);
/* Before waiting: whether this thread waits for faults.  Goes where it should. */
bool ts_place_waits(struct ts_crew *crew, struct ts_place *place);
/* Whether polling, in place of sleep, is of use: not on the CPU of the faults, where the guest
 * would wait for the end of it. */
bool ts_place_may_spin(const struct ts_place *place);

#endif
