/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_rwp.c — what noticing touches costs on Linux 7.3, by ts_region_deactivate() and
 * ts_region_scan(), beside the bare ioctls on memory of the same shape, in the same run, in turn.
 *
 *   bench_rwp [rounds=N] [evict_threads=N] [MiB[/EVERY] ...]
 *
 * Default: 256 1024/16 4096/64; EVERY: only each so-manieth page is there; 0: windows alone.
 *
 * Prints nanoseconds for each page that is there, medians: "first" with nothing protected, "again"
 * with all of it protected already, "none" and "all" by how many pages were touched.  The last line
 * is for a memfd: what sync windows (SET_MODE, last look, punch, SET_MODE) cost a page, bare in
 * windows of 64 pages.
 * Under emulation (./dev kernel) only the ratios mean anything. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <tierstore/tierstore.h>
#include <unistd.h>

#include "check.h"
#include "os/uapi.h"

enum { PAGE = 4096, ROUNDS_MAX = 51, RUNS = 256 };

enum { WINDOW_PAGES = 64, WINDOWS = 512 };

enum figure { FIRST, AGAIN, SCAN_NONE, SCAN_ALL, NR_FIGURES };

static const char *const names[NR_FIGURES] = {
	"deactivate, first", "deactivate, again", "scan, none touched", "scan, all touched",
};

struct memory {
	char *mem;
	uint64_t nr_pages, every;
};

static uint64_t rounds = 7;
static uint32_t nr_evict_threads; /* 0: the default */
static double bare_ns[NR_FIGURES][ROUNDS_MAX], ours_ns[NR_FIGURES][ROUNDS_MAX];

static double now_ns(void)
{
	struct timespec now;

	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static struct memory make_memory(uint64_t mib, uint64_t every, int fd)
{
	struct memory memory = { .nr_pages = mib << 8, .every = every };
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;

	memory.mem = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, flags, fd, 0);
	CHECK(memory.mem != MAP_FAILED);
	CHECK_EQ(madvise(memory.mem, mib << 20, MADV_NOHUGEPAGE), 0);
	return memory;
}

static void touch(const struct memory *memory)
{
	for (uint64_t page = 0; page < memory->nr_pages; page += memory->every)
		((volatile char *)memory->mem)[page * PAGE] = 1;
}

/* ---- Bare --------------------------------------------------------------------------------- */

static int uffd, pagemap_fd;

/* False: no RWP here. */
static bool bare_open(const struct memory *memory)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC };
	struct uffdio_register reg = {
		.range = { (uintptr_t)memory->mem, memory->nr_pages * PAGE },
		.mode = UFFDIO_REGISTER_MODE_RWP,
	};

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return false;
	CHECK_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CHECK(pagemap_fd >= 0);
	return true;
}

static void bare_deactivate(const struct memory *memory)
{
	struct uffdio_rwprotect arg = {
		.range = { (uintptr_t)memory->mem, memory->nr_pages * PAGE },
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	CHECK_EQ(ioctl(uffd, UFFDIO_RWPROTECT, &arg), 0);
}

static uint64_t bare_scan(const struct memory *memory)
{
	static struct page_region runs[RUNS];
	uint64_t nr_pages = 0;
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .start = (uintptr_t)memory->mem,
		.end = (uintptr_t)memory->mem + memory->nr_pages * PAGE,
		.vec = (uintptr_t)runs, .vec_len = RUNS,
		.category_mask = PAGE_IS_ACCESSED, .return_mask = PAGE_IS_ACCESSED,
	};

	for (; arg.start < arg.end; arg.start = arg.walk_end) {
		int n = ioctl(pagemap_fd, PAGEMAP_SCAN, &arg);
		CHECK(n >= 0);
		for (int i = 0; i < n; i++)
			nr_pages += (runs[i].end - runs[i].start) / PAGE;
	}
	return nr_pages;
}

