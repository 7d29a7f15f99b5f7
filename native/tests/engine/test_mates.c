/* SPDX-License-Identifier: Apache-2.0
 *
 * test_mates.c — pages that share blocks of the disk come along where that pays, and only there
 * (fault/mates.h); whatever comes along is right. */
#include "guest.h"

enum { PAGES = 4096 };

static void open_with(struct guest *guest, bool is_memfd, struct ts_region_options options)
{
	guest_begin(guest, PAGES, is_memfd, "file", GUEST_PAGE, options);
}

/* Every page once, so that no two faults are near one another. */
static void touch_in_disorder(struct guest *guest)
{
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t page = i * 1567 % PAGES;
		CHECK(guest_is_right(guest, page, atomic_load(&guest->versions[page])));
	}
}

static void pays(bool is_memfd, struct ts_region_options options)
{
	struct guest guest = { 0 };

	open_with(&guest, is_memfd, options);
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	touch_in_disorder(&guest);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK(stats->nr_restored > PAGES / 4);
	CHECK_EQ(stats->nr_away, 0);
	guest_close(&guest);
}

static void they_come_along_where_all_is_wanted(void)
{
	pays(false, (struct ts_region_options){ 0 });
	pays(true, (struct ts_region_options){ 0 });
	pays(false, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
}

static void not_if_single_pages_are_wanted(void)
{
	struct guest guest = { 0 };

	open_with(&guest, false, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	touch_in_disorder(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_restored, 0);
	guest_close(&guest);
}

/* One page in 32, and then all leave again: nobody has missed a mate. */
static void not_for_a_guest_that_wants_few(void)
{
	struct guest guest = { 0 };

	open_with(&guest, false, (struct ts_region_options){ 0 });
	for (unsigned round = 0; round < 32; round++) {
		guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
		for (uint64_t i = 0; i < PAGES; i++) {
			uint64_t page = i * 1567 % PAGES;
			if (guest_mix(page) % 32 == round)
				CHECK(guest_is_right(&guest, page, 0));
		}
	}
	struct ts_stats *stats = guest_stats(&guest);
	CHECK(stats->tiers[0].nr_faults > PAGES / 2 && stats->nr_restored < PAGES / 8);
	guest_close(&guest);
}

/* Writers, an evictor that takes everything all the time, and mates, which have proved their worth
 * before: what the evictor takes is soon no such proof any more. */
static void against_writers_and_eviction(void)
{
	struct guest guest = { .nr_fault_threads = 3 };
	pthread_t threads[3];
	uint64_t nr_restored, nr_taught;

	open_with(&guest, false, (struct ts_region_options){ 0 });
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	touch_in_disorder(&guest);
	nr_restored = nr_taught = guest_stats(&guest)->nr_restored;
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, guest_worker, &guest), 0);
	for (unsigned round = 0; round < 4000 && nr_restored < nr_taught + 2000; round++) {
		guest_evict(&guest, PAGES / 2 * GUEST_PAGE, 0, true);
		nr_restored = guest_stats(&guest)->nr_restored;
	}
	atomic_store(&guest.is_stopping, true);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	CHECK(nr_restored > nr_taught);
	CHECK_EQ(atomic_load(&guest.nr_wrong), 0);
	guest_close(&guest);
}

CHECK_MAIN({ "they_come_along_where_all_is_wanted", they_come_along_where_all_is_wanted },
	   { "not_if_single_pages_are_wanted", not_if_single_pages_are_wanted },
	   { "not_for_a_guest_that_wants_few", not_for_a_guest_that_wants_few },
	   { "against_writers_and_eviction", against_writers_and_eviction })
