/* SPDX-License-Identifier: Apache-2.0
 * test_resume_ranges.c — a tier gets a smaller range while frames of the larger one lie in it, from
 * a process that died: they are read and moved down as ever, one process and two later. */
#include <fcntl.h>

#include "resume.h"

enum { PAGES = 16, HOLES = 3, SMALL_BYTES = 16384, WAIT_MS = 60000 };

/* Of no page two: of text that compresses, so that frames hold them. */
static uint64_t word_of(uint64_t page, unsigned i)
{
	return guest_mix(page << 32 | i % 64);
}

static void write_pages(struct guest *guest, uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end; page++)
		for (unsigned i = 0; i < GUEST_PAGE / 8; i++)
			((uint64_t *)(guest->mem + page * GUEST_PAGE))[i] = word_of(page, i);
}

static void check_pages(const struct guest *guest)
{
	for (uint64_t page = 0; page < PAGES; page++)
		for (unsigned i = 0; i < GUEST_PAGE / 8; i++)
			CHECK(((const uint64_t *)(guest->mem + page * GUEST_PAGE))[i] ==
			      word_of(page, i));
}

static void open_ranges(struct guest *guest, uint32_t range_bytes, uint32_t demote_after_ms)
{
	CHECK_EQ(resume_try_open(guest, "state"), 0);
	struct ts_tier_options cool = {
		.size = sizeof(cool), .name = "cool", .store = "lmdb",
		.path = guest_path(guest, "cool"), .size_bytes = 8 << 20,
		.codec = TS_CODEC_LZ4, .range_bytes = range_bytes,
		.demote_after_ms = demote_after_ms,
	};

	CHECK_EQ(ts_engine_add_tier(guest->engine, &cool), 0);
	CHECK_EQ(guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"), 32 << 20,
				TS_CODEC_LZ4, SMALL_BYTES, NULL), 1);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	resume_attach(guest);
}

/* One frame of all pages but the holes, which are filled afterwards. */
static void begin_large(struct guest *guest, int arg)
{
	(void)arg;
	open_ranges(guest, PAGES * GUEST_PAGE, 0);
	CHECK_EQ(guest_evict(guest, PAGES * GUEST_PAGE, 0, true).nr_evicted, PAGES - HOLES);
	CHECK_EQ(guest_stats(guest)->tiers[0].nr_frames, 1);
	write_pages(guest, 0, HOLES);
	resume_die();
}

static void go_on_small(struct guest *guest, int is_last)
{
	open_ranges(guest, SMALL_BYTES, 0);
	if (!is_last)
		resume_die();
	check_pages(guest);
	CHECK_EQ(ts_region_detach(guest->region), 0);
	ts_engine_close(guest->engine);
}

/* The holes' pages get a frame of the small range, next to a page of the large frame. */
static void demote_small(struct guest *guest, int arg)
{
	struct timespec pause = { .tv_nsec = 5000000 };

	(void)arg;
	open_ranges(guest, SMALL_BYTES, 300);
	guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
	for (unsigned n = 0; guest_stats(guest)->tiers[1].nr_pages < PAGES; n++) {
		CHECK(n < WAIT_MS / 5);
		nanosleep(&pause, NULL);
	}
	check_pages(guest);
	CHECK_EQ(ts_region_detach(guest->region), 0);
	ts_engine_close(guest->engine);
}

static void make_guest(struct guest *guest)
{
	resume_guest_make(guest, PAGES);
	CHECK_EQ(fallocate(guest->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			   HOLES * GUEST_PAGE), 0);
	write_pages(guest, HOLES, PAGES);
	CHECK_EQ(resume_child(guest, begin_large, 0), SIGKILL);
}

static void large_frames_are_read_two_processes_later(void)
{
	struct guest guest = { 0 };

	make_guest(&guest);
	CHECK_EQ(resume_child(&guest, go_on_small, 0), SIGKILL);
	CHECK_EQ(resume_child(&guest, go_on_small, 1), 0);
	check_pages(&guest);
	resume_guest_end(&guest);
}

static void large_frames_move_down_in_parts(void)
{
	struct guest guest = { 0 };

	make_guest(&guest);
	CHECK_EQ(resume_child(&guest, demote_small, 0), 0);
	check_pages(&guest);
	resume_guest_end(&guest);
}

CHECK_MAIN({ "large_frames_are_read_two_processes_later",
	     large_frames_are_read_two_processes_later },
	   { "large_frames_move_down_in_parts", large_frames_move_down_in_parts })
