/* SPDX-License-Identifier: Apache-2.0
 *
 * test_ladder.c — where frames enter, when they move down, what moves up: entry by room and by
 * ratio, demotion by age and by fill, kept copies, promotion of what keeps coming back. */
#include <time.h>

#include "../guest.h"

enum { PAGES = 1024, WAIT_MS = 60000 };

static void open_guest(struct guest *guest, bool is_memfd)
{
	guest_map(guest, PAGES, is_memfd);
	guest_open(guest);
}

static void start(struct guest *guest)
{
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
}

static void evict_all(struct guest *guest)
{
	guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
}

static void add_aging_tier(struct guest *guest, uint32_t demote_after_ms)
{
	struct ts_tier_options tier = {
		.size = sizeof(tier), .name = "warm", .store = "ram", .size_bytes = 16 << 20,
		.codec = TS_CODEC_LZ4, .demote_after_ms = demote_after_ms,
	};
	CHECK_EQ(ts_engine_add_tier(guest->engine, &tier), 0);
}

/* Waits for the keeper; what it does is not announced. */
static bool until_pages(struct guest *guest, unsigned tier, uint64_t nr_pages)
{
	struct timespec pause = { .tv_nsec = 5000000 };

	for (unsigned n = 0; n < WAIT_MS / 5; n++) {
		if (guest_stats(guest)->tiers[tier].nr_pages >= nr_pages)
			return true;
		nanosleep(&pause, NULL);
	}
	return false;
}

/* Reads everything; the last page's word says RESIDENT a moment after its reader was woken. */
static void read_all(struct guest *guest)
{
	guest_check_all(guest);
	while (guest_stats(guest)->nr_coming)
		;
}

/* Every sixteenth page is noise, and two of sixteen are of one value and stored nowhere. */
static void frames_that_do_not_compress_go_further_down(void)
{
	struct guest guest = { 0 };
	struct ts_tier_options picky = {
		.size = sizeof(picky), .name = "picky", .store = "ram", .size_bytes = 16 << 20,
		.codec = TS_CODEC_LZ4, .admit_ratio_pct = 60,
	};

	open_guest(&guest, false);
	CHECK_EQ(ts_engine_add_tier(guest.engine, &picky), 0);
	CHECK_EQ(guest_add_tier(&guest, "rest", "ram", NULL, 16 << 20, TS_CODEC_RAW, 4096, NULL),
		 1);
	start(&guest);
	evict_all(&guest);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK_EQ(stats->tiers[1].nr_pages, PAGES / 16);
	CHECK_EQ(stats->tiers[0].nr_pages, PAGES / 16 * 13);
	CHECK_EQ(stats->nr_filled + stats->nr_zero, PAGES / 16 * 2);
	guest_close(&guest);
}

/* Old frames of 4 KiB become frames of 64 KiB one tier down; nothing is lost on the way.  They are
 * not old before the last has left, however slow that is: a range would move in two parts. */
static void old_frames_move_down_and_merge(void)
{
	struct guest guest = { 0 };

	open_guest(&guest, true);
	add_aging_tier(&guest, 2000);
	CHECK_EQ(guest_add_tier(&guest, "cold", "file", guest_path(&guest, "cold"), 32 << 20,
				TS_CODEC_ZSTD, 65536, NULL), 1);
	start(&guest);
	evict_all(&guest);
	CHECK(until_pages(&guest, 1, PAGES / 16 * 14));
	struct ts_stats *stats = guest_stats(&guest);
	CHECK_EQ(stats->tiers[0].nr_pages, 0);
	CHECK_EQ(stats->tiers[1].nr_frames, PAGES / 16);
	/* Each range was put once. */
	CHECK(stats->tiers[1].written_bytes < 2 * stats->tiers[1].stored_bytes);
	CHECK_EQ(stats->tiers[0].nr_demoted_out, PAGES / 16 * 14);
	CHECK_EQ(stats->tiers[1].nr_demoted_in, PAGES / 16 * 14);
	guest_check_all(&guest);
	CHECK_EQ(guest_stats(&guest)->tiers[0].nr_faults, 0);
	guest_close(&guest);
}

