/* SPDX-License-Identifier: Apache-2.0
 * place.c — how many fault threads there are, how many of them wait, and on which CPUs
 * (place.h). */
#include "fault/place.h"

#include <errno.h>
#include <sched.h>

#include "util/hook.h"
#include "util/limits.h"
#include "util/thread.h"

enum {
	/* More than this on one userfaultfd only wake each other up. */
	AUTO_THREADS_MAX = 4,
	/* A message that was there less than this after the last round's end was waiting for us. */
	BUSY_GAP_NS = 900,
	/* So many in a row, and one thread is not enough. */
	BUSY_ROUNDS = 32,
	/* Woken so often in a row for messages that another thread had taken: one thread too
	 * many. */
	VAIN_ROUNDS = 16,
	/* A message that is found sooner than this after the last round's end was found without
	 * sleep; after two in a row the next is looked for without poll(2). */
	PROMPT_GAP_NS = 1500,
	PROMPT_MIN = 2,
	/* Reads of a shard without a look at anything else. */
	AT_ONCE_MAX = 16,
	/* So many single messages of one thread in a row, and no second is looked for. */
	SINGLE_MIN = 8,
};

unsigned ts_place_threads(const struct ts_engine_options *options, int *cpus)
{
	unsigned nr_cpus = 0, nr_threads = options->nr_fault_threads;
	cpu_set_t ours;

	for (int cpu = 0; cpu < 64 && options->placement == TS_PLACEMENT_FIXED; cpu++)
		if (options->fault_cpus >> cpu & 1 && nr_cpus < TS_FAULT_THREAD_MAX)
			cpus[nr_cpus++] = cpu;
	if (!nr_threads && nr_cpus)
		nr_threads = nr_cpus;
	if (!nr_threads && !sched_getaffinity(0, sizeof(ours), &ours))
		nr_threads = TS_MIN((unsigned)CPU_COUNT(&ours), (unsigned)AUTO_THREADS_MAX);
	nr_threads = TS_MAX(nr_threads, 1);
	nr_threads = TS_MIN(nr_threads, (unsigned)TS_FAULT_THREAD_MAX);
	for (unsigned i = nr_cpus; i < nr_threads; i++)
		cpus[i] = nr_cpus ? cpus[i % nr_cpus] : -1;
	return nr_threads;
}

static unsigned nr_waiting_min(void)
{
	return (unsigned)TS_KNOB(TS_KNOB_FAULT_THREADS, 1);
}

void ts_crew_init(struct ts_crew *crew, unsigned nr_threads)
{
	crew->nr_threads = 0;
	atomic_store(&crew->nr_active, TS_MIN(nr_threads, nr_waiting_min()));
	ts_pair_init(&crew->pair, nr_threads);
}

void ts_place_begin(struct ts_place *place)
{
	ts_follow_init(&place->follow, place->cpu < 0);
	if (place->cpu >= 0)
		ts_thread_pin(place->cpu);
}

static void note_prompt(struct ts_place *place, const struct ts_place_read *read, uint64_t gap_ns)
{
	bool is_single = read->nr_faults == 1 && read->tid && read->tid == place->last_tid;

	place->nr_single = is_single ? TS_MIN(place->nr_single + 1, (unsigned)SINGLE_MIN) : 0;
	place->nr_at_once = read->is_at_once ? place->nr_at_once + 1 : 0;
	if (read->nr_faults <= 0)
		place->nr_prompt = 0;
	else if (!read->is_at_once)
		place->nr_prompt = gap_ns < PROMPT_GAP_NS ?
				   TS_MIN(place->nr_prompt + 1, (unsigned)PROMPT_MIN) : 0;
}

unsigned ts_place_read_max(const struct ts_crew *crew, const struct ts_place *place, bool has_read)
{
	bool is_one_of_several =
		(place->is_paired || place->cpu >= 0) && !has_read &&
		atomic_load_explicit(&crew->nr_active, memory_order_relaxed) > 1;

	return is_one_of_several || place->nr_single >= SINGLE_MIN ? 1 : TS_FAULT_BATCH_MAX;
}

bool ts_place_is_beside(const struct ts_place *place)
{
	return place->nr_prompt >= PROMPT_MIN;
}

