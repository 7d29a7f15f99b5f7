/* SPDX-License-Identifier: Apache-2.0
 *
 * test_walk.c — a guest that walks gets its next pages before it asks (fault/walk.h), and a frame
 * that was decoded for one page is not decoded again for its neighbour, nor taken for another. */
#include <time.h>

#include "guest.h"
#include "util/hook.h"

enum { PAGES = 1024, WAIT_MS = 60000 };

static void evict_all(struct guest *guest)
{
	guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
}

/* Fewer faults than frames: some frames came before they were asked for.  Every page is right. */
static void walk(bool is_memfd, const char *store, uint32_t range_bytes,
		 struct ts_region_options options)
{
	struct guest guest = { .nr_fault_threads = 3 };
	uint64_t nr_prefetched = 0;

	guest_begin(&guest, PAGES, is_memfd, store, range_bytes, options);
	/* The threads that could be asked may not have come to their waiting yet. */
	for (unsigned round = 0; !nr_prefetched && round < 100; round++) {
		evict_all(&guest);
		guest_check_all(&guest);
		nr_prefetched = guest_stats(&guest)->nr_prefetched;
	}
	CHECK(nr_prefetched > 0);
	guest_close(&guest);
}

static void a_walk_is_fetched_ahead(void)
{
	walk(false, "ram", 4096, (struct ts_region_options){ 0 });
	walk(false, "ram", 65536, (struct ts_region_options){ 0 });
	walk(true, "ram", 262144, (struct ts_region_options){ .restore = TS_RESTORE_RANGE });
}

static void from_a_file_too(void)
{
	walk(false, "file", 4096, (struct ts_region_options){ 0 });
	walk(true, "file", 65536, (struct ts_region_options){ .nr_shards = 2 });
}

