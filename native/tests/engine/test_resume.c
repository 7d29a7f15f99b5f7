/* SPDX-License-Identifier: Apache-2.0
 * test_resume.c — a process with an engine dies at each named moment, and at random ones; the next
 * process takes over its state folder, its tiers and the guest's memfd, and every page is right. */
#include <errno.h>

#include <fcntl.h>
#include <tierstore/store.h>

#include "engine/state.h"
#include "resume.h"
#include "util/base.h"
#include "util/limits.h"

enum { NR_PAGES = 1536, RANDOM_PAGES = 6000, RANDOM_DEATHS = 10, WAIT_MS = 20000 };

/* ---- Named moments ----------------------------------------------------------------------- */

static void *evict_all(void *arg)
{
	struct guest *guest = arg;

	guest_evict(guest, guest->nr_pages * GUEST_PAGE, 0, true);
	return NULL;
}

static void *touch_last(void *arg)
{
	struct guest *guest = arg;
	uint64_t page = guest->nr_pages - 1;

	/* Nobody else is at it, and it may never be finished. */
	atomic_fetch_or(&guest->versions[page], RESUME_LOCKED);
	guest_fill(guest, page, (atomic_load(&guest->versions[page]) & ~RESUME_LOCKED) + 1);
	return NULL;
}

static bool is_on_the_way_back(int phase)
{
	return phase == TS_PHASE_FAULT_CLAIMED || phase == TS_PHASE_FAULT_GOT ||
	       phase == TS_PHASE_INSTALLED;
}

static void die_at(struct guest *guest, int phase)
{
	pthread_t thread;

	resume_open(guest, phase == TS_PHASE_DEMOTE ? 100 : 0);
	resume_attach(guest);
	/* Some have been away and came back with their copies kept; some will be LEAVING. */
	guest_evict(guest, guest->nr_pages * GUEST_PAGE / 2, 0, true);
	for (uint64_t page = 0; page < guest->nr_pages; page += 7)
		CHECK(guest_is_right(guest, page, atomic_load(&guest->versions[page]) &
				     ~RESUME_LOCKED));
	if (is_on_the_way_back(phase))
		evict_all(guest);
	ts_hook_park(phase);
	CHECK_EQ(pthread_create(&thread, NULL, is_on_the_way_back(phase) ? touch_last : evict_all,
				guest), 0);
	CHECK_EQ(ts_hook_wait(phase, WAIT_MS), 0);
	resume_die();
}

/* What another process finds; it evicts, brings back, and ends in order. */
static void go_on(struct guest *guest, int is_last)
{
	resume_open(guest, 0);
	resume_attach(guest);
	struct ts_stats *stats = guest_stats(guest);
	CHECK_EQ(stats->nr_leaving + stats->nr_coming, 0);
	resume_check_all(guest);
	CHECK(guest_evict(guest, guest->nr_pages * GUEST_PAGE, 0, true).nr_evicted > 0);
	resume_check_all(guest);
	guest_evict(guest, guest->nr_pages * GUEST_PAGE, 0, true);
	stats = guest_stats(guest);
	for (unsigned i = 0; i < TS_FAIL_COUNT; i++)
		CHECK_EQ(stats->failures[i], 0);
	if (!is_last)
		resume_die();
	CHECK_EQ(ts_region_detach(guest->region), 0);
	ts_engine_close(guest->engine);
}

static void test_each_moment(void)
{
	static const int phases[] = {
		TS_PHASE_CLAIMED, TS_PHASE_TAKEN, TS_PHASE_PUT, TS_PHASE_PUBLISHED,
		TS_PHASE_RELEASED, TS_PHASE_FAULT_CLAIMED, TS_PHASE_FAULT_GOT, TS_PHASE_INSTALLED,
		TS_PHASE_DEMOTE,
	};

	for (size_t i = 0; i < TS_ARRAY_LEN(phases); i++) {
		struct guest guest = { 0 };

		resume_guest_make(&guest, NR_PAGES);
		CHECK_EQ(resume_child(&guest, die_at, phases[i]), SIGKILL);
		CHECK_EQ(resume_child(&guest, go_on, 0), SIGKILL);
		CHECK_EQ(resume_child(&guest, go_on, 1), 0);
		guest_check_all(&guest);
		resume_guest_end(&guest);
	}
}

