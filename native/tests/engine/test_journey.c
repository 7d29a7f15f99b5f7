/* SPDX-License-Identifier: Apache-2.0
 *
 * test_journey.c — one page out and one page back, in all variants; then threads that write and
 * check while everything is evicted again and again. */
#include "guest.h"

static void out_and_back(bool is_memfd, struct ts_region_options options)
{
	const uint64_t nr_pages = check_rounds(4096);
	struct guest guest = { 0 };

	guest_map(&guest, nr_pages, is_memfd);
	guest_open(&guest);
	guest_add_ladder(&guest);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, options);
	CHECK_EQ(guest_stats(&guest)->nr_resident, nr_pages);
	struct ts_evict_result result = guest_evict(&guest, nr_pages * GUEST_PAGE, 0, true);
	CHECK_EQ(result.nr_claimed, nr_pages);
	CHECK_EQ(result.nr_evicted, nr_pages);
	CHECK_EQ(result.nr_filled, nr_pages / 8);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK_EQ(stats->nr_resident, 0);
	CHECK_EQ(stats->nr_away, nr_pages - nr_pages / 8);
	guest_check_all(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_away, 0);
	guest_close(&guest);
}

static void anon(void) { out_and_back(false, (struct ts_region_options){ 0 }); }
static void memfd(void) { out_and_back(true, (struct ts_region_options){ 0 }); }

static void in_thread(void)
{
	out_and_back(false, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
}

static void sharded(void)
{
	out_and_back(true, (struct ts_region_options){ .nr_shards = 4 });
	out_and_back(false, (struct ts_region_options){ .nr_shards = 4 });
}

static void restore_rules(void)
{
	out_and_back(false, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
	out_and_back(true, (struct ts_region_options){ .restore = TS_RESTORE_RANGE });
}

/* Threads against an evictor that takes everything, cold or not. */
static void stress(bool is_memfd, uint64_t evicted_min, struct ts_region_options options)
{
	struct guest guest = { 0 };
	pthread_t threads[3];

	guest_map(&guest, check_rounds(8192), is_memfd);
	guest_open(&guest);
	guest_add_ladder(&guest);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, options);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, guest_worker, &guest), 0);
	struct ts_scan_result scan = { .size = sizeof(scan) };
	for (unsigned round = 0; guest_stats(&guest)->nr_evicted < evicted_min; round++) {
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		guest_evict(&guest, guest.nr_pages * GUEST_PAGE / 2, round % 2, round % 3 == 0);
		CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
	}
	atomic_store(&guest.is_stopping, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	struct ts_stats *stats = guest_stats(&guest);
	printf("  touched %llu written %llu evicted %llu faults %llu staged %llu guard %llu stale "
	       "%llu "
	       "cancelled %llu reused %llu restored %llu\n",
	       (unsigned long long)guest.nr_touched, (unsigned long long)guest.nr_written,
	       (unsigned long long)stats->nr_evicted, (unsigned long long)stats->nr_faults,
	       (unsigned long long)stats->nr_faults_staged,
	       (unsigned long long)stats->nr_faults_guard, (unsigned long long)stats->nr_stale,
	       (unsigned long long)stats->nr_cancelled, (unsigned long long)stats->nr_reused,
	       (unsigned long long)stats->nr_restored);
	CHECK_EQ(atomic_load(&guest.nr_wrong), 0);
	for (unsigned i = 0; i < TS_FAIL_COUNT; i++)
		if (i != TS_FAIL_FULL)
			CHECK_EQ(stats->failures[i], 0);
	guest_close(&guest);
}

static void stress_anon(void)
{
	stress(false, check_rounds(16384), (struct ts_region_options){ .probation_ms = 20 });
}

static void stress_memfd(void)
{
	stress(true, check_rounds(16384), (struct ts_region_options){ 0 });
}

static void stress_in_thread(void)
{
	struct ts_region_options options = { .serve = TS_SERVE_IN_THREAD, .probation_ms = 20 };

	stress(false, check_rounds(8192), options);
}

CHECK_MAIN({ "anon", anon }, { "memfd", memfd }, { "in_thread", in_thread },
	   { "sharded", sharded }, { "restore_rules", restore_rules },
	   { "stress_anon", stress_anon }, { "stress_memfd", stress_memfd },
	   { "stress_in_thread", stress_in_thread })
