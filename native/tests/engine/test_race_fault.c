/* SPDX-License-Identifier: Apache-2.0
 *
 * test_race_fault.c — a handler is parked with a page in its hands, or the reader of an event with
 * the event, while others want the same page. */
#include "race.h"

static const int fault_phases[] = { TS_PHASE_FAULT_CLAIMED, TS_PHASE_FAULT_GOT,
				    TS_PHASE_INSTALLED };

static void at_each_phase(race_fn first, const race_fn *others, unsigned nr_others)
{
	for (unsigned n = 0; n < 4 * sizeof(fault_phases) / sizeof(fault_phases[0]); n++) {
		struct race race = { .options.restore = n / 2 % 2 ? TS_RESTORE_RANGE :
							TS_RESTORE_PAGE };
		race_open(&race, n % 2);
		do_evict(&race);
		race_run(&race, fault_phases[n / 4], first, others, nr_others);
		race_close(&race);
	}
}

#define AT_EACH_PHASE(first, ...)                                                 \
	do {                                                                      \
		static const race_fn others_[] = { __VA_ARGS__ };                 \
		at_each_phase(first, others_, sizeof(others_) / sizeof(race_fn)); \
	} while (0)

static void another_read(void) { AT_EACH_PHASE(do_read, do_read, do_read); }
static void a_write(void) { AT_EACH_PHASE(do_peek, do_write); }
static void write_first(void) { AT_EACH_PHASE(do_write, do_peek); }
static void given_up(void) { AT_EACH_PHASE(do_peek, do_balloon); }
static void given_up_before_others(void) { AT_EACH_PHASE(do_peek, do_balloon, do_peek); }
static void unmapped(void) { AT_EACH_PHASE(do_peek, do_unmap); }
static void moved(void) { AT_EACH_PHASE(do_peek, do_move); }
static void evicted(void) { AT_EACH_PHASE(do_read, do_evict, do_read); }
static void prefetched(void) { AT_EACH_PHASE(do_read, do_prefetch); }
static void detached(void) { AT_EACH_PHASE(do_read, do_detach); }

/* What the header says of a balloon on a memfd: a page that comes back between punch and discard
 * has its old contents and is the caller's to punch, once more.  In the order discard, punch
 * nothing that is stored can come back (given_up). */
static void back_before_discard(void)
{
	struct race race = { .options.restore = TS_RESTORE_PAGE };
	struct actor reader;

	race_open(&race, 1);
	do_evict(&race);
	ts_hook_park(TS_PHASE_FAULT_CLAIMED);
	actor_start_in(&race, do_read, &reader);
	race_wait(TS_PHASE_FAULT_CLAIMED);
	race_punch(&race, 1);
	ts_hook_release(TS_PHASE_FAULT_CLAIMED);
	actor_join(&reader, "the reader");
	race_discard(&race, 1);
	do_read(&race);
	race_punch(&race, 1);
	atomic_store(&race.guest.versions[RACE_PAGE], GUEST_ZEROED);
	do_read(&race);
	race_close(&race);
}

/* The waiter of a page that was unmapped must not sleep on: there is nothing to wait for. */
static void waiter_of_an_unmapped_page_dies(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { .options.restore = TS_RESTORE_PAGE };
		race_open(&race, is_memfd);
		do_evict(&race);
		static const race_fn unmap[] = { do_unmap };
		race_run(&race, TS_PHASE_FAULT_GOT, do_peek, unmap, 1);
		CHECK_EQ(race_peek(race_addr(&race)), SIGSEGV);
		race_close(&race);
	}
}

/* The event is read and the guest may go on, but no word says so yet.  Everything that touches
 * words or addresses has to wait; nothing may slip through. */
static void at_the_event(race_fn first, bool is_away, const race_fn *others, unsigned nr_others)
{
	struct race race = { .options.restore = TS_RESTORE_PAGE };

	race_open(&race, 0);
	if (is_away)
		do_evict(&race);
	race_run(&race, TS_PHASE_EVENT_READ, first, others, nr_others);
	race_close(&race);
}

static void event_while_evicting(void)
{
	static const race_fn others[] = { do_evict, do_peek };

	at_the_event(do_balloon, false, others, 2);
	at_the_event(do_move, false, others, 1);
	at_the_event(do_unmap, false, others, 2);
}

static void event_while_faulting(void)
{
	static const race_fn others[] = { do_peek, do_peek };

	at_the_event(do_balloon, true, others, 2);
	at_the_event(do_move, true, others, 2);
	at_the_event(do_unmap, true, others, 2);
}

static void event_while_leaving(void)
{
	static const race_fn detach[] = { do_detach }, prefetch[] = { do_prefetch };

	at_the_event(do_balloon, true, prefetch, 1);
	at_the_event(do_balloon, true, detach, 1);
	at_the_event(do_move, true, detach, 1);
}

static void event_on_memfd(void)
{
	static const race_fn others[] = { do_evict, do_peek };

	for (unsigned i = 0; i < 2; i++) {
		struct race race = { .options.restore = TS_RESTORE_PAGE };
		race_open(&race, 1);
		race_run(&race, TS_PHASE_EVENT_READ, i ? do_unmap : do_move, others, 1 + i);
		race_close(&race);
	}
}

static void while_detaching(void)
{
	static const race_fn others[] = { do_peek, do_balloon, do_peek };

	for (int is_memfd = 0; is_memfd < 2; is_memfd++)
		for (unsigned nr_others = 1; nr_others <= (is_memfd ? 1 : 3); nr_others++) {
			struct race race = { 0 };
			race_open(&race, is_memfd);
			do_evict(&race);
			race_run(&race, TS_PHASE_DETACH, do_detach, others, nr_others);
			race_close(&race);
		}
}

CHECK_MAIN({ "another_read", another_read }, { "a_write", a_write },
	   { "write_first", write_first }, { "given_up", given_up },
	   { "given_up_before_others", given_up_before_others }, { "unmapped", unmapped },
	   { "moved", moved }, { "evicted", evicted }, { "prefetched", prefetched },
	   { "detached", detached },
	   { "back_before_discard", back_before_discard },
	   { "waiter_of_an_unmapped_page_dies", waiter_of_an_unmapped_page_dies },
	   { "event_while_evicting", event_while_evicting },
	   { "event_while_faulting", event_while_faulting },
	   { "event_while_leaving", event_while_leaving }, { "event_on_memfd", event_on_memfd },
	   { "while_detaching", while_detaching })