/* Not where several threads fault or several wait: the message wakes those who wait, and they shall
 * not come in vain. */
bool ts_place_may_read_on(const struct ts_crew *crew, const struct ts_place *place)
{
	return ts_place_is_beside(place) && place->nr_single >= SINGLE_MIN &&
	       place->nr_at_once < AT_ONCE_MAX &&
	       atomic_load_explicit(&crew->nr_active, memory_order_relaxed) == 1;
}

/* Has a message waited for us while we were busy?  What the thread sends that we have just woken
 * has not; and what was read at once would always seem to have. */
static void note_busy(struct ts_place *place, const struct ts_place_read *read, uint64_t gap_ns)
{
	bool is_same = read->tid && read->tid == place->last_tid;

	if (read->nr_faults <= 0 || (read->nr_faults == 1 && read->is_at_once))
		return;
	if (read->nr_faults == 1 && gap_ns >= BUSY_GAP_NS)
		place->nr_busy_rounds = 0;
	else if (read->nr_faults > 1 || !is_same)
		place->nr_busy_rounds++;
}

int ts_place_adapt(struct ts_crew *crew, struct ts_place *place, const struct ts_place_read *read)
{
	unsigned nr_active = atomic_load_explicit(&crew->nr_active, memory_order_relaxed);
	uint64_t gap_ns = read->is_at_once ? 0 : read->start_ns - place->round_end_ns;

	place->gap_ns = gap_ns;
	note_prompt(place, read, gap_ns);
	if (place->is_paired)
		return -1;
	note_busy(place, read, gap_ns);
	if (!read->is_at_once)
		place->nr_vain_rounds = read->nr_faults == -EAGAIN ? place->nr_vain_rounds + 1 : 0;
	if (place->nr_busy_rounds >= BUSY_ROUNDS && nr_active < crew->nr_threads) {
		place->nr_busy_rounds = 0;
		if (atomic_compare_exchange_strong(&crew->nr_active, &nr_active, nr_active + 1))
			return (int)nr_active;
	} else if (place->nr_vain_rounds >= VAIN_ROUNDS && place->index == nr_active - 1 &&
		   nr_active > nr_waiting_min()) {
		place->nr_vain_rounds = 0;
		atomic_compare_exchange_strong(&crew->nr_active, &nr_active, nr_active - 1);
	}
	return -1;
}

int ts_place_note(struct ts_crew *crew, struct ts_place *place, uint32_t tid, bool has_read)
{
	unsigned nr_active = atomic_load_explicit(&crew->nr_active, memory_order_relaxed);

	place->last_tid = tid;
	if (place->index < TS_PAIR_CPUS && (place->is_paired || nr_active <= TS_PAIR_CPUS)) {
		struct ts_pair_fault fault = { .index = place->index, .tid = tid,
					       .has_read = has_read, .gap_ns = place->gap_ns };
		fault.cpu = ts_follow_cpu_of(&place->follow, tid, &fault.is_free);
		if (ts_pair_note(&crew->pair, &place->votes, &fault)) {
			bool is_on = ts_pair_is_on(&crew->pair);
			atomic_store(&crew->nr_active, is_on ? TS_PAIR_CPUS : nr_waiting_min());
			return TS_PAIR_CPUS - 1;
		}
	}
	if (place->is_paired)
		return -1;
	/* Several that wait are all woken by every fault, wherever it is. */
	if (nr_active > 1)
		ts_follow_stop(&place->follow);
	else
		ts_follow_note(&place->follow, tid);
	return -1;
}

bool ts_place_waits(struct ts_crew *crew, struct ts_place *place)
{
	bool is_paired = place->index < TS_PAIR_CPUS && ts_pair_is_on(&crew->pair);

	if (TS_UNLIKELY(is_paired != place->is_paired)) {
		ts_follow_stop(&place->follow);
		if (is_paired)
			ts_follow_go(&place->follow, crew->pair.cpus[place->index]);
		place->is_paired = is_paired;
	}
	return place->index < atomic_load_explicit(&crew->nr_active, memory_order_relaxed);
}

bool ts_place_may_spin(const struct ts_place *place)
{
	return place->cpu < 0 && place->follow.cpu < 0;
}
