/* SPDX-License-Identifier: Apache-2.0
 *
 * test_share.c — whose the tiers' bytes are, who holds more than its share (engine/share.h), and
 * copies that a region gives back for others' room. */
#include <time.h>

#include "engine/share.h"
#include "guest.h"

enum { PAGES = 2048, WAIT_MS = 60000 };

/* ---- Shares ----------------------------------------------------------------------------- */

static void judge(struct ts_share_part *parts, unsigned nr_parts, uint64_t total_bytes,
		  const char *over)
{
	ts_share_judge(parts, nr_parts, total_bytes);
	for (unsigned i = 0; i < nr_parts; i++)
		CHECK_EQ(parts[i].is_over, over[i] == 'x');
}

static void who_holds_little_is_never_above_its_share(void)
{
	struct ts_share_part alone[] = { { 90, 1, false } };
	struct ts_share_part flood[] = { { 90, 1, false }, { 10, 1, false } };
	struct ts_share_part three[] = { { 60, 7, false }, { 50, 7, false }, { 10, 7, false } };
	struct ts_share_part heavy[] = { { 60, 3000, false }, { 60, 1000, false } };

	judge(alone, 1, 80, "x");
	judge(alone, 1, 90, ".");
	judge(flood, 2, 80, "x.");
	judge(flood, 2, 20, "x.");
	judge(flood, 2, 19, "xx");
	judge(flood, 2, 100, "..");
	/* The third leaves ten of its thirty. */
	judge(three, 3, 90, "xx.");
	judge(three, 3, 111, "x..");
	judge(heavy, 2, 100, ".x");
	judge(heavy, 2, 79, "xx");
	judge(NULL, 0, 79, "");
	/* No number is too large. */
	struct ts_share_part large[] = { { UINT64_MAX / 4, UINT32_MAX, false },
					 { 1, UINT32_MAX, false } };
	judge(large, 2, UINT64_MAX / 8, "x.");
}

/* ---- Giving back ------------------------------------------------------------------------ */

static void open_with(struct guest *guest, bool is_memfd, const char *store, uint32_t range_bytes)
{
	guest_begin(guest, PAGES, is_memfd, store, range_bytes, (struct ts_region_options){ 0 });
	guest->region->share_weight = 1;  /* as adopted ones have */
	guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
}

/* The keeper deletes what nobody needs any more. */
static uint64_t wait_until_held_at_most(struct guest *guest, uint64_t bytes)
{
	struct timespec pause = { .tv_nsec = 2000000 };
	uint64_t held_bytes;

	for (unsigned n = 0; (held_bytes = guest_stats(guest)->held_bytes[0]) > bytes; n++) {
		CHECK(n < WAIT_MS / 2);
		nanosleep(&pause, NULL);
	}
	return held_bytes;
}

static void give_back(bool is_memfd, const char *store, uint32_t range_bytes)
{
	struct guest guest = { 0 };

	open_with(&guest, is_memfd, store, range_bytes);
	struct ts_stats *stats = guest_stats(&guest);
	uint64_t held_bytes = stats->held_bytes[0], stored_bytes = stats->tiers[0].stored_bytes;
	uint64_t nr_away = stats->nr_away;
	/* To a hundredth of what the pages had. */
	uint64_t slack_bytes = nr_away * GUEST_PAGE / 100;
	CHECK(held_bytes > 0 && held_bytes <= stored_bytes + slack_bytes &&
	      held_bytes + slack_bytes >= stored_bytes);
	uint64_t half_bytes = nr_away / 2 * GUEST_PAGE;
	int64_t done_bytes = ts_region_give_back(guest.region, half_bytes);
	CHECK(done_bytes >= (int64_t)half_bytes &&
	      done_bytes <= (int64_t)(half_bytes + range_bytes));
	stats = guest_stats(&guest);
	CHECK_EQ(stats->nr_kept, 0);
	CHECK_EQ(stats->nr_away, nr_away - (uint64_t)done_bytes / GUEST_PAGE);
	CHECK(wait_until_held_at_most(&guest, held_bytes * 2 / 3) > held_bytes / 3);
	/* The rest, and not more than there is; then there is nothing. */
	uint64_t rest_bytes = guest_stats(&guest)->nr_away * GUEST_PAGE;
	CHECK_EQ(ts_region_give_back(guest.region, PAGES * GUEST_PAGE), (int64_t)rest_bytes);
	CHECK_EQ(guest_stats(&guest)->nr_away, 0);
	CHECK_EQ(wait_until_held_at_most(&guest, 0), 0);
	CHECK_EQ(ts_region_give_back(guest.region, PAGES * GUEST_PAGE), 0);
	guest_check_all(&guest);
	/* Kept copies of what came back by itself go as well. */
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	guest_check_all(&guest);
	uint64_t nr_kept = guest_stats(&guest)->nr_kept;
	CHECK(nr_kept > 0);
	CHECK(ts_region_give_back(guest.region, GUEST_PAGE) >= (int64_t)(nr_kept * GUEST_PAGE));
	CHECK_EQ(guest_stats(&guest)->nr_kept, 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void what_is_given_back_makes_room(void)
{
	give_back(false, "ram", 4096);
	give_back(true, "ram", 65536);
	give_back(true, "file", 16384);
	give_back(false, "lmdb", 4096);
}

CHECK_MAIN({ "who_holds_little_is_never_above_its_share",
	     who_holds_little_is_never_above_its_share },
	   { "what_is_given_back_makes_room", what_is_given_back_makes_room })
