/* SPDX-License-Identifier: Apache-2.0
 *
 * nth.h — "fail the Nth call": one bounded life of an engine that goes through every kind of call,
 * and what must be true after it, whatever failed on the way.
 */
#ifndef TS_TESTS_NTH_H
#define TS_TESTS_NTH_H

#include <dirent.h>

#include "race.h"

enum { NTH_PAGES = 64 };

struct nth {
	bool is_memfd, is_ladder;
	uint64_t sites;
	int error;
	bool is_sticky;   /* everything fails from the Nth on, until it has for a while */
	unsigned dense;   /* up to here every N, then in strides of a fifth */
	const char *name;
};

#define NTH_SITE(site) (UINT64_C(1) << TS_SITE_##site)

static inline unsigned nth_count_dir(const char *path)
{
	unsigned nr_entries = 0;
	DIR *dir = opendir(path);

	CHECK(dir != NULL);
	while (readdir(dir))
		nr_entries++;
	closedir(dir);
	return nr_entries;
}

/* Is a userfaultfd registered anywhere in the guest's memory? */
static inline bool nth_is_registered(const struct guest *guest)
{
	unsigned long start, end, from = (uintptr_t)guest->mem;
	unsigned long to = from + guest->nr_pages * GUEST_PAGE;
	bool is_inside = false, is_registered = false;
	char line[512];
	FILE *smaps = fopen("/proc/self/smaps", "re");

	CHECK(smaps != NULL);
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			is_inside = start < to && from < end;
		else if (is_inside && !strncmp(line, "VmFlags:", 8))
			is_registered |= strstr(line, " um") || strstr(line, " uw");
	}
	fclose(smaps);
	return is_registered;
}

static inline int nth_start(struct guest *guest, bool is_ladder)
{
	struct ts_engine_options options = { .size = sizeof(options), .nr_fault_threads = 2,
					     .nr_evict_threads = 1, .staging_bytes = 2 << 20 };
	int rc = ts_engine_open(&options, &guest->engine);

	/* Every tier has to pass some frames on. */
	const char *wrap = is_ladder ? "fault:put=0.1,error=full" : NULL;
	if (!rc)
		rc = guest_add_tier(guest, "warm", "ram", NULL, 1 << 20, TS_CODEC_LZ4, 4096, wrap);
	if (rc >= 0 && is_ladder)
		rc = guest_add_tier(guest, "mid", "lmdb", guest_path(guest, "mid"), 1 << 20,
				    TS_CODEC_ZSTD, 16384, wrap);
	if (rc >= 0 && is_ladder)
		rc = guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"), 32 << 20,
				    TS_CODEC_RAW, 65536, NULL);
	return rc < 0 ? rc : ts_engine_start(guest->engine);
}

/* Verbs may fail; pages may not. */
static inline void nth_work(struct guest *guest)
{
	struct ts_evict_options options = { .size = sizeof(options),
					    .bytes_max = NTH_PAGES * GUEST_PAGE,
					    .no_probation = 1 };
	struct ts_evict_result result = { .size = sizeof(result) };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	(void)ts_region_evict(guest->region, &options, &result);
	guest_check_all(guest);
	for (uint32_t page = 0; page < NTH_PAGES; page += 5) {
		guest_fill(guest, page, 1);
		atomic_store(&guest->versions[page], 1);
	}
	(void)ts_region_deactivate(guest->region);
	(void)ts_region_scan(guest->region, &scan);
	(void)ts_region_evict(guest->region, &options, &result);
	for (uint32_t page = 0; page < NTH_PAGES; page += 7) {
		guest_fill(guest, page, 2);
		atomic_store(&guest->versions[page], 2);
	}
	if (guest->memfd < 0) {
		CHECK_EQ(madvise(guest->mem + 40 * GUEST_PAGE, GUEST_PAGE, MADV_DONTNEED), 0);
		atomic_store(&guest->versions[40], GUEST_ZEROED);
	}
	(void)ts_region_prefetch(guest->region, 0, 16 * GUEST_PAGE);
	guest_check_all(guest);
	(void)ts_region_evict(guest->region, &options, &result);
}

