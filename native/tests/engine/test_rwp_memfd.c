/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rwp_memfd.c — memfd pages leave from under the tracker's protection (Linux 7.3): what was
 * touched after it was read stays, whatever happens between the reading and the last look; who
 * touches a page in a sync window waits for the window and for nothing else. */
#include "memory/memory.h"
#include "race.h"
#include "swap.h"
#include "track/track.h"

enum { OTHER_PAGE = 40, HALF = 32 };

static bool has_rwp(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	return probe.has_rwp_shmem;
}

#define NEED_RWP() \
	if (!has_rwp()) \
		SKIP("RWP needs Linux 7.3")

static void open_memfd(struct race *race)
{
	*race = (struct race){ .options.restore = TS_RESTORE_PAGE };
	race_open(race, 1);
	CHECK(race->guest.region->memory == &ts_memory_memfd_rwp_ops);
}

static uint64_t nr_windows(struct race *race)
{
	return guest_stats(&race->guest)->stages[TS_STAGE_WINDOW].count;
}

static bool is_resident(struct race *race, uint32_t page)
{
	return ts_word_is(ts_word_load(&race->guest.region->words[page]), TS_RESIDENT);
}

static void do_page_out(struct race *race)
{
	do_write(race);
	CHECK_EQ(madvise(race_addr(race), GUEST_PAGE, MADV_PAGEOUT), 0);
}

/* `act` happens between the reading of the page and its last look: the page stays, and only it. */
static void stays_after(race_fn act)
{
	static const int phases[] = { TS_PHASE_TAKEN, TS_PHASE_PUT, TS_PHASE_PUBLISHED };

	for (unsigned n = 0; n < sizeof(phases) / sizeof(phases[0]); n++) {
		struct race race;
		struct actor evictor, actor;
		open_memfd(&race);
		ts_hook_park(phases[n]);
		actor_start_in(&race, do_evict, &evictor);
		race_wait(phases[n]);
		/* No window is open: it does not wait. */
		actor_start_in(&race, act, &actor);
		actor_join(&actor, "who touches a page that is being stored");
		ts_hook_release(phases[n]);
		actor_join(&evictor, "the evictor");
		struct ts_stats *stats = guest_stats(&race.guest);
		CHECK(is_resident(&race, RACE_PAGE));
		CHECK_EQ(stats->nr_resident, 1);
		CHECK_EQ(stats->nr_cancelled, 1);
		CHECK_EQ(stats->nr_evicted, RACE_PAGES - 1);
		race_close(&race);
	}
}

static void touched_after_it_was_read(void)
{
	NEED_RWP();
	stays_after(do_read);
	stays_after(do_write);
}

/* A deactivate must not make it look untouched again. */
static void protected_after_it_was_written(void)
{
	NEED_RWP();
	stays_after(do_write_and_deactivate);
}

/* What the kernel has swapped out has no protection left, whatever was written before. */
static void swapped_after_it_was_written(void)
{
	char folder[] = "/tmp/tierstore-swap-XXXXXX", path[64];

	NEED_RWP();
	CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/swap", folder);
	bool has_swap = swap_on(path);
	if (has_swap)
		stays_after(do_page_out);
	CHECK(!has_swap || !swapoff(path));
	unlink(path);
	rmdir(folder);
	if (!has_swap)
		SKIP("no swap file can be had here");
}

static void do_evict_half(struct race *race)
{
	guest_evict(&race->guest, HALF * GUEST_PAGE, 0, true);
}

static void do_read_other(struct race *race)
{
	CHECK(guest_is_right(&race->guest, OTHER_PAGE, 0));
}

/* In a window: a page that is not about to leave is answered at once, one that is waits for the
 * window's end, reader and writer alike. */
