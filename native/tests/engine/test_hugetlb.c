/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hugetlb.c — guests in huge pages of hugetlbfs (Linux 7.3.4): they are seen, leave and come
 * back whole; what was touched after it was read stays; who finds no free huge page waits for one.
 */
#include <sys/stat.h>

#include "hugetlb.h"
#include "memory/memory.h"
#include "track/track.h"

enum { UNITS = 16, PAGES = UNITS * UNIT };

/* Who waited is awake a moment before words and counters say so. */
#define WAIT_FOR(condition)                                                     \
	do {                                                                    \
		struct timespec pause_ = { .tv_nsec = 1000000 };                \
		for (unsigned n_ = 0; !(condition); n_++) {                     \
			CHECK(n_ < RACE_WAIT_MS);                               \
			nanosleep(&pause_, NULL);                               \
		}                                                               \
	} while (0)

static void start(struct guest *guest, struct ts_region_options options)
{
	race_catch_signals();
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, options);
	CHECK(guest->region->memory == &ts_memory_hugetlb_ops);
	CHECK(guest->region->tracker == &ts_tracker_rwp_hugetlb_ops);
}

static void open_huge(struct guest *guest)
{
	*guest = (struct guest){ 0 };
	guest_map_huge(guest, UNITS);
	start(guest, (struct ts_region_options){ 0 });
	CHECK_EQ(guest_stats(guest)->nr_resident, PAGES);
}

static struct ts_scan_result scan(struct guest *guest)
{
	struct ts_scan_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_scan(guest->region, &result), 0);
	return result;
}

static enum ts_state state_of(struct guest *guest, uint64_t page)
{
	return ts_word_state(ts_word_load(&guest->region->words[page]));
}

static bool is_resident(struct guest *guest, uint64_t unit)
{
	unsigned nr_resident = 0;

	for (unsigned i = 0; i < UNIT; i++)
		nr_resident += state_of(guest, unit * UNIT + i) == TS_RESIDENT;
	CHECK(nr_resident == 0 || nr_resident == UNIT);
	return nr_resident;
}

/* Blocks of the memfd that there are, in pages. */
static uint64_t nr_cached(struct guest *guest)
{
	struct stat st;

	CHECK_EQ(fstat(guest->memfd, &st), 0);
	return (uint64_t)st.st_blocks * 512 / GUEST_PAGE;
}

static struct ts_evict_result evict_all(struct guest *guest, uint32_t age_min)
{
	return guest_evict(guest, PAGES * GUEST_PAGE, age_min, true);
}

/* Which the test touches. */
static bool is_chosen(uint64_t unit) { return guest_mix(unit + 17) % 4 == 0; }

static void cold_is_the_complement(void)
{
	struct guest guest;
	uint64_t nr_chosen = 0;

	NEED_HUGE(UNITS);
	open_huge(&guest);
	CHECK_EQ(scan(&guest).nr_touched, PAGES);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	for (uint64_t unit = 0; unit < UNITS; unit++) {
		uint64_t page = unit * UNIT + guest_mix(unit) % UNIT;
		volatile unsigned char *byte = guest.mem + page * GUEST_PAGE;
		if (!is_chosen(unit))
			continue;
		nr_chosen++;
		/* One byte of it, by reading or by writing. */
		unsigned char value = *byte;
		if (unit % 2)
			*byte = value;
	}
	CHECK(nr_chosen > 0 && nr_chosen < UNITS);
	struct ts_scan_result result = scan(&guest);
	CHECK_EQ(result.nr_touched, nr_chosen * UNIT);
	CHECK_EQ(result.nr_cold, PAGES - nr_chosen * UNIT);
	CHECK_EQ(evict_all(&guest, 1).nr_evicted, PAGES - nr_chosen * UNIT);
	for (uint64_t unit = 0; unit < UNITS; unit++)
		CHECK_EQ(is_resident(&guest, unit), is_chosen(unit));
	CHECK_EQ(nr_cached(&guest), nr_chosen * UNIT);
	guest_check_all(&guest);
	CHECK_EQ(nr_cached(&guest), PAGES);
	CHECK_EQ(guest_stats(&guest)->nr_faults, UNITS - nr_chosen);
	guest_close(&guest);
}

