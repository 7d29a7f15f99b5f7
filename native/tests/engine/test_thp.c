/* SPDX-License-Identifier: Apache-2.0
 *
 * test_thp.c — transparent huge pages: evictions split them, contents stay right, and the option
 * `collapse` makes huge pages again of what has come back, also if the kernel is busy at first. */
#include <inttypes.h>

#include "guest.h"
#include "page/region.h"
#include "thp.h"
#include "track/track.h"
#include "util/hook.h"

enum { HUGE_PAGES = 512, NR = 8 * HUGE_PAGES };

static size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }

/* How many huge pages the kernel has made by itself, in all processes. */
static uint64_t nr_made_by_kernel(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed", "re");
	uint64_t nr = 0;

	if (file) {
		CHECK_EQ(fscanf(file, "%" SCNu64, &nr), 1);
		fclose(file);
	}
	return nr;
}

/* On a slow machine khugepaged finds the time to make whole again what we have left in parts. */
static void expect_huge(struct guest *guest, uint64_t huge_bytes_min, uint64_t nr_made_before)
{
	uint64_t huge = thp_bytes(guest->mem), nr_made = nr_made_by_kernel() - nr_made_before;

	CHECK(huge >= huge_bytes_min);
	CHECK(huge <= huge_bytes_min + bytes(nr_made * HUGE_PAGES));
}

/* false: this kernel makes no huge pages. */
static bool begin(struct guest *guest, bool collapse)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, false);
	CHECK_EQ(madvise(guest->mem, bytes(NR), MADV_DONTNEED), 0);
	if (madvise(guest->mem, bytes(NR), MADV_HUGEPAGE))
		return false;
	for (uint64_t page = 0; page < NR; page++)
		guest_fill(guest, page, 0);
	/* Faults alone may have found no huge page free. */
	if (thp_bytes(guest->mem) < bytes(NR))
		thp_make(guest->mem, bytes(NR));
	if (thp_bytes(guest->mem) < bytes(NR))
		return false;
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .collapse = collapse });
	CHECK_EQ(thp_bytes(guest->mem), bytes(NR));
	return true;
}

static void scan(struct guest *guest)
{
	struct ts_scan_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_scan(guest->region, &result), 0);
}

static void partial(void)
{
	struct guest guest;

	uint64_t nr_made = nr_made_by_kernel();
	if (!begin(&guest, false))
		SKIP("no transparent huge pages to be had");
	/* 100 pages of the first huge page alone. */
	struct ts_evict_result result = guest_evict(&guest, bytes(100), 0, true);
	CHECK_EQ(result.nr_claimed, 100);
	CHECK_EQ(result.nr_evicted, 100);
	expect_huge(&guest, bytes(NR - HUGE_PAGES), nr_made);
	guest_check_all(&guest);
	/* One page of each huge page stays warm, and is all that stays; but where the tracker sees
	 * huge pages as wholes (rwp), all of those that nobody has split stay with it. */
	for (unsigned round = 0; round < 3; round++) {
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		for (uint64_t page = 7; page < NR; page += HUGE_PAGES) {
			uint32_t version = atomic_fetch_add(&guest.versions[page], 1) + 1;
			guest_fill(&guest, page, version);
		}
		scan(&guest);
	}
	guest_evict(&guest, bytes(NR), 1, true);
	CHECK(guest_stats(&guest)->nr_resident >= NR / HUGE_PAGES);
	bool sees_wholes = guest.region->tracker == &ts_tracker_rwp_ops;
	if (!sees_wholes)
		CHECK(guest_stats(&guest)->nr_resident <= NR / 4);
	expect_huge(&guest, sees_wholes ? bytes(NR - HUGE_PAGES) : 0, nr_made);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* Deactivate and scan alone leave huge pages whole: a guest that is never evicted pays nothing. */
static void scans_keep(void)
{
	struct guest guest;

	if (!begin(&guest, false))
		SKIP("no transparent huge pages to be had");
	for (unsigned round = 0; round < 3; round++) {
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		guest_check_all(&guest);
		scan(&guest);
	}
	CHECK_EQ(thp_bytes(guest.mem), bytes(NR));
	guest_close(&guest);
}

/* Who waited is awake before the page's word says so. */
static void expect_resident(struct guest *guest)
{
	for (unsigned ms = 0; guest_stats(guest)->nr_resident != NR && ms < 20000; ms++)
		usleep(1000);
	CHECK_EQ(guest_stats(guest)->nr_resident, NR);
}

/* Out and back: all there, in small pages. */
static void out_and_back(struct guest *guest, uint64_t nr_made_before)
{
	CHECK_EQ(guest_evict(guest, bytes(NR), 0, true).nr_evicted, NR);
	guest_check_all(guest);
	expect_resident(guest);
	expect_huge(guest, 0, nr_made_before);
}

static void close_whole(struct guest *guest)
{
	guest_check_all(guest);
	guest_evict(guest, bytes(NR), 0, true);
	guest_check_all(guest);
	guest_close(guest);
}

static void collapse(void)
{
	for (unsigned wanted = 0; wanted < 2; wanted++) {
		struct guest guest;
		uint64_t nr_made = nr_made_by_kernel();
		if (!begin(&guest, wanted))
			SKIP("no transparent huge pages to be had");
		out_and_back(&guest, nr_made);
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		/* The kernel may refuse one whose page is held all the while (DAMON, compaction):
		 * most must have become whole. */
		if (wanted)
			CHECK(thp_bytes(guest.mem) >= bytes(NR / 2));
		else
			expect_huge(&guest, 0, nr_made);
		close_whole(&guest);
	}
}

/* EAGAIN is asked again, as often as pauses of some milliseconds allow, and only that. */
static void collapse_while_busy(void)
{
	static const struct { int error, sticky; } cases[] = {
		{ EAGAIN, 0 }, { EAGAIN, 1 }, { ENOMEM, 1 },
	};
	enum { HUGE_NR = NR / HUGE_PAGES };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct guest guest;
		uint64_t nr_made = nr_made_by_kernel(), nr_failed;
		if (!begin(&guest, true))
			SKIP("no transparent huge pages to be had");
		out_and_back(&guest, nr_made);
		ts_hook_inject(1U << TS_SITE_MADVISE, 1, cases[i].error, cases[i].sticky);
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		uint64_t nr_calls = ts_hook_inject_count(&nr_failed);
		ts_hook_inject(0, 0, 0, 0);
		if (cases[i].error == ENOMEM) {
			CHECK_EQ(nr_calls, HUGE_NR);
		} else if (cases[i].sticky) {
			CHECK(nr_calls >= 2 * HUGE_NR && nr_calls <= 16 * HUGE_NR);
			expect_huge(&guest, 0, nr_made);
		} else {
			CHECK_EQ(nr_failed, 1);
			CHECK(nr_calls > HUGE_NR);
			CHECK(thp_bytes(guest.mem) >= bytes(NR / 2));
		}
		close_whole(&guest);
	}
}

CHECK_MAIN({ "partial", partial }, { "scans_keep", scans_keep }, { "collapse", collapse },
	   { "collapse_while_busy", collapse_while_busy })