/* ---- Random moments ---------------------------------------------------------------------- */

static void *evict_on(void *arg)
{
	struct guest *guest = arg;

	for (;;)
		guest_evict(guest, guest->nr_pages * GUEST_PAGE / 4, 0, true);
	return NULL;
}

/* In shared memory: touches of all children. */
static _Atomic uint64_t *nr_touched;

static void *touch_on(void *arg)
{
	struct guest *guest = arg;
	uint64_t state = (uintptr_t)&state ^ (uint64_t)getpid() << 32;

	while (!atomic_load(&guest->nr_wrong)) {
		guest_touch(guest, guest_mix(state += UINT64_C(0x9e3779b97f4a7c15)));
		atomic_fetch_add(nr_touched, 1);
	}
	_exit(3);
}

static void run_until_killed(struct guest *guest, int arg)
{
	pthread_t threads[3];

	(void)arg;
	resume_open(guest, 200);
	resume_attach(guest);
	resume_check_all(guest);
	CHECK_EQ(pthread_create(&threads[0], NULL, evict_on, guest), 0);
	CHECK_EQ(pthread_create(&threads[1], NULL, touch_on, guest), 0);
	CHECK_EQ(pthread_create(&threads[2], NULL, touch_on, guest), 0);
	pthread_join(threads[0], NULL);
}

static void kill_at_random(struct guest *guest, uint64_t nr_more)
{
	uint64_t until = atomic_load(nr_touched) + nr_more;
	int status = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		resume_guest_map(guest);
		run_until_killed(guest, 0);
		_exit(2);
	}
	for (unsigned ms = 0; atomic_load(nr_touched) < until; ms++) {
		CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
		CHECK(ms < 60000);
		usleep(1000);
	}
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, SIGKILL);
}

static void test_random_moments(void)
{
	const char *deaths = getenv("TIERSTORE_TEST_DEATHS");
	unsigned long nr_deaths = deaths ? strtoul(deaths, NULL, 10) : RANDOM_DEATHS;
	struct guest guest = { 0 };
	uint64_t state = 1;

	nr_touched = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(nr_touched != MAP_FAILED);
	resume_guest_make(&guest, RANDOM_PAGES);
	for (unsigned long i = 0; i < nr_deaths; i++) {
		state = guest_mix(state + i);
		kill_at_random(&guest, 500 + state % 4000);
	}
	CHECK_EQ(resume_child(&guest, go_on, 1), 0);
	guest_check_all(&guest);
	resume_guest_end(&guest);
}

/* ---- Refusals ---------------------------------------------------------------------------- */

static void evict_and_die(struct guest *guest, int arg)
{
	(void)arg;
	resume_open(guest, 0);
	resume_attach(guest);
	evict_all(guest);
	resume_die();
}

static void expect(int rc, int want, const char *text)
{
	if (rc != want || !strstr(ts_last_error(), text))
		fprintf(stderr, "%s, \"%s\"; wanted \"%s\"\n", ts_strerror(rc),
			ts_last_error(), text);
	CHECK_EQ(rc, want);
	CHECK(strstr(ts_last_error(), text) != NULL);
}

static int try_persistent(struct guest *guest, const char *name, uint64_t nr_pages)
{
	uint64_t all = guest->nr_pages;

	guest->nr_pages = nr_pages;
	int rc = guest_try_attach(guest, (struct ts_region_options){ .name = name,
								     .is_persistent = 1 });
	guest->nr_pages = all;
	return rc;
}