static void bare_window(const struct memory *memory, int fd, uint64_t page)
{
	struct uffdio_set_mode sync = { .disable = UFFD_FEATURE_RWP_ASYNC };
	struct uffdio_set_mode async = { .enable = UFFD_FEATURE_RWP_ASYNC };
	struct memory part = { .mem = memory->mem + page * PAGE, .nr_pages = WINDOW_PAGES };

	CHECK_EQ(ioctl(uffd, UFFDIO_SET_MODE, &sync), 0);
	CHECK_EQ(bare_scan(&part), 0);
	CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * PAGE),
			   WINDOW_PAGES * PAGE), 0);
	CHECK_EQ(ioctl(uffd, UFFDIO_SET_MODE, &async), 0);
}

/* ---- Ours --------------------------------------------------------------------------------- */

static struct ts_engine *engine;
static struct ts_region *region;

static void ours_open(const struct memory *memory, int fd)
{
	struct ts_tier_options tier = { .size = sizeof(tier), .name = "warm", .store = "ram",
					.size_bytes = 64 << 20, .codec = TS_CODEC_LZ4 };
	struct ts_region_options options = {
		.size = sizeof(options), .addr = memory->mem, .len_bytes = memory->nr_pages * PAGE,
		.memory = fd < 0 ? TS_MEMORY_ANON : TS_MEMORY_MEMFD, .memfd = fd,
		.tracker = TS_TRACKER_RWP,
	};

	struct ts_engine_options engine_options = { .size = sizeof(engine_options),
						    .nr_evict_threads = nr_evict_threads };

	CHECK_EQ(ts_engine_open(&engine_options, &engine), 0);
	CHECK_EQ(ts_engine_add_tier(engine, &tier), 0);
	CHECK_EQ(ts_engine_start(engine), 0);
	CHECK_EQ(ts_region_attach(engine, &options, &region), 0);
}

static void ours_deactivate(void) { CHECK_EQ(ts_region_deactivate(region), 0); }

static uint64_t ours_scan(void)
{
	struct ts_scan_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_scan(region, &result), 0);
	return result.nr_touched;
}

/* ---- Rounds ------------------------------------------------------------------------------- */

#define TIMED(figures, figure, round, call)             \
	do {                                            \
		double start_ = now_ns();               \
		call;                                   \
		(figures)[figure][round] = now_ns() - start_; \
	} while (0)

static void bare_round(const struct memory *memory, uint64_t round)
{
	uint64_t nr_there = (memory->nr_pages + memory->every - 1) / memory->every, nr = 0;

	TIMED(bare_ns, FIRST, round, bare_deactivate(memory));
	TIMED(bare_ns, AGAIN, round, bare_deactivate(memory));
	TIMED(bare_ns, SCAN_NONE, round, nr = bare_scan(memory));
	CHECK_EQ(nr, 0);
	touch(memory);
	TIMED(bare_ns, SCAN_ALL, round, nr = bare_scan(memory));
	CHECK_EQ(nr, nr_there);
}

static void ours_round(const struct memory *memory, uint64_t round)
{
	uint64_t nr_there = (memory->nr_pages + memory->every - 1) / memory->every, nr = 0;

	TIMED(ours_ns, FIRST, round, ours_deactivate());
	TIMED(ours_ns, AGAIN, round, ours_deactivate());
	TIMED(ours_ns, SCAN_NONE, round, nr = ours_scan());
	CHECK_EQ(nr, 0);
	touch(memory);
	TIMED(ours_ns, SCAN_ALL, round, nr = ours_scan());
	CHECK_EQ(nr, nr_there);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *samples)
{
	qsort(samples, rounds, sizeof(*samples), compare);
	return samples[rounds / 2];
}

static void print_figure(uint64_t mib, uint64_t nr_there, const char *name, double bare,
			 double ours)
{
	printf("%5llu MiB %7llu pages  %-20s %9.1f%9.1f  %5.2f\n", (unsigned long long)mib,
	       (unsigned long long)nr_there, name, bare, ours, ours / bare);
}

static void report(uint64_t mib, uint64_t nr_there)
{
	for (unsigned f = 0; f < NR_FIGURES; f++)
		print_figure(mib, nr_there, names[f], median(bare_ns[f]) / (double)nr_there,
			     median(ours_ns[f]) / (double)nr_there);
}