static void faults_in_a_window(void)
{
	struct race race;
	struct actor evictor, other, reader, writer;

	NEED_RWP();
	open_memfd(&race);
	do_deactivate(&race);
	ts_hook_park(TS_PHASE_WINDOW);
	actor_start_in(&race, do_evict_half, &evictor);
	race_wait(TS_PHASE_WINDOW);
	actor_start_in(&race, do_read_other, &other);
	actor_join(&other, "who touches a page outside of the window");
	CHECK_EQ(guest_stats(&race.guest)->nr_faults_guard, 1);
	actor_start_in(&race, do_peek, &reader);
	actor_start_in(&race, do_write, &writer);
	CHECK_EQ(actor_try_join(&writer, 50), ETIMEDOUT);
	CHECK_EQ(actor_try_join(&reader, 1), ETIMEDOUT);
	ts_hook_release(TS_PHASE_WINDOW);
	actor_join(&evictor, "the evictor");
	actor_join(&reader, "who reads a page in a window");
	actor_join(&writer, "who writes to a page in a window");
	CHECK_EQ(nr_windows(&race), 1);
	/* Async again: a touch of a protected page sends no message. */
	uint64_t nr_guard = guest_stats(&race.guest)->nr_faults_guard;
	CHECK(guest_is_right(&race.guest, OTHER_PAGE + 1, 0));
	CHECK_EQ(guest_stats(&race.guest)->nr_faults_guard, nr_guard);
	race_close(&race);
}

/* Not in the page table: leaves without a window, unless it is touched, which is a message. */
static void unmapped_pages(void)
{
	NEED_RWP();
	for (int is_touched = 0; is_touched < 2; is_touched++) {
		struct race race;
		struct actor evictor, reader;
		open_memfd(&race);
		CHECK_EQ(madvise(race.guest.mem, RACE_PAGES * GUEST_PAGE, MADV_DONTNEED), 0);
		ts_hook_park(TS_PHASE_TAKEN);
		actor_start_in(&race, do_evict, &evictor);
		race_wait(TS_PHASE_TAKEN);
		if (is_touched) {
			actor_start_in(&race, do_read, &reader);
			actor_join(&reader, "who touches a page that is not mapped");
		}
		ts_hook_release(TS_PHASE_TAKEN);
		actor_join(&evictor, "the evictor");
		CHECK_EQ(nr_windows(&race), 0);
		CHECK_EQ(guest_stats(&race.guest)->nr_evicted, RACE_PAGES - is_touched);
		CHECK_EQ(guest_stats(&race.guest)->nr_faults_guard, is_touched);
		race_close(&race);
	}
}

/* Written to through the descriptor where we knew of a hole. */
static void populated_behind_our_back(void)
{
	struct race race;

	NEED_RWP();
	open_memfd(&race);
	race_give_up(&race);
	guest_fill(&race.guest, RACE_PAGE, 0);
	race_give_up(&race);
	for (unsigned i = 0; i < RACE_SPAN; i++)
		CHECK_EQ(pwrite(race.guest.memfd, "behind", 7,
				(off_t)(RACE_PAGE + i) * GUEST_PAGE), 7);
	for (unsigned i = 0; i < RACE_SPAN; i++) {
		CHECK(!strcmp((char *)race_addr(&race) + (size_t)i * GUEST_PAGE, "behind"));
		CHECK(is_resident(&race, RACE_PAGE + i));
		guest_fill(&race.guest, RACE_PAGE + i, 0);
	}
	race_close(&race);
}

/* A mode that can't be had is no reason to lose, or to let anybody sleep. */
static void mode_fails(uint64_t nth, bool is_sticky)
{
	struct race race;
	struct actor reader;
	uint64_t nr_failed;

	open_memfd(&race);
	race.expects_failures = true;
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_MODE, nth, ENOMEM, is_sticky);
	do_evict(&race);
	(void)ts_hook_inject_count(&nr_failed);
	CHECK(nr_failed > 0);
	CHECK_EQ(guest_stats(&race.guest)->nr_evicted, nth == 1 ? 0 : RACE_PAGES);
	do_prefetch(&race);
	do_deactivate(&race);
	actor_start_in(&race, do_read, &reader);
	actor_join(&reader, "a reader");
	/* Stuck in sync mode: a message. */
	CHECK_EQ(guest_stats(&race.guest)->nr_faults_guard, is_sticky);
	ts_hook_inject(0, 0, 0, 0);
	race_close(&race);
}

static void modes_that_fail(void)
{
	NEED_RWP();
	mode_fails(1, false);
	mode_fails(2, false);
	mode_fails(2, true);
}

CHECK_MAIN({ "touched_after_it_was_read", touched_after_it_was_read },
	   { "protected_after_it_was_written", protected_after_it_was_written },
	   { "swapped_after_it_was_written", swapped_after_it_was_written },
	   { "faults_in_a_window", faults_in_a_window }, { "unmapped_pages", unmapped_pages },
	   { "populated_behind_our_back", populated_behind_our_back },
	   { "modes_that_fail", modes_that_fail })