static void *check_again_and_again(void *arg)
{
	struct guest *guest = arg;

	while (!atomic_load(&guest->is_stopping))
		guest_check_all(guest);
	return NULL;
}

/* By each way there is, and with nobody and somebody looking. */
static void out_and_back(void)
{
	struct guest guest;
	pthread_t reader;

	NEED_HUGE(UNITS);
	open_huge(&guest);
	struct ts_evict_result result = evict_all(&guest, 0);
	CHECK_EQ(result.nr_evicted, PAGES);
	CHECK_EQ(result.nr_filled, PAGES / 8);
	CHECK_EQ(nr_cached(&guest), 0);
	guest_check_all(&guest);
	guest_wait_resident(&guest, PAGES);
	/* A part of it has changed. */
	guest_fill(&guest, 5, 1);
	guest.versions[5] = 1;
	CHECK_EQ(evict_all(&guest, 0).nr_evicted, PAGES);
	CHECK_EQ(ts_region_prefetch(guest.region, 3 * HUGE_BYTES + GUEST_PAGE, GUEST_PAGE), 0);
	CHECK_EQ(guest_stats(&guest)->nr_resident, UNIT);
	CHECK_EQ(ts_region_serve(guest.region, 7 * HUGE_BYTES + 9 * GUEST_PAGE, 0), 0);
	CHECK_EQ(guest_stats(&guest)->nr_resident, 2 * UNIT);
	CHECK_EQ(pthread_create(&reader, NULL, check_again_and_again, &guest), 0);
	for (unsigned i = 0; i < 5; i++)
		evict_all(&guest, 0);
	atomic_store(&guest.is_stopping, true);
	pthread_join(reader, NULL);
	evict_all(&guest, 0);
	/* Less than a huge page: nothing. */
	CHECK_EQ(ts_region_prefetch(guest.region, 0, HUGE_BYTES), 0);
	CHECK_EQ(guest_evict(&guest, HUGE_BYTES - GUEST_PAGE, 0, true).nr_evicted, 0);
	CHECK_EQ(guest_evict(&guest, HUGE_BYTES, 0, true).nr_evicted, UNIT);
	for (unsigned i = 0; i < TS_FAIL_COUNT; i++)
		CHECK_EQ(guest_stats(&guest)->failures[i], 0);
	CHECK_EQ(ts_region_detach(guest.region), 0);
	CHECK_EQ(nr_cached(&guest), PAGES);
	guest_close(&guest);
}

/* In a tier with room for all of it: in a ladder that is nearly full the keeper gives up the copies
 * of what is back, and how many are left when their pages leave is a race. */
