/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pair.c — what makes two fault threads wait on a CPU each, and stop doing so
 * (fault/pair.h). */
#include "check.h"
#include "fault/pair.h"

enum { ENOUGH = 64, TID = 7, OTHER = 8, SOON_NS = 10000, SELDOM_NS = 400000 };

/* So many faults of this kind; of these threads in turn.  Whether the pair is on afterwards. */
static bool after(struct ts_pair *pair, struct ts_pair_votes *votes, struct ts_pair_fault fault,
		  uint32_t other)
{
	for (unsigned i = 0; i < ENOUGH; i++) {
		fault.tid = i % 2 ? other : TID;
		(void)ts_pair_note(pair, votes, &fault);
	}
	return ts_pair_is_on(pair);
}

static const struct ts_pair_fault
	seldom = { .is_free = true, .gap_ns = SELDOM_NS },
	soon = { .is_free = true, .gap_ns = SOON_NS },
	soon_read = { .is_free = true, .gap_ns = SOON_NS, .has_read = true },
	pinned = { .is_free = false, .gap_ns = SELDOM_NS };

static void seldom_faults_are_for_it(void)
{
	struct ts_pair pair = { .is_possible = true };
	struct ts_pair_votes votes = { 0 };

	CHECK(!after(&pair, &votes, soon, TID));
	CHECK(after(&pair, &votes, seldom, TID));
	CHECK(after(&pair, &votes, seldom, OTHER));
	CHECK(!after(&pair, &votes, soon, TID));
}

static void pinned_threads_are_against_it(void)
{
	struct ts_pair pair = { .is_possible = true };
	struct ts_pair_votes votes = { 0 };

	CHECK(!after(&pair, &votes, pinned, TID));
	CHECK(after(&pair, &votes, seldom, TID));
	CHECK(!after(&pair, &votes, pinned, TID));
}

/* Who waits for a disk leaves a CPU idle; several keep both busy. */
static void one_threads_reads_are_for_it(void)
{
	struct ts_pair pair = { .is_possible = true };
	struct ts_pair_votes votes = { 0 };

	CHECK(!after(&pair, &votes, soon_read, OTHER));
	CHECK(after(&pair, &votes, soon_read, TID));
	CHECK(!after(&pair, &votes, soon_read, OTHER));
}

static void it_is_for_two_threads(void)
{
	struct ts_pair_votes votes = { 0 };
	struct ts_pair pair;

	ts_pair_init(&pair, 1);
	CHECK(!pair.is_possible);
	CHECK(!after(&pair, &votes, seldom, TID));
}

/* Of two threads in turn, or of one of the fault threads the first's, of the other the other's. */
static bool after_two(struct ts_pair *pair, struct ts_pair_votes votes[TS_PAIR_CPUS],
		      const struct ts_pair_fault faults[TS_PAIR_CPUS], bool is_crossed)
{
	for (unsigned i = 0; i < ENOUGH * TS_PAIR_CPUS; i++) {
		struct ts_pair_fault fault = faults[i % 2];

		fault.index = is_crossed ? i / 2 % 2 : i % 2;
		(void)ts_pair_note(pair, &votes[fault.index], &fault);
	}
	return ts_pair_is_on(pair);
}

static const struct ts_pair_fault
	two_free[] = { { .tid = TID, .cpu = -1, .is_free = true, .gap_ns = SOON_NS },
		       { .tid = OTHER, .cpu = -1, .is_free = true, .gap_ns = SOON_NS } },
	two_pinned[] = { { .tid = TID, .cpu = 0, .gap_ns = SOON_NS },
			 { .tid = OTHER, .cpu = 1, .gap_ns = SOON_NS } },
	two_together[] = { { .tid = TID, .cpu = 1, .gap_ns = SOON_NS },
			   { .tid = OTHER, .cpu = 1, .gap_ns = SOON_NS } },
	two_rude[] = { { .tid = TID, .cpu = -1, .gap_ns = SOON_NS },
		       { .tid = OTHER, .cpu = -1, .gap_ns = SOON_NS } };

static void two_that_fault_at_a_time_are_for_it(void)
{
	for (unsigned is_crossed = 0; is_crossed < 2; is_crossed++) {
		struct ts_pair pair = { .is_possible = true };
		struct ts_pair_votes votes[TS_PAIR_CPUS] = { 0 };

		CHECK(after_two(&pair, votes, two_free, is_crossed));
		CHECK(after_two(&pair, votes, two_pinned, is_crossed));
		CHECK(!after_two(&pair, votes, two_together, is_crossed));
		CHECK(after_two(&pair, votes, two_pinned, is_crossed));
		CHECK(!after_two(&pair, votes, two_rude, is_crossed));
	}
}

static void more_than_two_are_against_it(void)
{
	struct ts_pair pair = { .is_possible = true };
	struct ts_pair_votes votes[TS_PAIR_CPUS] = { 0 };

	CHECK(after_two(&pair, votes, two_free, false));
	for (unsigned i = 0; i < ENOUGH * TS_PAIR_CPUS; i++) {
		struct ts_pair_fault fault = two_free[0];

		fault.index = i % 2;
		fault.tid = TID + i % 5;
		(void)ts_pair_note(&pair, &votes[fault.index], &fault);
	}
	CHECK(!ts_pair_is_on(&pair));
}

/* The other one's last fault is no reason to stay once it faults no more. */
static void the_last_of_two_is_alone(void)
{
	struct ts_pair pair = { .is_possible = true };
	struct ts_pair_votes votes[TS_PAIR_CPUS] = { 0 };

	CHECK(after_two(&pair, votes, two_free, false));
	CHECK(!after(&pair, &votes[0], two_free[0], TID));
}

CHECK_MAIN({ "seldom_faults_are_for_it", seldom_faults_are_for_it },
	   { "pinned_threads_are_against_it", pinned_threads_are_against_it },
	   { "one_threads_reads_are_for_it", one_threads_reads_are_for_it },
	   { "two_that_fault_at_a_time_are_for_it", two_that_fault_at_a_time_are_for_it },
	   { "more_than_two_are_against_it", more_than_two_are_against_it },
	   { "the_last_of_two_is_alone", the_last_of_two_is_alone },
	   { "it_is_for_two_threads", it_is_for_two_threads })
