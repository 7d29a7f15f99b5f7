/* SPDX-License-Identifier: Apache-2.0
 *
 * test_store_trouble.c — stores that fail, spoil, fill up or take their time: what the guest sees
 * of it (poison where a page is lost, else nothing) and what the statistics say. */
#include <tierstore/store.h>

#include "core/engine.h"
#include "race.h"

static void set_fault(struct race *race, unsigned tier, struct ts_store_fault fault)
{
	fault.size = sizeof(fault);
	CHECK_EQ(ts_store_fault_set(race->guest.engine->tiers[tier].store, &fault), 0);
}

static void open_away(struct race *race, int is_memfd)
{
	race->options.restore = TS_RESTORE_PAGE;
	race->wrap = "fault";
	race->expects_failures = true;
	race_open(race, is_memfd);
	do_evict(race);
}

/* The page is lost: a signal, now and later, and never zeros. */
static void check_poisoned(struct race *race, struct ts_store_fault fault, enum ts_failure reason)
{
	set_fault(race, 0, fault);
	CHECK_EQ(race_peek(race_addr(race)), SIGBUS);
	set_fault(race, 0, (struct ts_store_fault){ 0 });
	CHECK_EQ(race_peek(race_addr(race)), SIGBUS);
	atomic_store(&race->guest.versions[RACE_PAGE], GUEST_UNMAPPED);
	race_check_quiet(race);
	struct ts_stats *stats = guest_stats(&race->guest);
	CHECK_EQ(stats->nr_gone, 1);
	CHECK_EQ(stats->failures[reason], 1);
	CHECK_EQ(stats->failures[TS_FAIL_POISONED], 1);
	guest_check_all(&race->guest);
	CHECK_EQ(ts_region_prefetch(race->guest.region, 0, RACE_PAGES * GUEST_PAGE), 0);
	CHECK_EQ(race_peek(race_addr(race)), SIGBUS);
}

static void lost_page(struct ts_store_fault fault, enum ts_failure reason)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { 0 };
		open_away(&race, is_memfd);
		check_poisoned(&race, fault, reason);
		race_close(&race);
	}
}

static void get_error(void)
{
	lost_page((struct ts_store_fault){ .get_share = 1 }, TS_FAIL_GET);
}

static void corrupt_frame(void)
{
	lost_page((struct ts_store_fault){ .get_share = 1, .is_corrupt = 1 }, TS_FAIL_CORRUPT);
}

static void short_frame(void)
{
	lost_page((struct ts_store_fault){ .get_share = 1, .is_short = 1 }, TS_FAIL_CORRUPT);
}

static void frame_not_found(void)
{
	lost_page((struct ts_store_fault){ .get_share = 1, .error = TS_ENOTFOUND },
		  TS_FAIL_CORRUPT);
}

/* An error that has passed by the next try costs nothing. */
static void passing_error(void)
{
	struct race race = { 0 };

	open_away(&race, 0);
	set_fault(&race, 0, (struct ts_store_fault){ .get_share = 1, .nth = 1 });
	do_read(&race);
	CHECK_EQ(guest_stats(&race.guest)->failures[TS_FAIL_GET], 0);
	race_close(&race);
}

/* A host that is short of memory for a while costs time, and no page. */
static void shortage(void)
{
	struct race race = { 0 };
	struct actor reader;

	open_away(&race, 0);
	set_fault(&race, 0, (struct ts_store_fault){ .get_share = 1, .error = -ENOMEM });
	ts_hook_park(TS_PHASE_SHORTAGE);
	actor_start_in(&race, do_read, &reader);
	CHECK_EQ(ts_hook_wait(TS_PHASE_SHORTAGE, RACE_WAIT_MS), 0);
	set_fault(&race, 0, (struct ts_store_fault){ 0 });
	ts_hook_release(TS_PHASE_SHORTAGE);
	actor_join(&reader, "the reader");
	CHECK_EQ(guest_stats(&race.guest)->failures[TS_FAIL_GET], 0);
	CHECK_EQ(guest_stats(&race.guest)->nr_gone, 0);
	guest_check_all(&race.guest);
	race_close(&race);
}

