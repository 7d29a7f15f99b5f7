/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rwp.c — the tracker of Linux 7.3 sees each touch and nothing else: by reading and by
 * writing, by programs and by the kernel on their behalf, to the page and to the huge page.  Where
 * the kernel lacks it, it is refused with the version that has it. */
#include <sys/prctl.h>

#include "guest.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "page/region.h"
#include "track/track.h"

enum { PAGES = 4096 };

static bool has_rwp(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	CHECK_EQ(probe.has_rwp_shmem, probe.has_rwp);
	return probe.has_rwp;
}

static void start(struct guest *guest, bool is_memfd, bool has_huge_pages)
{
	CHECK_EQ(prctl(PR_SET_THP_DISABLE, !has_huge_pages, 0, 0, 0), 0);
	guest_map(guest, PAGES, is_memfd);
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ 0 });
	CHECK(guest->region->tracker ==
	      (is_memfd ? &ts_tracker_rwp_memfd_ops : &ts_tracker_rwp_ops));
}

static struct ts_scan_result scan(struct guest *guest)
{
	struct ts_scan_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_scan(guest->region, &result), 0);
	return result;
}

/* Four ways to touch a page. */
static void touch(struct guest *guest, uint64_t page, const int *pipe_fds)
{
	volatile unsigned char *byte = guest->mem + page * GUEST_PAGE + 100;
	unsigned char same;

	switch (page % 4) {
	case 0:
		(void)*byte;
		break;
	case 1:
		*byte = *byte;
		break;
	case 2:
		CHECK_EQ(write(pipe_fds[1], (void *)(uintptr_t)byte, 1), 1);
		CHECK_EQ(read(pipe_fds[0], &same, 1), 1);
		break;
	default:
		same = guest_word(page, 0, 12) >> 32 & 0xff;
		CHECK_EQ(write(pipe_fds[1], &same, 1), 1);
		CHECK_EQ(read(pipe_fds[0], (void *)(uintptr_t)byte, 1), 1);
		break;
	}
}

static void complement(bool is_memfd)
{
	struct guest guest = { 0 };
	static bool is_touched[PAGES];
	uint64_t nr_touched = 0;
	int pipe_fds[2];

	CHECK_EQ(pipe(pipe_fds), 0);
	start(&guest, is_memfd, false);
	/* Before the first deactivate everything counts as touched. */
	CHECK_EQ(scan(&guest).nr_touched, PAGES);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		is_touched[page] = guest_mix(page + 17) % 10 == 0;
		if (!is_touched[page])
			continue;
		nr_touched++;
		touch(&guest, page, pipe_fds);
	}
	struct ts_scan_result result = scan(&guest);
	CHECK_EQ(result.nr_touched, nr_touched);
	CHECK_EQ(result.nr_cold, PAGES - nr_touched);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(ts_heat_age(ts_heat_load(&guest.region->heat[page])), !is_touched[page]);
	struct ts_evict_result evicted = guest_evict(&guest, PAGES * GUEST_PAGE, 1, true);
	CHECK_EQ(evicted.nr_evicted, PAGES - nr_touched);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(ts_word_is(ts_word_load(&guest.region->words[page]), TS_RESIDENT),
			 is_touched[page]);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void cold_is_the_complement(void)
{
	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	complement(false);
	complement(true);
}

static void count_huge(void *user, uint64_t addr, uint64_t len_bytes)
{
	(void)addr;
	*(uint64_t *)user += len_bytes / GUEST_PAGE;
}

static void huge_pages_are_seen_whole(void)
{
	static const struct ts_scan_filter huge = { .mask = PAGE_IS_HUGE };
	struct guest guest = { 0 };
	uint64_t nr_huge = 0;

	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	start(&guest, false, true);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	CHECK_EQ(ts_pagemap_scan(guest.region->pagemap_fd, (uintptr_t)guest.mem, PAGES * GUEST_PAGE,
				 &huge, count_huge, &nr_huge), 0);
	if (nr_huge != PAGES) {
		guest_close(&guest);
		SKIP("no huge pages to be had");
	}
	(void)*(volatile unsigned char *)(guest.mem + 700 * GUEST_PAGE);
	CHECK_EQ(scan(&guest).nr_touched, 512);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(ts_heat_age(ts_heat_load(&guest.region->heat[page])), page / 512 != 1);
	guest_evict(&guest, PAGES * GUEST_PAGE, 1, true);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* Touched after the scan, before the eviction: stays. */
static void touched_since(bool is_memfd)
{
	struct guest guest = { 0 };

	start(&guest, is_memfd, false);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	CHECK_EQ(scan(&guest).nr_cold, PAGES);
	for (uint64_t page = 0; page < PAGES; page += 8)
		CHECK(guest_is_right(&guest, page, 0));
	struct ts_evict_result evicted = guest_evict(&guest, PAGES * GUEST_PAGE, 1, true);
	CHECK_EQ(evicted.nr_evicted, PAGES - PAGES / 8);
	CHECK_EQ(evicted.nr_cancelled, PAGES / 8);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(ts_word_is(ts_word_load(&guest.region->words[page]), TS_RESIDENT),
			 page % 8 == 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void touched_since_the_scan(void)
{
	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	touched_since(false);
	touched_since(true);
}

/* Pages that come back count as touched until the next deactivate, and as nothing else after. */
static void returned(bool is_memfd)
{
	struct guest guest = { 0 };

	start(&guest, is_memfd, false);
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	CHECK_EQ(ts_region_prefetch(guest.region, 0, PAGES * GUEST_PAGE), 0);
	struct ts_scan_result result = scan(&guest);
	CHECK_EQ(result.nr_touched, result.nr_resident);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	CHECK_EQ(scan(&guest).nr_touched, 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void returned_pages(void)
{
	if (!has_rwp())
		SKIP("RWP needs Linux 7.3");
	returned(false);
	returned(true);
}

static void refused(bool is_memfd)
{
	struct guest guest = { 0 };

	guest_map(&guest, 512, is_memfd);
	guest_open(&guest);
	guest_add_ladder(&guest);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	CHECK_EQ(guest_try_attach(&guest, (struct ts_region_options){ .tracker = TS_TRACKER_RWP }),
		 TS_EUNSUPPORTED);
	/* "Linux 7.3", but where the kernel lacks more than RWP. */
	CHECK(strstr(ts_last_error(), "Linux ") != NULL);
	guest_close(&guest);
}

static void refused_without_the_kernel(void)
{
	if (has_rwp())
		SKIP("this kernel has RWP");
	refused(false);
	refused(true);
}

CHECK_MAIN({ "cold_is_the_complement", cold_is_the_complement },
	   { "huge_pages_are_seen_whole", huge_pages_are_seen_whole },
	   { "touched_since_the_scan", touched_since_the_scan },
	   { "returned_pages", returned_pages },
	   { "refused_without_the_kernel", refused_without_the_kernel })