/* A tier of 1 MiB that 3.5 MiB of raw pages pass through. */
static void a_nearly_full_tier_makes_room(void)
{
	struct guest guest = { 0 };

	open_guest(&guest, false);
	CHECK_EQ(guest_add_tier(&guest, "small", "ram", NULL, 1 << 20, TS_CODEC_RAW, 4096, NULL),
		 0);
	CHECK_EQ(guest_add_tier(&guest, "large", "ram", NULL, 32 << 20, TS_CODEC_RAW, 4096, NULL),
		 1);
	start(&guest);
	for (unsigned n = 0; n < 16; n++)
		guest_evict(&guest, PAGES / 16 * GUEST_PAGE, 0, true);
	evict_all(&guest);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK_EQ(stats->nr_resident, 0);
	CHECK(stats->tiers[0].used_bytes <= 1 << 20);
	CHECK(until_pages(&guest, 1, PAGES / 16 * 14 - (1 << 20) / GUEST_PAGE));
	guest_check_all(&guest);
	guest_close(&guest);
}

/* Refaulted once, a page's copy stays where it is and serves again; refaulted again, it is
 * promoted: it enters at the top. */
static void what_keeps_coming_back_is_promoted(void)
{
	struct guest guest = { 0 };
	const uint64_t nr_stored = PAGES / 16 * 14;

	open_guest(&guest, false);
	add_aging_tier(&guest, 100);
	CHECK_EQ(guest_add_tier(&guest, "low", "ram", NULL, 32 << 20, TS_CODEC_LZ4, 4096, NULL), 1);
	start(&guest);
	evict_all(&guest);
	CHECK(until_pages(&guest, 1, nr_stored));
	uint64_t nr_admitted = guest_stats(&guest)->tiers[0].nr_admitted;

	read_all(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_kept, nr_stored);
	evict_all(&guest);
	struct ts_stats *stats = guest_stats(&guest);
	/* The hashes of kept copies are a small table: some were overwritten by neighbours. */
	CHECK(stats->nr_reused > nr_stored / 4);
	CHECK_EQ(stats->tiers[0].nr_admitted, nr_admitted + nr_stored - stats->nr_reused);

	CHECK(until_pages(&guest, 1, nr_stored));
	nr_admitted = guest_stats(&guest)->tiers[0].nr_admitted;
	read_all(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_kept, 0);
	evict_all(&guest);
	CHECK_EQ(guest_stats(&guest)->tiers[0].nr_admitted, nr_admitted + nr_stored);
	guest_close(&guest);
}

/* Read-only pages leave again without being encoded; written ones do not. */
static void a_copy_that_was_outdated_is_not_reused(void)
{
	struct guest guest = { 0 };

	open_guest(&guest, true);
	add_aging_tier(&guest, 0);
	start(&guest);
	evict_all(&guest);
	for (uint64_t page = 3; page < PAGES; page += 16) {
		CHECK(guest_is_right(&guest, page, 0));  /* kept */
		guest_fill(&guest, page, 1);             /* and outdated */
		atomic_store(&guest.versions[page], 1);
	}
	evict_all(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_reused, 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

CHECK_MAIN({ "frames_that_do_not_compress_go_further_down",
	     frames_that_do_not_compress_go_further_down },
	   { "old_frames_move_down_and_merge", old_frames_move_down_and_merge },
	   { "a_nearly_full_tier_makes_room", a_nearly_full_tier_makes_room },
	   { "what_keeps_coming_back_is_promoted", what_keeps_coming_back_is_promoted },
	   { "a_copy_that_was_outdated_is_not_reused", a_copy_that_was_outdated_is_not_reused })