/* One that does not end holds a fault up for three tries and eight pauses, not for ever. */
static void lasting_shortage(void)
{
	struct race race = { 0 };
	uint64_t nr_failed = 0;

	open_away(&race, 0);
	set_fault(&race, 0, (struct ts_store_fault){ .get_share = 1, .error = -ENOMEM });
	CHECK_EQ(race_peek(race_addr(&race)), SIGBUS);
	CHECK_EQ(ts_store_fault_count(race.guest.engine->tiers[0].store, &nr_failed), 0);
	CHECK_EQ(nr_failed, 11);
	CHECK_EQ(guest_stats(&race.guest)->failures[TS_FAIL_GET], 1);
	atomic_store(&race.guest.versions[RACE_PAGE], GUEST_UNMAPPED);
	set_fault(&race, 0, (struct ts_store_fault){ 0 });
	guest_check_all(&race.guest);
	race_close(&race);
}

/* Detach gives back what can be read, poisons the rest, says so, and the region is gone. */
static void detach_from_a_broken_tier(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { 0 };
		unsigned nr_lost = 0;
		open_away(&race, is_memfd);
		do_read(&race);
		set_fault(&race, 0, (struct ts_store_fault){ .get_share = 1 });
		CHECK_EQ(ts_region_detach(race.guest.region), TS_ECORRUPT);
		race.guest.region = NULL;
		for (unsigned page = 0; page < RACE_PAGES; page++) {
			int signal = race_peek(race.guest.mem + (size_t)page * GUEST_PAGE);
			CHECK(signal == 0 || signal == SIGBUS);
			if (signal)
				atomic_store(&race.guest.versions[page], GUEST_UNMAPPED);
			nr_lost += signal != 0;
		}
		CHECK_EQ(nr_lost, RACE_PAGES - 8 - 1);
		race_close(&race);
	}
}

static uint64_t evict_page(struct race *race)
{
	return guest_evict(&race->guest, GUEST_PAGE, 0, true).nr_failed;
}

/* Three errors in a row: the tier admits nothing more, serves what it has, and is tried again
 * later. */
static void put_errors(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { .wrap = "fault", .expects_failures = true,
				     .options.restore = TS_RESTORE_PAGE };
		ts_hook_set_knob(TS_KNOB_TIER_RETRY_MS, 3600000);
		race_open(&race, is_memfd);
		CHECK_EQ(guest_evict(&race.guest, 40 * GUEST_PAGE, 0, true).nr_evicted, 40);
		set_fault(&race, 0, (struct ts_store_fault){ .put_share = 1 });
		for (unsigned n = 0; n < 3; n++) {
			CHECK(!guest_stats(&race.guest)->tiers[0].is_failed);
			CHECK_EQ(evict_page(&race), 1);
		}
		CHECK(guest_stats(&race.guest)->tiers[0].is_failed);
		CHECK_EQ(guest_stats(&race.guest)->failures[TS_FAIL_PUT], 3);
		CHECK_EQ(guest_stats(&race.guest)->nr_resident, RACE_PAGES - 40);
		set_fault(&race, 0, (struct ts_store_fault){ 0 });
		CHECK_EQ(evict_page(&race), 1);
		guest_check_all(&race.guest);
		ts_hook_set_knob(TS_KNOB_TIER_RETRY_MS, 1);
		nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
		do_evict(&race);
		CHECK(!guest_stats(&race.guest)->tiers[0].is_failed);
		CHECK_EQ(guest_stats(&race.guest)->nr_resident, 0);
		ts_hook_set_knob(TS_KNOB_TIER_RETRY_MS, 0);
		race_close(&race);
	}
}

