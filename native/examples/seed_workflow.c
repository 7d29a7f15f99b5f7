/* SPDX-License-Identifier: Apache-2.0
 *
 * seed_workflow.c — the loop that the kernel's working-set tracking was designed for, step by step
 * with this library: a VMM that lets its guest run, finds cold pages, and moves them out.
 *
 * The steps carry the numbers and names of the documentation patch that proposed it (April 2026);
 * ARCHITECTURE.md says what became of each name.  A VMM that does not want the loop itself calls
 * ts_cycle_start() and is done.  usage: seed_workflow anon|memfd
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <tierstore/tierstore.h>

enum { PAGE = 4096, NR_PAGES = 4096, NR_HOT = 512, ROUNDS = 3 };

#define TRY(call)                                                           \
	do {                                                                \
		if ((call) < 0) {                                           \
			fprintf(stderr, "%s: %s\n", #call, ts_last_error()); \
			return 1;                                           \
		}                                                           \
	} while (0)

/* ---- The guest -------------------------------------------------------------------------- */

static char *guest_mem;
static atomic_bool is_stopping;
static _Atomic unsigned nr_rounds, nr_wrong;

static unsigned long expected(size_t page) { return 0x1000 + page * 7; }

static void check(size_t page)
{
	unsigned long found;

	memcpy(&found, guest_mem + page * PAGE, sizeof(found));
	if (found != expected(page))
		atomic_fetch_add(&nr_wrong, 1);
}

/* Writes, too, for before Linux 7.3 nobody sees the reads of anonymous memory. */
static void use(size_t page)
{
	volatile unsigned long *word = (unsigned long *)(void *)(guest_mem + page * PAGE);

	check(page);
	*word = expected(page);
}

/* A vCPU: it goes round its hot pages, and now and then needs a cold one.  Nothing tells it that a
 * page is away, or on its way out; it waits, and gets its bytes. */
static void *vcpu(void *unused)
{
	(void)unused;
	for (size_t cold = NR_HOT; !atomic_load(&is_stopping); atomic_fetch_add(&nr_rounds, 1)) {
		for (size_t page = 0; page < NR_HOT; page++)
			use(page);
		check(cold);
		cold = cold + 97 < NR_PAGES ? cold + 97 : NR_HOT;
	}
	return NULL;
}

/* sleep(tracking_interval) of a guest that says how far it is: twice round. */
static void tracking_interval(void)
{
	unsigned end = atomic_load(&nr_rounds) + 2;

	while ((int)(end - atomic_load(&nr_rounds)) > 0)
		usleep(1000);
}

static bool make_guest(struct ts_region_options *region, bool is_memfd)
{
	int fd = is_memfd ? memfd_create("guest", MFD_CLOEXEC) : -1;

	if (is_memfd && (fd < 0 || ftruncate(fd, (off_t)NR_PAGES * PAGE)))
		return false;
	guest_mem = mmap(NULL, (size_t)NR_PAGES * PAGE, PROT_READ | PROT_WRITE,
			 is_memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	if (guest_mem == MAP_FAILED)
		return false;
	/* Pages of 4 KiB; a touched huge page is hot as a whole. */
	(void)madvise(guest_mem, (size_t)NR_PAGES * PAGE, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < NR_PAGES; page++) {
		unsigned long value = expected(page);
		memcpy(guest_mem + page * PAGE, &value, sizeof(value));
	}
	region->addr = guest_mem;
	region->len_bytes = (uint64_t)NR_PAGES * PAGE;
	region->memory = is_memfd ? TS_MEMORY_MEMFD : TS_MEMORY_ANON;
	region->memfd = fd;
	return true;
}

/* ---- The VMM ---------------------------------------------------------------------------- */

static int tracking_loop(struct ts_region *region)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		/* 1. Detection: UFFDIO_DEACTIVATE(full_range).  The guest runs on; a touch costs it
		 * a minor fault and no message. */
		TRY(ts_region_deactivate(region));
		tracking_interval();

		/* 2. Find cold pages: PAGEMAP_SCAN.  Every page that was not touched gets a scan
		 * older. */
		struct ts_scan_result scan = { .size = sizeof(scan) };
		TRY(ts_region_scan(region, &scan));

		/* 3. to 5. UFFDIO_SET_MODE(sync), pwrite + MADV_DONTNEED, UFFDIO_SET_MODE(async):
		 * one call.  How a page is made safe to take depends on memory and kernel; what
		 * can be relied on is that a touch meanwhile waits or calls the eviction off. */
		struct ts_evict_options cold = { .size = sizeof(cold), .age_min = 1,
						 .bytes_max = scan.nr_cold * PAGE };
		struct ts_evict_result done = { .size = sizeof(done) };
		TRY(ts_region_evict(region, &cold, &done));
		printf("round %u: %llu resident, %llu touched, %llu cold; %llu left\n", round,
		       (unsigned long long)scan.nr_resident, (unsigned long long)scan.nr_touched,
		       (unsigned long long)scan.nr_cold,
		       (unsigned long long)(done.nr_evicted + done.nr_probation));
	}
	return 0;
}

/* The guest gets all of it back, and none of it wrong. */
static int compare(struct ts_engine *engine, struct ts_region *region)
{
	struct ts_stats stats = { .size = sizeof(stats) };

	for (size_t page = 0; page < NR_PAGES; page++)
		check(page);
	TRY(ts_stats_get(engine, region, &stats));
	printf("%llu pages left, %llu faults brought pages back, %u pages wrong\n",
	       (unsigned long long)stats.nr_evicted, (unsigned long long)stats.nr_faults,
	       atomic_load(&nr_wrong));
	return atomic_load(&nr_wrong) != 0;
}

int main(int argc, char **argv)
{
	/* One-time set-up.  userfaultfd(), UFFDIO_API and UFFDIO_REGISTER(MINOR | MISSING) are in
	 * ts_region_attach(), which takes what the running kernel has; storage_fd is a tier. */
	struct ts_tier_options tier = { .size = sizeof(tier), .name = "storage", .store = "ram",
					.size_bytes = 2ull * NR_PAGES * PAGE,
					.codec = TS_CODEC_LZ4 };
	struct ts_region_options memory = { .size = sizeof(memory), .name = "guest",
					    .probation_ms = 20 };
	struct ts_engine *engine;
	struct ts_region *region;
	pthread_t thread;

	bool is_memfd = argc == 2 && strcmp(argv[1], "memfd") == 0;
	if (argc != 2 || (!is_memfd && strcmp(argv[1], "anon")))
		return fprintf(stderr, "usage: seed_workflow anon|memfd\n"), 2;
	if (!make_guest(&memory, is_memfd))
		return perror("the guest's memory"), 1;
	TRY(ts_engine_open(NULL, &engine));
	TRY(ts_engine_add_tier(engine, &tier));
	TRY(ts_engine_start(engine));
	TRY(ts_region_attach(engine, &memory, &region));

	if (pthread_create(&thread, NULL, vcpu, NULL))
		return 1;
	int status = tracking_loop(region);
	atomic_store(&is_stopping, true);
	pthread_join(thread, NULL);

	status = status || compare(engine, region);
	/* Cleanup: everything comes back, the range is unregistered, nobody is left waiting. */
	TRY(ts_region_detach(region));
	ts_engine_close(engine);
	return status;
}
