/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rwp_stress.c — guests that write and check, against deactivations, evictions by two threads
 * at once, faults and prefetches under the tracker rwp: no update is lost, and nobody sleeps on.
 *
 * A few seconds for each kind of memory; TIERSTORE_STRESS_SECONDS makes it longer. */
#include "hugetlb.h"
#include "page/region.h"
#include "track/track.h"

enum { PAGES = 4096, HUGE_PAGES = 32 * UNIT, WORKERS = 3, ASLEEP_MS = 60000 };

enum kind { ANON, MEMFD, HUGETLB };

static const char *const names[] = { "anon", "memfd", "hugetlb" };

static bool has_rwp(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	return probe.has_rwp && probe.has_rwp_shmem;
}

static double stress_seconds(void)
{
	const char *text = getenv("TIERSTORE_STRESS_SECONDS");
	double seconds = text ? strtod(text, NULL) : 0;

	return seconds > 0 ? seconds : 3;
}

static void do_work(struct race *race) { guest_worker(&race->guest); }

/* At the rate at which pages are touched every huge page is touched all the time.  So a few
 * neighbours are, which change, and now and then any. */
static void do_huge_work(struct race *race)
{
	enum { HOT_UNITS = 4, UNIT_NS = 150000000 };
	struct guest *guest = &race->guest;
	uint64_t state = (uintptr_t)&state;

	while (!atomic_load(&guest->is_stopping)) {
		uint64_t random = guest_mix(state += UINT64_C(0x9e3779b97f4a7c15));
		uint64_t first = random % 4096 ? ts_now_ns() / UNIT_NS * UNIT : random;
		guest_touch_page(guest, (first + (random >> 16) % (HOT_UNITS * UNIT)) %
				 guest->nr_pages, random);
	}
}

/* Ages differ from round to round: what was just touched is taken, too, now and then. */
static void do_cycle(struct race *race)
{
	struct guest *guest = &race->guest;
	struct ts_scan_result scan = { .size = sizeof(scan) };
	uint64_t nr_pages = guest->nr_pages;

	for (unsigned round = 0; !atomic_load(&guest->is_stopping); round++) {
		CHECK_EQ(ts_region_deactivate(guest->region), 0);
		guest_evict(guest, nr_pages / 4 * GUEST_PAGE, 1, true);
		CHECK_EQ(ts_region_scan(guest->region, &scan), 0);
		guest_evict(guest, nr_pages / 2 * GUEST_PAGE, round % 4 != 3, true);
		if (round % 8 == 7)
			CHECK_EQ(ts_region_prefetch(guest->region, (round * 64 % nr_pages) *
						    GUEST_PAGE, 64 * GUEST_PAGE), 0);
	}
}

static void report(struct guest *guest, const char *what)
{
	struct ts_stats *stats = guest_stats(guest);
	const struct ts_hist *windows = &stats->stages[TS_STAGE_WINDOW];

	printf("%s: %llu touches, %llu writes, %llu evicted, %llu cancelled, %llu faults, %llu at "
	       "a protection, %llu windows (p50 %.0f us, p99 %.0f us), %llu wrong\n", what,
	       (unsigned long long)atomic_load(&guest->nr_touched),
	       (unsigned long long)atomic_load(&guest->nr_written),
	       (unsigned long long)stats->nr_evicted, (unsigned long long)stats->nr_cancelled,
	       (unsigned long long)stats->nr_faults, (unsigned long long)stats->nr_faults_guard,
	       (unsigned long long)windows->count,
	       (double)ts_hist_percentile_ns(windows, 0.5) / 1e3,
	       (double)ts_hist_percentile_ns(windows, 0.99) / 1e3,
	       (unsigned long long)atomic_load(&guest->nr_wrong));
	fflush(stdout);
}

/* Every worker must touch something now and then, or it sleeps for good. */
static void watch(struct guest *guest, double seconds)
{
	struct timespec pause = { .tv_nsec = 100000000 };
	uint64_t last = 0;
	unsigned nr_still = 0;

	for (double waited = 0; waited < seconds; waited += 0.1) {
		nanosleep(&pause, NULL);
		uint64_t nr_touched = atomic_load(&guest->nr_touched);
		nr_still = nr_touched == last ? nr_still + 1 : 0;
		last = nr_touched;
		CHECK(nr_still < ASLEEP_MS / 100);
	}
}

static void stress(enum kind kind)
{
	struct race race = { .options.restore = TS_RESTORE_AUTO };
	struct actor actors[WORKERS + 2];
	struct guest *guest = &race.guest;

	if (kind == HUGETLB)
		guest_map_huge(guest, HUGE_PAGES / UNIT);
	else
		guest_map(guest, PAGES, kind == MEMFD);
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, race.options);
	CHECK_EQ(guest->region->tracker->id, TS_TRACKER_RWP);
	race_fn work = kind == HUGETLB ? do_huge_work : do_work;
	for (unsigned i = 0; i < WORKERS + 2; i++)
		actor_start_in(&race, i < WORKERS ? work : do_cycle, &actors[i]);
	watch(guest, stress_seconds());
	atomic_store(&guest->is_stopping, true);
	for (unsigned i = 0; i < WORKERS + 2; i++)
		CHECK_EQ(actor_try_join(&actors[i], ASLEEP_MS), 0);
	report(guest, names[kind]);
	CHECK_EQ(atomic_load(&guest->nr_wrong), 0);
	CHECK(guest_stats(guest)->nr_evicted > 0);
	guest_check_all(guest);
	guest_close(guest);
}

static void memfd(void)
{
	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	stress(MEMFD);
}

static void anon(void)
{
	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	stress(ANON);
}

static void hugetlb(void)
{
	NEED_HUGE(HUGE_PAGES / UNIT);
	stress(HUGETLB);
}

CHECK_MAIN({ "memfd", memfd }, { "anon", anon }, { "hugetlb", hugetlb })