/* A full tier passes on to the next; when all are full the pages stay where they are. */
static void full_tiers(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { .wrap = "fault:put=1,error=full",
				     .low_wrap = "fault:put=1,error=full",
				     .expects_failures = true };
		race_open(&race, is_memfd);
		struct ts_evict_result result = guest_evict(&race.guest, 1 << 20, 0, true);
		CHECK_EQ(result.nr_evicted, 8);
		CHECK_EQ(result.nr_filled, 8);
		CHECK_EQ(result.nr_failed, RACE_PAGES - 8);
		struct ts_stats *stats = guest_stats(&race.guest);
		CHECK_EQ(stats->nr_resident, RACE_PAGES - 8);
		CHECK_EQ(stats->failures[TS_FAIL_FULL], RACE_PAGES - 8);
		CHECK_EQ(stats->failures[TS_FAIL_PUT], 0);
		guest_check_all(&race.guest);
		set_fault(&race, 1, (struct ts_store_fault){ 0 });
		/* The keeper finds that there is room. */
		while (guest_stats(&race.guest)->tiers[1].is_full)
			sched_yield();
		do_evict(&race);
		stats = guest_stats(&race.guest);
		CHECK_EQ(stats->tiers[0].nr_pages, 0);
		CHECK_EQ(stats->tiers[1].nr_pages, RACE_PAGES - 8);
		set_fault(&race, 0, (struct ts_store_fault){ 0 });
		race_close(&race);
	}
}

/* ---- A slow tier ------------------------------------------------------------------------ */

enum { NR_SLOW = 48 }; /* pages; more than a handler reads at a time */

struct slow_reader {
	struct race *race;
	uint64_t page;
	pthread_t thread;
};

static _Atomic unsigned nr_slow_back;

static void *read_slow(void *arg)
{
	struct slow_reader *reader = arg;

	CHECK(guest_is_right(&reader->race->guest, reader->page, 0));
	atomic_fetch_add(&nr_slow_back, 1);
	return NULL;
}

/* As many wait for the slow tier as have pages there; those of the other tier, and fills, don't
 * wait. What is measured is the order: nobody of the slow ones is back when all of the others are.
 * */
static void slow_tier(unsigned nr_fault_threads)
{
	struct race race = { .wrap = "delay:get=2s,fault", .low_wrap = "fault",
			     .nr_fault_threads = nr_fault_threads,
			     .options.restore = TS_RESTORE_PAGE };
	struct slow_reader readers[NR_SLOW];
	unsigned nr_readers = 0;

	race_open(&race, 0);
	guest_evict(&race.guest, NR_SLOW * GUEST_PAGE, 0, true);
	set_fault(&race, 0, (struct ts_store_fault){ .put_share = 1, .error = TS_EFULL });
	do_evict(&race);
	CHECK_EQ(guest_stats(&race.guest)->nr_resident, 0);
	CHECK_EQ(guest_stats(&race.guest)->tiers[1].nr_pages, RACE_PAGES - NR_SLOW - 2);
	atomic_store(&nr_slow_back, 0);
	for (uint64_t page = 0; page < NR_SLOW; page++) {
		if (page % 16 == 1 || page % 16 == 2)
			continue;
		readers[nr_readers] = (struct slow_reader){ .race = &race, .page = page };
		CHECK_EQ(pthread_create(&readers[nr_readers].thread, NULL, read_slow,
					&readers[nr_readers]), 0);
		nr_readers++;
	}
	/* They are on their way when their pages are COMING. */
	while (guest_stats(&race.guest)->nr_coming < TS_FAULT_DEPTH_MAX / 2)
		sched_yield();
	for (uint64_t page = NR_SLOW; page < RACE_PAGES; page++)
		CHECK(guest_is_right(&race.guest, page, 0));
	CHECK(guest_is_right(&race.guest, 1, 0) && guest_is_right(&race.guest, 2, 0));
	CHECK_EQ(atomic_load(&nr_slow_back), 0);
	for (unsigned i = 0; i < nr_readers; i++)
		pthread_join(readers[i].thread, NULL);
	set_fault(&race, 0, (struct ts_store_fault){ 0 });
	race_check_quiet(&race);
	guest_close(&race.guest);
	alarm(0);
}

static void slow_tier_one_thread(void) { slow_tier(1); }
static void slow_tier_three_threads(void) { slow_tier(3); }

CHECK_MAIN({ "get_error", get_error }, { "corrupt_frame", corrupt_frame },
	   { "short_frame", short_frame }, { "frame_not_found", frame_not_found },
	   { "passing_error", passing_error }, { "shortage", shortage },
	   { "lasting_shortage", lasting_shortage },
	   { "detach_from_a_broken_tier", detach_from_a_broken_tier },
	   { "put_errors", put_errors }, { "full_tiers", full_tiers },
	   { "slow_tier_one_thread", slow_tier_one_thread },
	   { "slow_tier_three_threads", slow_tier_three_threads })