/* Memory that has pages in a state folder is attached with that, or not at all. */
static void attach_wrongly(struct guest *guest, int arg)
{
	struct guest other = { 0 };

	(void)arg;
	resume_open(guest, 0);
	expect(try_persistent(guest, "vm", guest->nr_pages - 512), TS_ESTATE, "ranges");
	expect(try_persistent(guest, "another", guest->nr_pages), TS_ESTATE, "zeros");
	expect(guest_try_attach(guest, (struct ts_region_options){ .name = "vm" }), TS_ESTATE,
	       "zeros");
	/* The right name, but the memory is that of another guest. */
	guest_map(&other, guest->nr_pages, true);
	other.engine = guest->engine;
	expect(try_persistent(&other, "vm", guest->nr_pages), TS_ESTATE, "not the memory");
	guest_unmap(&other);
	CHECK_EQ(resume_try_open(guest, "state"), TS_ELOCKED);
}

/* Another folder, made anew: the stores refuse, and so does the memory. */
static void open_elsewhere(struct guest *guest, int arg)
{
	(void)arg;
	CHECK_EQ(resume_try_open(guest, "elsewhere"), 0);
	expect(resume_add_tiers(guest, 0), TS_EWRONGFILE, "state folder");
	ts_engine_close(guest->engine);
	CHECK_EQ(resume_try_open(guest, "elsewhere"), 0);
	CHECK_EQ(guest_add_tier(guest, "new", "file", guest_path(guest, "new"), 32 << 20,
				TS_CODEC_LZ4, 4096, NULL), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	expect(try_persistent(guest, "vm", guest->nr_pages), TS_ESTATE, "zeros");
	expect(guest_add_tier(guest, "more", "ram", NULL, 1 << 20, 0, 0, NULL), TS_ESTATE,
	       "started");
	ts_engine_close(guest->engine);
}

/* The folder, with tiers that are not those it was written with. */
static void open_with_other_tiers(struct guest *guest, int arg)
{
	(void)arg;
	CHECK_EQ(resume_try_open(guest, "state"), 0);
	expect(guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"), 32 << 20,
			      TS_CODEC_LZ4, 4096, NULL), TS_ESTATE, "name");
	expect(guest_add_tier(guest, "cool", "ram", NULL, 32 << 20, TS_CODEC_LZ4, 4096, NULL),
	       TS_ESTATE, "store");
	expect(guest_add_tier(guest, "cool", "lmdb", guest_path(guest, "other"), 32 << 20,
			      TS_CODEC_LZ4, 4096, NULL), TS_ESTATE, "path");
	ts_engine_close(guest->engine);
	CHECK_EQ(resume_try_open(guest, "state"), 0);
	CHECK_EQ(guest_add_tier(guest, "cool", "lmdb", guest_path(guest, "cool"),
				guest->nr_pages * GUEST_PAGE + (8 << 20), TS_CODEC_LZ4, 4096, NULL),
		 0);
	expect(ts_engine_start(guest->engine), TS_ESTATE, "cold");
	ts_engine_close(guest->engine);
}

/* A store that has lost frames: the guest that needs them is refused. */
static void lose_frames(struct guest *guest, int arg)
{
	struct ts_store_config config = {
		.size = sizeof(config), .name = "cool", .path = guest_path(guest, "cool"),
		.size_bytes = guest->nr_pages * GUEST_PAGE + (8 << 20), .frame_max_bytes = 70000,
		.key_max = TS_KEY_MAX, .batch_max = 256, .reader_max = 4, .depth_max = 4,
		.state_path = "/nowhere", .is_resume = 1,
	};
	struct ts_store *store = NULL;

	(void)arg;
	CHECK_EQ(ts_store_open("lmdb", NULL, "", &config, &store), 0);
	for (uint64_t key = 1; key < 4 * NR_PAGES; key += 100)
		CHECK_EQ(ts_store_del(store, &key, 1), 0);
	ts_store_close(store);
	resume_open(guest, 0);
	expect(try_persistent(guest, "vm", guest->nr_pages), TS_ECORRUPT, "in no store");
	ts_engine_close(guest->engine);
}