static void for_threads_that_answer_themselves(void)
{
	walk(false, "ram", 65536, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
}

static void not_if_single_pages_are_wanted(void)
{
	struct guest guest = { .nr_fault_threads = 3 };

	guest_begin(&guest, PAGES, false, "ram", 65536,
		  (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
	evict_all(&guest);
	guest_check_all(&guest);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK_EQ(stats->nr_prefetched + stats->nr_restored, 0);
	guest_close(&guest);
}

/* Touches so many pages of each range; the ranges lie apart, so that each begins with a lone fault.
 * How many faults the last ten took, give or take one: a fault is counted after it is answered. */
static uint64_t visit_ranges(struct guest *guest, unsigned nr_touched)
{
	enum { RANGE_PAGES = 16, RANGES = PAGES / RANGE_PAGES, APART = 3 };
	uint64_t before_last = 0;
	unsigned nr_visited = 0, nr_tries = 0;

	/* What a fault thread has just brought back can't leave until that is written down. */
	do {
		CHECK(nr_tries++ < 10000);
		evict_all(guest);
	} while (guest_stats(guest)->nr_resident + guest_stats(guest)->nr_coming);
	for (unsigned first = 0; first < APART; first++)
		for (unsigned range = first; range < RANGES; range += APART) {
			if (nr_visited++ == RANGES - 10)
				before_last = guest_stats(guest)->nr_faults;
			for (unsigned i = 0; i < nr_touched; i++)
				CHECK(guest_is_right(guest, range * RANGE_PAGES + i * 5, 0));
		}
	return guest_stats(guest)->nr_faults - before_last;
}

/* One fault thread: nobody to ask.  A sixteenth of the faults is for learning. */
static void what_lone_faults_came_to_is_learnt(void)
{
	struct guest guest = { .nr_fault_threads = 1 };

	guest_begin(&guest, PAGES, false, "ram", 65536, (struct ts_region_options){ 0 });
	CHECK(visit_ranges(&guest, 1) >= 9);
	CHECK_EQ(guest_stats(&guest)->nr_restored, 0);
	CHECK(visit_ranges(&guest, 3) <= 12);
	CHECK(guest_stats(&guest)->nr_restored > 0);
	CHECK(visit_ranges(&guest, 1) >= 9);
	uint64_t nr_restored = guest_stats(&guest)->nr_restored;
	CHECK(visit_ranges(&guest, 1) >= 9);
	CHECK_EQ(guest_stats(&guest)->nr_restored, nr_restored);
	guest_close(&guest);
}

/* A page of a range, then one of the range beside it, again and again elsewhere: that is chance,
 * for which nobody is woken. */
static void neighbours_by_chance_are_not_followed(void)
{
	enum { RANGE_PAGES = 16, APART = 6 };
	struct guest guest = { .nr_fault_threads = 3 };

	guest_begin(&guest, PAGES, false, "ram", 4096, (struct ts_region_options){ 0 });
	evict_all(&guest);
	for (unsigned first = 0; first < APART; first += 2)
		for (unsigned range = first; range + 1 < PAGES / RANGE_PAGES; range += APART)
			for (unsigned i = 0; i < 2; i++)
				CHECK(guest_is_right(&guest, (range + i) * RANGE_PAGES, 0));
	CHECK_EQ(guest_stats(&guest)->nr_prefetched, 0);
	guest_close(&guest);
}

/* Of clusters of two frames, where each takes one fault once that is learnt: who serves it is the
 * guest's thread, and fetches the second frame first.  One in sixteen takes three, to see. */
static void a_known_cluster_takes_one_fault(void)
{
	enum { CLUSTER_PAGES = 32, CLUSTERS = PAGES / CLUSTER_PAGES, APART = 4, ROUNDS = 6 };
	struct guest guest = { .nr_fault_threads = 1 };
	uint64_t before_last = 0;

	ts_hook_set_knob(TS_KNOB_WAKE_UP_NS, 1000000000);
	guest_begin(&guest, PAGES, false, "ram", 65536,
		    (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
	for (unsigned round = 0; round < ROUNDS; round++) {
		before_last = guest_stats(&guest)->tiers[0].nr_faults;
		evict_all(&guest);
		for (unsigned i = 0; i < CLUSTERS; i++) {
			uint64_t first = (i * APART % CLUSTERS + i * APART / CLUSTERS) *
					 CLUSTER_PAGES;
			for (unsigned n = 0; n < CLUSTER_PAGES; n++)
				CHECK(guest_is_right(&guest, first + n, 0));
		}
	}
	CHECK(guest_stats(&guest)->tiers[0].nr_faults - before_last <= CLUSTERS + CLUSTERS / 4);
	CHECK(guest_stats(&guest)->nr_prefetched > 0);
	guest_close(&guest);
	ts_hook_set_knob(TS_KNOB_WAKE_UP_NS, 0);
}

/* Walks by several threads while all is evicted again and again, and regions come and go. */
static void *walker(void *arg)
{
	struct guest *guest = arg;

	while (!atomic_load(&guest->is_stopping))
		guest_check_all(guest);
	return NULL;
}

static void walks_against_eviction_and_detach(void)
{
	struct guest guest = { .nr_fault_threads = 3 };
	pthread_t threads[2];

	guest_begin(&guest, PAGES, false, "ram", 65536, (struct ts_region_options){ 0 });
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, walker, &guest), 0);
	for (unsigned round = 0; round < 60; round++) {
		evict_all(&guest);
		if (round % 4 < 3)
			continue;
		CHECK_EQ(ts_region_detach(guest.region), 0);
		guest_attach(&guest, (struct ts_region_options){ 0 });
	}
	atomic_store(&guest.is_stopping, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	guest_close(&guest);
}

static void wait_until_no_frames(struct guest *guest)
{
	struct timespec pause = { .tv_nsec = 2000000 };

	for (unsigned n = 0; guest_stats(guest)->tiers[0].nr_frames; n++) {
		CHECK(n < WAIT_MS / 2);
		nanosleep(&pause, NULL);
	}
}

/* One fault thread decodes a frame for its first page.  Then the frame goes, its pages change, and
 * leave again under the same id: what was decoded is outdated. */
static void what_was_decoded_is_not_served_for_another_frame(void)
{
	struct guest guest = { .nr_fault_threads = 1 };

	guest_begin(&guest, PAGES, false, "ram", 262144, (struct ts_region_options){ 0 });
	for (uint32_t version = 1; version < 20; version++) {
		evict_all(&guest);
		CHECK(guest_is_right(&guest, 0, version - 1));
		CHECK_EQ(ts_region_prefetch(guest.region, 0, PAGES * GUEST_PAGE), 0);
		for (uint64_t page = 0; page < PAGES; page++) {
			guest_fill(&guest, page, version);
			atomic_store(&guest.versions[page], version);
		}
		/* Kept copies go when their pages leave. */
		evict_all(&guest);
		CHECK(guest_is_right(&guest, 0, version));
		guest_check_all(&guest);
		CHECK_EQ(ts_region_detach(guest.region), 0);
		guest_attach(&guest, (struct ts_region_options){ 0 });
		wait_until_no_frames(&guest);
	}
	guest_close(&guest);
}

CHECK_MAIN({ "a_walk_is_fetched_ahead", a_walk_is_fetched_ahead },
	   { "from_a_file_too", from_a_file_too },
	   { "for_threads_that_answer_themselves", for_threads_that_answer_themselves },
	   { "not_if_single_pages_are_wanted", not_if_single_pages_are_wanted },
	   { "what_lone_faults_came_to_is_learnt", what_lone_faults_came_to_is_learnt },
	   { "neighbours_by_chance_are_not_followed", neighbours_by_chance_are_not_followed },
	   { "a_known_cluster_takes_one_fault", a_known_cluster_takes_one_fault },
	   { "walks_against_eviction_and_detach", walks_against_eviction_and_detach },
	   { "what_was_decoded_is_not_served_for_another_frame",
	     what_was_decoded_is_not_served_for_another_frame })
