/* SPDX-License-Identifier: Apache-2.0
 *
 * race.h — a small guest, barriers, and threads that must come back: what the tests of races share.
 *
 * A test parks one thread of the engine at a phase (util/hook.h), lets other threads act, releases
 * the first and then asks: is everybody back, is every page what the guest last made of it, do the
 * statistics add up?  A thread that is not back within seconds is asleep for ever: a failure.
 */
#ifndef TS_TESTS_RACE_H
#define TS_TESTS_RACE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "../guest.h"
#include "util/hook.h"

enum {
	RACE_PAGES = 64,
	RACE_PAGE = 21,   /* text-like; its neighbours up to + 3, too */
	RACE_SPAN = 4,    /* pages that are given up, unmapped, moved */
	RACE_VERSION = 7, /* what writers write */
	RACE_WAIT_MS = 30000, /* seconds are short under emulation and load */
};

struct race {
	struct guest guest;
	struct ts_region_options options;
	uint32_t demote_after_ms;  /* not 0: a second tier, and frames go there after this long */
	const char *wrap, *low_wrap; /* of the tiers; with low_wrap there is a second tier */
	bool expects_failures;       /* statistics may count some */
	unsigned nr_fault_threads;   /* 0: 3, all of them waiting */
};

typedef void (*race_fn)(struct race *race);

/* A thread that does one thing. */
struct actor {
	struct race *race;
	race_fn fn;
	pthread_t thread;
};

static inline void *actor_run(void *arg)
{
	struct actor *actor = arg;

	actor->fn(actor->race);
	return NULL;
}

static inline struct actor actor_start_in(struct race *race, race_fn fn, struct actor *actor)
{
	*actor = (struct actor){ .race = race, .fn = fn };
	CHECK_EQ(pthread_create(&actor->thread, NULL, actor_run, actor), 0);
	return *actor;
}

static inline int actor_try_join(struct actor *actor, int wait_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return pthread_timedjoin_np(actor->thread, NULL, &until);
}

static inline void actor_join(struct actor *actor, const char *who)
{
	int rc = actor_try_join(actor, RACE_WAIT_MS);

	if (rc) {
		fprintf(stderr, "%s: does not come back: %s\n", who, strerror(rc));
		abort();
	}
}

/* ---- Signals ---------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf race_escape;
static _Thread_local volatile sig_atomic_t race_may_escape;

static inline void race_on_signal(int signal)
{
	if (race_may_escape)
		siglongjmp(race_escape, signal);
	abort();
}

static inline void race_catch_signals(void)
{
	struct sigaction action = { .sa_handler = race_on_signal, .sa_flags = SA_NODEFER };
	static bool is_done;

	/* Once: a handler that the engine installs later has to stay before ours. */
	if (is_done)
		return;
	is_done = true;
	CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
	CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
}

/* A guest's own races are its own business: it may look while it writes. */
__attribute__((noinline, no_sanitize("thread"))) static unsigned char
race_load(const volatile unsigned char *addr)
{
	return *addr;
}

/* Reads one byte; the signal that it cost, or 0. */
static inline int race_peek(const unsigned char *addr)
{
	int signal = sigsetjmp(race_escape, 1);

	if (!signal) {
		race_may_escape = 1;
		(void)race_load(addr);
	}
	race_may_escape = 0;
	return signal;
}

/* ---- What actors do --------------------------------------------------------------------- */

static inline unsigned char *race_addr(struct race *race)
{
	return race->guest.mem + (size_t)RACE_PAGE * GUEST_PAGE;
}

static inline void do_read(struct race *race)
{
	CHECK(guest_is_right(&race->guest, RACE_PAGE,
			     atomic_load(&race->guest.versions[RACE_PAGE])));
}

static inline void do_write(struct race *race)
{
	guest_fill(&race->guest, RACE_PAGE, RACE_VERSION);
	atomic_store(&race->guest.versions[RACE_PAGE], RACE_VERSION);
}

static inline void do_deactivate(struct race *race)
{
	CHECK_EQ(ts_region_deactivate(race->guest.region), 0);
}

static inline void do_write_and_deactivate(struct race *race)
{
	do_write(race);
	do_deactivate(race);
}

/* A touch of the page that may be anything, or nothing, by now. */
static inline void do_peek(struct race *race)
{
	(void)race_peek(race_addr(race));
}