static void write_state(struct guest *guest, const char *name, off_t offset, uint64_t junk)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", guest_path(guest, "state"), name);
	int fd = open(path, O_WRONLY);
	CHECK(fd >= 0);
	CHECK_EQ(pwrite(fd, &junk, sizeof(junk), offset), (long long)sizeof(junk));
	close(fd);
}

static void corrupt(struct guest *guest, const char *name, off_t offset)
{
	/* Two words: AWAY, in no frame that there is. */
	write_state(guest, name, offset, 0xffffffe2ffffffe2);
}

static void open_damaged(struct guest *guest, int arg)
{
	(void)arg;
	/* The words of two pages: frames that there are not. */
	corrupt(guest, "region-00000001", 4096 + 64);
	resume_open(guest, 0);
	expect(try_persistent(guest, "vm", guest->nr_pages), TS_ECORRUPT, "trusted");
	ts_engine_close(guest->engine);
	corrupt(guest, "engine", 16);
	expect(resume_try_open(guest, "state"), TS_ECORRUPT, "damaged");
}

static void test_refusals(void)
{
	struct guest guest = { 0 };

	resume_guest_make(&guest, NR_PAGES);
	CHECK_EQ(resume_child(&guest, evict_and_die, 0), SIGKILL);
	CHECK_EQ(resume_child(&guest, attach_wrongly, 0), 0);
	CHECK_EQ(resume_child(&guest, open_elsewhere, 0), 0);
	CHECK_EQ(resume_child(&guest, open_with_other_tiers, 0), 0);
	/* After all that, nothing is lost. */
	CHECK_EQ(resume_child(&guest, go_on, 0), SIGKILL);
	CHECK_EQ(resume_child(&guest, lose_frames, 0), 0);
	CHECK_EQ(resume_child(&guest, open_damaged, 0), 0);
	resume_guest_end(&guest);
}

/* A process that takes a tier over with other settings writes its record anew, and may die in the
 * midst of that: the sizes are new, or half of them, and the checksum is still the old one. */
static void test_torn_tier(void)
{
	const off_t tiers_at = (off_t)offsetof(struct ts_state_head, tiers);
	struct guest guest = { 0 };

	resume_guest_make(&guest, NR_PAGES);
	CHECK_EQ(resume_child(&guest, evict_and_die, 0), SIGKILL);
	for (unsigned tier = 0; tier < 2; tier++)
		write_state(&guest, "engine", tiers_at +
			    (off_t)(tier * sizeof(struct ts_state_tier) +
				    offsetof(struct ts_state_tier, range_pages)), tier);
	CHECK_EQ(resume_child(&guest, go_on, 0), SIGKILL);
	CHECK_EQ(resume_child(&guest, go_on, 0), SIGKILL);
	CHECK_EQ(resume_child(&guest, go_on, 1), 0);
	resume_guest_end(&guest);
}

/* Frames in a store that can't outlive its process are refused when the tier is opened. */
static void test_ram_is_refused(void)
{
	struct guest guest = { 0 };

	resume_guest_make(&guest, NR_PAGES);
	CHECK_EQ(resume_try_open(&guest, "state"), 0);
	expect(guest_add_tier(&guest, "warm", "ram", NULL, 32 << 20, TS_CODEC_LZ4, 4096, NULL),
	       TS_EUNSUPPORTED, "tmpfs");
	ts_engine_close(guest.engine);
	resume_guest_end(&guest);
}

CHECK_MAIN({ "each_moment", test_each_moment }, { "random_moments", test_random_moments },
	   { "refusals", test_refusals }, { "torn_tier", test_torn_tier },
	   { "ram_is_refused", test_ram_is_refused })
