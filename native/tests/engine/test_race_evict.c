/* SPDX-License-Identifier: Apache-2.0
 *
 * test_race_evict.c — an eviction is parked at each of its phases while the guest and the host do
 * everything that they might do then. */
#include "page/region.h"
#include "race.h"
#include "track/track.h"

static const int evict_phases[] = { TS_PHASE_CLAIMED, TS_PHASE_TAKEN, TS_PHASE_PUT,
				    TS_PHASE_PUBLISHED, TS_PHASE_RELEASED };

static void at_each_phase(const race_fn *others, unsigned nr_others)
{
	for (unsigned n = 0; n < 2 * sizeof(evict_phases) / sizeof(evict_phases[0]); n++) {
		struct race race = { .options.restore = TS_RESTORE_PAGE };
		race_open(&race, n % 2);
		race_run(&race, evict_phases[n / 2], do_evict, others, nr_others);
		race_close(&race);
	}
}

#define AT_EACH_PHASE(...)                                               \
	do {                                                             \
		static const race_fn others_[] = { __VA_ARGS__ };        \
		at_each_phase(others_, sizeof(others_) / sizeof(race_fn)); \
	} while (0)

static void fault_read(void) { AT_EACH_PHASE(do_read); }
static void fault_write(void) { AT_EACH_PHASE(do_write); }
static void two_faults(void) { AT_EACH_PHASE(do_read, do_read); }
static void given_up(void) { AT_EACH_PHASE(do_balloon); }
static void given_up_punch_first(void) { AT_EACH_PHASE(do_balloon_punch_first); }
static void given_up_while_faulting(void) { AT_EACH_PHASE(do_peek, do_balloon); }
static void unmapped(void) { AT_EACH_PHASE(do_peek, do_unmap); }
static void moved(void) { AT_EACH_PHASE(do_peek, do_move); }
static void another_eviction(void) { AT_EACH_PHASE(do_evict, do_read); }
static void prefetched(void) { AT_EACH_PHASE(do_prefetch); }
static void detached(void) { AT_EACH_PHASE(do_detach); }
static void detached_while_faulting(void) { AT_EACH_PHASE(do_read, do_detach, do_read); }

/* Which pages leave is decided by the evictor that the rest is parked behind: here it is the
 * cancelled page alone that must not have left. */
static void cancelled_page_stays(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct race race = { .options.restore = TS_RESTORE_PAGE };
		race_open(&race, is_memfd);
		race_run_meanwhile(&race, TS_PHASE_TAKEN, do_evict, do_write);
		struct ts_stats *stats = guest_stats(&race.guest);
		CHECK_EQ(stats->nr_resident, 1);
		CHECK_EQ(stats->nr_cancelled, 1);
		/* Under rwp the kernel lets the write through; the last look finds it. */
		if (!is_memfd)
			CHECK_EQ(stats->nr_faults_staged, 1);
		else
			CHECK_EQ(stats->nr_faults_guard,
				 race.guest.region->tracker->id != TS_TRACKER_RWP);
		CHECK_EQ(stats->tiers[0].nr_faults, 0);
		race_close(&race);
	}
}

/* The faulting thread answers itself. */
static void in_thread(void)
{
	static const race_fn others[] = { do_read, do_write, do_balloon };

	for (unsigned n = 0; n < 3 * sizeof(evict_phases) / sizeof(evict_phases[0]); n++) {
		struct race race = { .options = { .restore = TS_RESTORE_PAGE,
						  .serve = TS_SERVE_IN_THREAD } };
		race_open(&race, 0);
		race_run(&race, evict_phases[n / 3], do_evict, &others[n % 3], 1);
		race_close(&race);
	}
}

CHECK_MAIN({ "fault_read", fault_read }, { "fault_write", fault_write },
	   { "two_faults", two_faults }, { "given_up", given_up },
	   { "given_up_punch_first", given_up_punch_first },
	   { "given_up_while_faulting", given_up_while_faulting }, { "unmapped", unmapped },
	   { "moved", moved }, { "another_eviction", another_eviction },
	   { "prefetched", prefetched }, { "detached", detached },
	   { "detached_while_faulting", detached_while_faulting },
	   { "cancelled_page_stays", cancelled_page_stays }, { "in_thread", in_thread })