static inline void do_evict(struct race *race)
{
	struct ts_evict_result result =
		guest_evict(&race->guest, RACE_PAGES * GUEST_PAGE, 0, true);

	CHECK_EQ(result.nr_claimed, result.nr_evicted + result.nr_cancelled + result.nr_failed +
					    result.nr_probation);
}

static inline void race_punch(struct race *race, unsigned nr_pages)
{
	CHECK_EQ(fallocate(race->guest.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)RACE_PAGE * GUEST_PAGE, (off_t)nr_pages * GUEST_PAGE), 0);
}

static inline void race_discard(struct race *race, unsigned nr_pages)
{
	if (race->guest.region)
		CHECK_EQ(ts_region_discard(race->guest.region, (uint64_t)RACE_PAGE * GUEST_PAGE,
					   (uint64_t)nr_pages * GUEST_PAGE), 0);
}

/* A memfd's discard comes first, for others may touch the pages meanwhile: between a punch and the
 * discard that follows it what is stored still comes back (test_race_fault.c). */
static inline void race_give_up(struct race *race)
{
	if (race->guest.memfd < 0) {
		CHECK_EQ(madvise(race_addr(race), RACE_SPAN * GUEST_PAGE, MADV_DONTNEED), 0);
		return;
	}
	race_discard(race, RACE_SPAN);
	race_punch(race, RACE_SPAN);
}

/* Pages that were given up are used again at once: zeros, and what is written then stays. */
static inline void race_use_again(struct race *race)
{
	for (unsigned i = 0; i < RACE_SPAN; i++)
		atomic_store(&race->guest.versions[RACE_PAGE + i], GUEST_ZEROED);
	do_read(race);
	CHECK(guest_is_right(&race->guest, RACE_PAGE + 1, GUEST_ZEROED));
	do_write(race);
	guest_fill(&race->guest, RACE_PAGE + 2, RACE_VERSION);
	atomic_store(&race->guest.versions[RACE_PAGE + 2], RACE_VERSION);
}

static inline void do_balloon(struct race *race)
{
	race_give_up(race);
	race_use_again(race);
}

/* The other order, which is as good where nobody touches the pages in between. */
static inline void do_balloon_punch_first(struct race *race)
{
	if (race->guest.memfd < 0) {
		do_balloon(race);
		return;
	}
	race_punch(race, RACE_SPAN);
	race_discard(race, RACE_SPAN);
	race_use_again(race);
}

static inline void do_unmap(struct race *race)
{
	CHECK_EQ(munmap(race_addr(race), RACE_SPAN * GUEST_PAGE), 0);
	for (unsigned i = 0; i < RACE_SPAN; i++)
		atomic_store(&race->guest.versions[RACE_PAGE + i], GUEST_UNMAPPED);
}