static void unchanged_is_not_stored_again(void)
{
	struct guest guest = { 0 };

	NEED_HUGE(UNITS);
	guest_map_huge(&guest, UNITS);
	guest_open(&guest);
	CHECK_EQ(guest_add_tier(&guest, "wide", "ram", NULL, 2ULL * UNITS * HUGE_BYTES,
				TS_CODEC_LZ4, 16384, NULL), 0);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	CHECK_EQ(evict_all(&guest, 0).nr_reused, 0);
	guest_check_all(&guest);
	guest_wait_resident(&guest, PAGES);
	CHECK_EQ(guest_stats(&guest)->nr_kept, PAGES - PAGES / 8);
	/* In the unit that came back last, whose hashes nobody else's have replaced. */
	const uint64_t changed = PAGES - UNIT + 5;
	guest_fill(&guest, changed, 1);
	guest.versions[changed] = 1;
	struct ts_evict_result result = evict_all(&guest, 0);
	CHECK_EQ(result.nr_evicted, PAGES);
	CHECK(result.nr_reused >= UNIT - UNIT / 8 - 1);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* Zeros and holes: what was never there is no page, what was given up reads as zeros. */
static void holes(void)
{
	struct guest guest = { 0 };
	const off_t at = 2 * HUGE_BYTES;

	NEED_HUGE(UNITS);
	guest_map_huge(&guest, UNITS);
	CHECK_EQ(fallocate(guest.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
			   2 * HUGE_BYTES), 0);
	/* In the memfd, and not mapped. */
	CHECK_EQ(madvise(guest.mem + 8 * HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED), 0);
	start(&guest, (struct ts_region_options){ 0 });
	CHECK_EQ(guest_stats(&guest)->nr_resident, PAGES - 2 * UNIT);
	for (unsigned i = 0; i < 2 * UNIT; i++)
		guest.versions[2 * UNIT + i] = GUEST_ZEROED;
	CHECK(guest_is_right(&guest, 2 * UNIT + 7, GUEST_ZEROED));
	guest_wait_resident(&guest, PAGES - UNIT);
	evict_all(&guest, 0);
	CHECK_EQ(nr_cached(&guest), 0);
	/* Given up while it is away; a part of one can't be. */
	CHECK_EQ(ts_region_discard(guest.region, 4 * HUGE_BYTES, GUEST_PAGE), TS_EALIGN);
	CHECK(strstr(ts_last_error(), "2097152") != NULL);
	CHECK_EQ(ts_region_discard(guest.region, 4 * HUGE_BYTES, HUGE_BYTES), 0);
	for (unsigned i = 0; i < UNIT; i++)
		guest.versions[4 * UNIT + i] = GUEST_ZEROED;
	guest_check_all(&guest);
	/* And while it is there. */
	CHECK_EQ(ts_region_discard(guest.region, 5 * HUGE_BYTES, HUGE_BYTES), 0);
	CHECK_EQ(fallocate(guest.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * HUGE_BYTES,
			   HUGE_BYTES), 0);
	for (unsigned i = 0; i < UNIT; i++)
		guest.versions[5 * UNIT + i] = GUEST_ZEROED;
	guest_check_all(&guest);
	guest_wait_resident(&guest, PAGES);
	evict_all(&guest, 0);
	guest_close(&guest);
}

/* ---- Races, one barrier at a time --------------------------------------------------------- */

static void open_race(struct race *race)
{
	struct ts_engine_options options = { .size = sizeof(options), .log = guest_log,
					     .nr_evict_threads = 2, .nr_fault_threads = 3 };
	struct ts_tier_options tier = { .size = sizeof(tier), .name = "top", .store = "ram",
					.size_bytes = 4 * HUGE_BYTES, .codec = TS_CODEC_LZ4,
					.range_bytes = 16384, .wrap = race->wrap };

	alarm(300);
	race_catch_signals();
	guest_map_huge(&race->guest, 2);
	snprintf(race->guest.folder, sizeof(race->guest.folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(race->guest.folder) != NULL);
	CHECK_EQ(ts_engine_open(&options, &race->guest.engine), 0);
	CHECK_EQ(ts_engine_add_tier(race->guest.engine, &tier), 0);
	CHECK_EQ(ts_engine_start(race->guest.engine), 0);
	guest_attach(&race->guest, race->options);
}

static void close_race(struct race *race)
{
	race_check_quiet(race);
	guest_check_all(&race->guest);
	if (race->guest.region) {
		guest_evict(&race->guest, 2 * HUGE_BYTES, 0, true);
		race_check_quiet(race);
		guest_check_all(&race->guest);
	}
	guest_close(&race->guest);
	alarm(0);
}

static void do_evict_first(struct race *race)
{
	guest_evict(&race->guest, HUGE_BYTES, 0, true);
}

static void do_discard(struct race *race)
{
	CHECK_EQ(ts_region_discard(race->guest.region, 0, HUGE_BYTES), 0);
	CHECK_EQ(fallocate(race->guest.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			   HUGE_BYTES), 0);
	for (unsigned i = 0; i < UNIT; i++)
		race->guest.versions[i] = GUEST_ZEROED;
}

/* `act` happens between the reading of the unit and the last look: it stays, all of it. */
static void stays_after(race_fn act)
{
	static const int phases[] = { TS_PHASE_CLAIMED, TS_PHASE_TAKEN, TS_PHASE_PUT,
				      TS_PHASE_PUBLISHED };

	for (unsigned n = act == do_write_and_deactivate; n < TS_ARRAY_LEN(phases); n++) {
		struct race race = { 0 };
		struct actor evictor, actor;
		open_race(&race);
		do_deactivate(&race);
		ts_hook_park(phases[n]);
		actor_start_in(&race, do_evict_first, &evictor);
		race_wait(phases[n]);
		actor_start_in(&race, act, &actor);
		/* No window is open: it does not wait. */
		actor_join(&actor, "who touches a unit that is being stored");
		ts_hook_release(phases[n]);
		actor_join(&evictor, "the evictor");
		/* Touched before it was protected: that is no reason to stay. */
		CHECK_EQ(is_resident(&race.guest, 0), phases[n] != TS_PHASE_CLAIMED);
		CHECK_EQ(guest_stats(&race.guest)->nr_cancelled,
			 phases[n] == TS_PHASE_CLAIMED ? 0 : UNIT);
		close_race(&race);
	}
}

static void touched_after_it_was_read(void)
{
	NEED_HUGE(2);
	stays_after(do_read);
	stays_after(do_write);
	stays_after(do_write_and_deactivate);
}

/* Given up at any moment of its way out or back: zeros, and nobody sleeps. */
static void given_up_meanwhile(void)
{
	static const int out[] = { TS_PHASE_CLAIMED, TS_PHASE_TAKEN, TS_PHASE_PUT,
				   TS_PHASE_PUBLISHED, TS_PHASE_WINDOW, TS_PHASE_RELEASED };
	static const int back[] = { TS_PHASE_FAULT_CLAIMED, TS_PHASE_FAULT_GOT };

	NEED_HUGE(2);
	for (unsigned n = 0; n < TS_ARRAY_LEN(out) + TS_ARRAY_LEN(back); n++) {
		bool is_out = n < TS_ARRAY_LEN(out);
		int phase = is_out ? out[n] : back[n - TS_ARRAY_LEN(out)];
		struct race race = { 0 };
		struct actor parked, reader;
		open_race(&race);
		if (!is_out)
			do_evict_first(&race);
		ts_hook_park(phase);
		actor_start_in(&race, is_out ? do_evict_first : do_peek, &parked);
		race_wait(phase);
		do_discard(&race);
		actor_start_in(&race, do_peek, &reader);
		bool is_back = !actor_try_join(&reader, 20);
		ts_hook_release(phase);
		actor_join(&parked, "the evictor, or the first reader");
		if (!is_back)
			actor_join(&reader, "a reader");
		close_race(&race);
	}
}

static void do_read_second(struct race *race)
{
	CHECK(guest_is_right(&race->guest, UNIT + 40, 0));
}

/* In a window who touches what is about to leave waits for its end, and others are answered. */
static void faults_in_a_window(void)
{
	struct race race = { 0 };
	struct actor evictor, other, reader, writer;

	NEED_HUGE(2);
	open_race(&race);
	do_deactivate(&race);
	ts_hook_park(TS_PHASE_WINDOW);
	actor_start_in(&race, do_evict_first, &evictor);
	race_wait(TS_PHASE_WINDOW);
	actor_start_in(&race, do_read_second, &other);
	actor_join(&other, "who touches another unit");
	WAIT_FOR(guest_stats(&race.guest)->nr_faults_guard == 1);
	actor_start_in(&race, do_peek, &reader);
	actor_start_in(&race, do_write, &writer);
	CHECK_EQ(actor_try_join(&writer, 50), ETIMEDOUT);
	ts_hook_release(TS_PHASE_WINDOW);
	actor_join(&evictor, "the evictor");
	actor_join(&reader, "who reads it");
	actor_join(&writer, "who writes to it");
	CHECK_EQ(guest_stats(&race.guest)->stages[TS_STAGE_WINDOW].count, 1);
	close_race(&race);
}

/* In the page cache, not mapped: leaves without a window, unless it is touched. */
static void unmapped_units(void)
{
	static const int phases[] = { TS_PHASE_TAKEN, TS_PHASE_PUBLISHED };

	NEED_HUGE(2);
	for (unsigned n = 0; n < 3; n++) {
		struct race race = { 0 };
		struct actor evictor, reader;
		open_race(&race);
		CHECK_EQ(madvise(race.guest.mem, HUGE_BYTES, MADV_DONTNEED), 0);
		if (n < 2)
			ts_hook_park(phases[n]);
		actor_start_in(&race, do_evict_first, &evictor);
		if (n < 2) {
			race_wait(phases[n]);
			actor_start_in(&race, do_read, &reader);
			/* Published: it waits until the evictor is done. */
			if (n == 0)
				actor_join(&reader, "who touches a unit that is not mapped");
			ts_hook_release(phases[n]);
			if (n == 1)
				actor_join(&reader, "who touches a unit that is leaving");
		}
		actor_join(&evictor, "the evictor");
		CHECK_EQ(guest_stats(&race.guest)->stages[TS_STAGE_WINDOW].count, 0);
		CHECK_EQ(guest_stats(&race.guest)->nr_evicted, n == 0 ? 0 : UNIT);
		close_race(&race);
	}
}

/* ---- Trouble ---------------------------------------------------------------------------- */

/* Somebody else has all that was free: who needs a unit waits until there is one. */
static void no_free_page(void)
{
	struct race race = { .expects_failures = true };
	struct actor readers[2];

	NEED_HUGE(2);
	open_race(&race);
	do_deactivate(&race);
	guest_evict(&race.guest, 2 * HUGE_BYTES, 0, true);
	CHECK_EQ(nr_cached(&race.guest), 0);
	long nr_free = huge_nr_free();
	CHECK(nr_free >= 2);
	size_t len = (size_t)nr_free * HUGE_BYTES;
	char *taken = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	CHECK(taken != MAP_FAILED);
	memset(taken, 1, len);
	actor_start_in(&race, do_read, &readers[0]);
	actor_start_in(&race, do_read_second, &readers[1]);
	WAIT_FOR(guest_stats(&race.guest)->failures[TS_FAIL_INSTALL] > 0);
	CHECK_EQ(actor_try_join(&readers[0], 300), ETIMEDOUT);
	CHECK_EQ(guest_stats(&race.guest)->failures[TS_FAIL_INSTALL], 1);
	/* A prefetch does not wait. */
	CHECK_EQ(ts_region_prefetch(race.guest.region, 0, HUGE_BYTES), -ENOMEM);
	CHECK(strstr(ts_last_error(), "huge page") != NULL);
	CHECK_EQ(munmap(taken, len), 0);
	actor_join(&readers[0], "a reader");
	actor_join(&readers[1], "another");
	close_race(&race);
}

/* A frame that can't be read back costs its unit, and nothing else. */
static void corrupt(void)
{
	struct race race = { .expects_failures = true, .wrap = "fault:get=1,nth=1,error=corrupt" };

	NEED_HUGE(2);
	open_race(&race);
	guest_evict(&race.guest, 2 * HUGE_BYTES, 0, true);
	CHECK_EQ(race_peek(race_addr(&race)), SIGBUS);
	struct ts_stats *stats = guest_stats(&race.guest);
	CHECK_EQ(stats->failures[TS_FAIL_CORRUPT], 1);
	CHECK_EQ(stats->failures[TS_FAIL_POISONED], UNIT);
	WAIT_FOR(guest_stats(&race.guest)->nr_gone == UNIT);
	for (unsigned i = 0; i < UNIT; i++)
		race.guest.versions[i] = GUEST_UNMAPPED;
	close_race(&race);
}

CHECK_MAIN({ "cold_is_the_complement", cold_is_the_complement }, { "out_and_back", out_and_back },
	   { "unchanged_is_not_stored_again", unchanged_is_not_stored_again },
	   { "holes", holes }, { "touched_after_it_was_read", touched_after_it_was_read },
	   { "given_up_meanwhile", given_up_meanwhile },
	   { "faults_in_a_window", faults_in_a_window }, { "unmapped_units", unmapped_units },
	   { "no_free_page", no_free_page }, { "corrupt", corrupt })
