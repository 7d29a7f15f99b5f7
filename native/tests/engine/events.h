/* SPDX-License-Identifier: Apache-2.0
 *
 * events.h — what tests of a guest's own madvise, munmap and mremap share: a guest of anonymous or
 * shared memory with a run of pages in its middle, of which more is heard. */
#ifndef TS_TESTS_ENGINE_EVENTS_H
#define TS_TESTS_ENGINE_EVENTS_H

#include "guest.h"
#include "util/hook.h"
#include "util/limits.h"

enum { NR = 2048, FIRST = 700, COUNT = 100, TIMEOUT_MS = 60000 };

static inline size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }
static inline unsigned char *at(struct guest *guest, uint64_t page)
{
	return guest->mem + bytes(page);
}

static inline void begin_tracked(struct guest *guest, bool is_memfd,
				 struct ts_engine_options options, uint32_t tracker)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, is_memfd);
	guest_open(guest);
	ts_engine_close(guest->engine);
	options.size = sizeof(options);
	CHECK_EQ(ts_engine_open(&options, &guest->engine), 0);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest,
		     (struct ts_region_options){ .probation_ms = 600000, .tracker = tracker });
}

static inline void begin_with(struct guest *guest, bool is_memfd, struct ts_engine_options options)
{
	begin_tracked(guest, is_memfd, options, TS_TRACKER_AUTO);
}

static inline void begin(struct guest *guest, bool is_memfd)
{
	begin_with(guest, is_memfd, (struct ts_engine_options){ .log = guest_log });
}

static inline struct ts_evict_result evict_all(struct guest *guest)
{
	return guest_evict(guest, bytes(NR), 0, true);
}

static inline bool is_zero(struct guest *guest, uint64_t page)
{
	static const unsigned char zeros[GUEST_PAGE];
	return !memcmp(at(guest, page), zeros, GUEST_PAGE);
}

/* The pages read as zeros; then they are written, and all is well again, also after another
 * trip. */
static inline void expect_zeros(struct guest *guest, uint64_t first, uint64_t count)
{
	for (uint64_t page = first; page < first + count; page++) {
		CHECK(is_zero(guest, page));
		guest_fill(guest, page, atomic_fetch_add(&guest->versions[page], 1) + 1);
	}
	guest_check_all(guest);
	evict_all(guest);
	guest_check_all(guest);
}

/* With a new version of our pages between deactivate and scan. */
static inline void scan_once(struct guest *guest)
{
	struct ts_scan_result scan = { .size = sizeof(scan) };

	CHECK_EQ(ts_region_deactivate(guest->region), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		guest_fill(guest, page, atomic_fetch_add(&guest->versions[page], 1) + 1);
	CHECK_EQ(ts_region_scan(guest->region, &scan), 0);
}

/* munmap() returns when its event has been read; the words follow a moment later. */
static inline void expect_gone(struct guest *guest, uint64_t nr_gone)
{
	for (unsigned ms = 0; guest_stats(guest)->nr_gone != nr_gone && ms < TIMEOUT_MS; ms++)
		usleep(1000);
	CHECK_EQ(guest_stats(guest)->nr_gone, nr_gone);
}

/* Nor are the words of pages given up there when madvise() returns. */
static inline void expect_removed(struct guest *guest, uint64_t nr_min, uint64_t nr_max)
{
	for (unsigned ms = 0; guest_stats(guest)->nr_removed < nr_min && ms < TIMEOUT_MS; ms++)
		usleep(1000);
	CHECK(guest_stats(guest)->nr_removed >= nr_min);
	CHECK(guest_stats(guest)->nr_removed <= nr_max);
}

#endif