/* Away, looked at there, and back. */
static inline void do_move(struct race *race)
{
	size_t len = RACE_SPAN * GUEST_PAGE;
	unsigned char *at = race_addr(race), *there;

	there = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(there != MAP_FAILED);
	CHECK(mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there);
	for (unsigned i = 0; i < RACE_SPAN; i++)
		CHECK_EQ(*(const uint64_t *)(there + (size_t)i * GUEST_PAGE),
			 guest_word(RACE_PAGE + i, 0, 0));
	CHECK(mremap(there, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at);
}

static inline void do_prefetch(struct race *race)
{
	CHECK_EQ(ts_region_prefetch(race->guest.region, 0, RACE_PAGES * GUEST_PAGE), 0);
}

static inline void do_detach(struct race *race)
{
	CHECK_EQ(ts_region_detach(race->guest.region), 0);
	race->guest.region = NULL;
}

/* ---- The frame of a test ---------------------------------------------------------------- */

static inline void race_add_tiers(struct race *race)
{
	struct ts_tier_options tier = {
		.size = sizeof(tier), .name = "top", .store = "ram", .size_bytes = 4 << 20,
		.codec = TS_CODEC_LZ4, .range_bytes = 16384,
		.demote_after_ms = race->demote_after_ms, .wrap = race->wrap,
	};

	CHECK_EQ(ts_engine_add_tier(race->guest.engine, &tier), 0);
	if (!race->demote_after_ms && !race->low_wrap)
		return;
	tier.wrap = race->low_wrap;
	tier.name = "low";
	tier.demote_after_ms = 0;
	tier.range_bytes = 65536;
	CHECK_EQ(ts_engine_add_tier(race->guest.engine, &tier), 1);
}

static inline void race_open(struct race *race, int is_memfd)
{
	struct ts_engine_options options = { .size = sizeof(options), .log = guest_log,
					     .nr_evict_threads = 2,
					     .staging_bytes = 8 << 20 };
	struct guest *guest = &race->guest;

	alarm(120);
	race_catch_signals();
	options.nr_fault_threads = race->nr_fault_threads ? race->nr_fault_threads : 3;
	ts_hook_set_knob(TS_KNOB_FAULT_THREADS, options.nr_fault_threads);
	guest_map(guest, RACE_PAGES, is_memfd);
	snprintf(guest->folder, sizeof(guest->folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(guest->folder) != NULL);
	CHECK_EQ(ts_engine_open(&options, &guest->engine), 0);
	race_add_tiers(race);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, race->options);
}

static inline bool race_is_quiet(struct race *race, const struct ts_stats *stats)
{
	uint64_t nr_in_tiers = 0;

	for (unsigned t = 0; t < stats->nr_tiers; t++)
		nr_in_tiers += stats->tiers[t].nr_pages;
	return stats->nr_leaving + stats->nr_coming == 0 && nr_in_tiers == stats->nr_away &&
	       stats->nr_resident + stats->nr_away + stats->nr_zero + stats->nr_filled +
			       stats->nr_gone == race->guest.nr_pages;
}

/* Nobody is at work: every page has one of the states in which it may rest.  A waiter is awake a
 * moment before its handler has written that down. */
static inline void race_check_quiet(struct race *race)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	if (!race->guest.region)
		return;
	struct ts_stats *stats = guest_stats(&race->guest);
	for (unsigned n = 0; !race_is_quiet(race, stats) && n < RACE_WAIT_MS; n++) {
		nanosleep(&pause, NULL);
		stats = guest_stats(&race->guest);
	}
	CHECK_EQ(stats->nr_leaving, 0);
	CHECK_EQ(stats->nr_coming, 0);
	CHECK(race_is_quiet(race, stats));
	/* While an event is queued no page can be taken: that is no trouble. */
	for (unsigned i = 0; i < TS_FAIL_COUNT && !race->expects_failures; i++)
		if (i != TS_FAIL_TAKE)
			CHECK_EQ(stats->failures[i], 0);
}

/* Everything must still be right, stay right through another eviction, and after the end. */
static inline void race_close(struct race *race)
{
	race_check_quiet(race);
	guest_check_all(&race->guest);
	if (race->guest.region) {
		do_evict(race);
		guest_check_all(&race->guest);
		race_check_quiet(race);
		do_evict(race);
	}
	guest_close(&race->guest);
	alarm(0);
}

static inline void race_wait(int phase)
{
	if (ts_hook_wait(phase, RACE_WAIT_MS)) {
		fprintf(stderr, "phase %d is never reached\n", phase);
		abort();
	}
}

/* `first` runs into the phase and is parked there; the others act meanwhile.  They get a moment to
 * finish, which many can't before the release; who can't has at least begun. */
static inline void race_run(struct race *race, int phase, race_fn first, const race_fn *others,
			    unsigned nr_others)
{
	struct actor actors[5];

	ts_hook_park(phase);
	actor_start_in(race, first, &actors[0]);
	race_wait(phase);
	unsigned is_back = 0;
	for (unsigned i = 1; i <= nr_others; i++) {
		actor_start_in(race, others[i - 1], &actors[i]);
		is_back |= (unsigned)!actor_try_join(&actors[i], 15) << i;
	}
	ts_hook_release(phase);
	for (unsigned i = 0; i <= nr_others; i++)
		if (!(is_back >> i & 1))
			actor_join(&actors[i], i ? "an actor" : "the parked one");
}

/* The same with one other who needs nothing of the parked one, and is back before the release. */
static inline void race_run_meanwhile(struct race *race, int phase, race_fn first, race_fn other)
{
	struct actor parked, actor;

	ts_hook_park(phase);
	actor_start_in(race, first, &parked);
	race_wait(phase);
	actor_start_in(race, other, &actor);
	actor_join(&actor, "who needs nothing of the parked one");
	ts_hook_release(phase);
	actor_join(&parked, "the parked one");
}

#endif