static void close_both(struct memory *bare, struct memory *ours)
{
	CHECK_EQ(ts_region_detach(region), 0);
	ts_engine_close(engine);
	CHECK_EQ(close(uffd), 0);
	CHECK_EQ(close(pagemap_fd), 0);
	CHECK_EQ(munmap(bare->mem, bare->nr_pages * PAGE), 0);
	CHECK_EQ(munmap(ours->mem, ours->nr_pages * PAGE), 0);
}

static void run(uint64_t mib, uint64_t every)
{
	struct memory bare = make_memory(mib, every, -1), ours = make_memory(mib, every, -1);

	touch(&bare);
	touch(&ours);
	if (!bare_open(&bare)) {
		fprintf(stderr, "skipped: no RWP here; Linux 7.3 has it\n");
		exit(77);
	}
	ours_open(&ours, -1);
	for (uint64_t round = 0; round < rounds; round++) {
		bare_round(&bare, round);
		ours_round(&ours, round);
	}
	report(mib, (bare.nr_pages + every - 1) / every);
	close_both(&bare, &ours);
}

static int make_memfd(uint64_t nr_pages)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(ftruncate(fd, (off_t)(nr_pages * PAGE)), 0);
	return fd;
}

static double ours_window_ns(void)
{
	struct ts_evict_options all = { .size = sizeof(all), .bytes_max = UINT64_MAX >> 1 };
	struct ts_evict_result done = { .size = sizeof(done) };
	static struct ts_stats stats = { .size = sizeof(stats) };
	const struct ts_hist *windows = &stats.stages[TS_STAGE_WINDOW];

	CHECK_EQ(ts_region_evict(region, &all, &done), 0);
	CHECK_EQ(done.nr_evicted, WINDOWS * WINDOW_PAGES);
	CHECK_EQ(ts_stats_get(engine, region, &stats), 0);
	CHECK(windows->count > 0);
	printf("windows: %llu, p50 %.1f us, p99 %.1f us, max %.1f us\n",
	       (unsigned long long)windows->count,
	       (double)ts_hist_percentile_ns(windows, 0.5) / 1e3,
	       (double)ts_hist_percentile_ns(windows, 0.99) / 1e3, (double)windows->max_ns / 1e3);
	return (double)windows->sum_ns;
}

/* Nobody touches anything meanwhile. */
static void run_windows(void)
{
	enum { PAGES = WINDOWS * WINDOW_PAGES, MIB = PAGES >> 8 };
	int bare_fd = make_memfd(PAGES), ours_fd = make_memfd(PAGES);
	struct memory bare = make_memory(MIB, 1, bare_fd), ours = make_memory(MIB, 1, ours_fd);

	touch(&bare);
	touch(&ours);
	CHECK(bare_open(&bare));
	ours_open(&ours, ours_fd);
	bare_deactivate(&bare);
	ours_deactivate();
	double start = now_ns();
	for (uint64_t page = 0; page < PAGES; page += WINDOW_PAGES)
		bare_window(&bare, bare_fd, page);
	double bare_total = now_ns() - start, ours_total = ours_window_ns();
	print_figure(MIB, PAGES, "memfd: a window", bare_total / PAGES, ours_total / PAGES);
	close_both(&bare, &ours);
	CHECK_EQ(close(bare_fd), 0);
	CHECK_EQ(close(ours_fd), 0);
}

/* "name=N" in front of the sizes. */
static bool take_option(const char *word)
{
	unsigned long long value;

	if (sscanf(word, "rounds=%llu", &value) == 1) {
		CHECK(value > 0 && value <= ROUNDS_MAX);
		rounds = value;
		return true;
	}
	if (sscanf(word, "evict_threads=%llu", &value) == 1) {
		nr_evict_threads = (uint32_t)value;
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	static char *const usual[] = { "256", "1024/16", "4096/64" };
	int first = 1;

	while (first < argc && take_option(argv[first]))
		first++;
	char *const *sizes = first < argc ? argv + first : usual;
	int nr_sizes = first < argc ? argc - first : 3;

	printf("%-40s %17s %8s  %5s\n", "ns a page", "bare", "ours", "ratio");
	for (int i = 0; i < nr_sizes; i++) {
		unsigned long long mib, every = 1;
		CHECK(sscanf(sizes[i], "%llu/%llu", &mib, &every) >= 1 && every);
		if (mib)
			run(mib, every);
	}
	run_windows();
	return 0;
}