/* Did it get as far as to work? */
static inline bool nth_live(struct guest *guest, bool is_ladder)
{
	int rc = nth_start(guest, is_ladder);

	if (!rc)
		rc = guest_try_attach(guest, (struct ts_region_options){ 0 });
	if (rc) {
		CHECK(ts_last_error()[0] != 0);
		CHECK(!nth_is_registered(guest));
	} else {
		nth_work(guest);
		CHECK_EQ(ts_region_detach(guest->region), 0);
		CHECK(!nth_is_registered(guest));
	}
	ts_engine_close(guest->engine);
	guest->engine = NULL;
	return !rc;
}

/* Ends a failure that lasts, once it has been met so often or for so long. */
static inline void *nth_release(void *arg)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	atomic_bool *is_over = arg;
	uint64_t nr_failed = 0;

	for (unsigned n = 0; n < 60 && !atomic_load(is_over) && nr_failed < 30; n++) {
		nanosleep(&pause, NULL);
		ts_hook_inject_count(&nr_failed);
	}
	while (!nr_failed && !atomic_load(is_over)) {
		nanosleep(&pause, NULL);
		ts_hook_inject_count(&nr_failed);
	}
	ts_hook_inject(0, 0, 0, 0);
	return (void *)(uintptr_t)nr_failed;
}

/* One life with the Nth call failing; how many failed. */
static inline uint64_t nth_run(const struct nth *nth, uint64_t n)
{
	struct guest guest = { 0 };
	atomic_bool is_over = false;
	uint64_t nr_failed = 0;
	pthread_t releaser;
	void *released;

	guest_map(&guest, NTH_PAGES, nth->is_memfd);
	snprintf(guest.folder, sizeof(guest.folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(guest.folder) != NULL);
	unsigned nr_fds = nth_count_dir("/proc/self/fd");
	unsigned nr_tasks = nth_count_dir("/proc/self/task");
	ts_hook_inject(nth->sites, n, nth->error, nth->is_sticky);
	if (nth->is_sticky)
		CHECK_EQ(pthread_create(&releaser, NULL, nth_release, &is_over), 0);
	bool has_worked = nth_live(&guest, nth->is_ladder);
	atomic_store(&is_over, true);
	ts_hook_inject_count(&nr_failed);
	if (nth->is_sticky) {
		pthread_join(releaser, &released);
		nr_failed += (uintptr_t)released;
	}
	ts_hook_inject(0, 0, 0, 0);
	CHECK_EQ(nth_count_dir("/proc/self/fd"), nr_fds);
	/* A thread that was joined may be listed for another moment: one of this life's now, or one
	 * of the last life's when they were counted. */
	for (unsigned i = 0; i < 1000 && nth_count_dir("/proc/self/task") > nr_tasks; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	CHECK(nth_count_dir("/proc/self/task") <= nr_tasks);
	guest_close(&guest);
	if (!nr_failed && !has_worked)
		fprintf(stderr, "%s\n", ts_last_error());
	CHECK(nr_failed || has_worked);
	return nr_failed;
}

static inline void nth_nothing(struct race *race)
{
	(void)race;
}

/* N = 1, 2, 3 ... until a life passes untouched.  Later in strides of a fifth: what is called so
 * often is called for one page after the other. */
static inline void nth_sweep(const struct nth *nth)
{
	uint64_t start_ns = ts_now_ns(), n = 1, nr_runs = 0;

	alarm(55);
	race_catch_signals();
	/* A sanitizer starts a thread of its own with the first one: before they are counted. */
	struct actor first;
	actor_start_in(NULL, nth_nothing, &first);
	actor_join(&first, "the first thread");
	while (nth_run(nth, n)) {
		nr_runs++;
		n += n < nth->dense ? 1 : n / 5 + 1;
	}
	printf("  %-12s errno %d %s %s %s: %llu runs, N up to %llu, %llu ms\n", nth->name,
	       nth->error, nth->is_memfd ? "memfd" : "anon", nth->is_ladder ? "ladder" : "ram",
	       nth->is_sticky ? "lasting" : "once", (unsigned long long)nr_runs,
	       (unsigned long long)n, (unsigned long long)(ts_now_ns() - start_ns) / 1000000);
	alarm(0);
}

static inline void nth_sweep_both(struct nth nth)
{
	nth_sweep(&nth);
	nth.is_memfd = true;
	nth_sweep(&nth);
}

#endif
