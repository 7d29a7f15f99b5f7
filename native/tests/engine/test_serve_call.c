/* SPDX-License-Identifier: Apache-2.0
 *
 * test_serve_call.c — ts_region_serve(): a VMM's thread brings a page back that it needs, as after
 * KVM_EXIT_MEMORY_FAULT.  Here a system call on an in-thread region stands for the guest: it fails
 * with EFAULT, the page is served by call, and it is tried again. */
#include <errno.h>

#include "guest.h"

enum { NR = 2048, THREADS = 8, TRIES_MAX = 10000 };

static uint64_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }

static void begin(struct guest *guest, bool is_memfd, const char *wrap, uint32_t serve)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, is_memfd);
	guest_open(guest);
	CHECK_EQ(guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"), 64 << 20,
				TS_CODEC_LZ4, 16384, wrap), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .serve = serve,
							.restore = TS_RESTORE_PAGE });
}

static uint64_t nr_not_there(struct guest *guest)
{
	struct ts_stats *stats = guest_stats(guest);

	return stats->nr_away + stats->nr_leaving + stats->nr_coming + stats->nr_filled;
}

/* All threads want all pages, each in an order of its own. */
static void *serve_all(void *arg)
{
	struct guest *guest = arg;
	uint64_t start = guest_mix((uintptr_t)&start) % NR;

	for (uint64_t i = 0; i < NR; i++) {
		uint64_t page = (start + i * 17) % NR;
		CHECK_EQ(ts_region_serve(guest->region, bytes(page) + i % GUEST_PAGE,
					 i % 2 ? TS_ACCESS_WRITE : 0), 0);
	}
	return NULL;
}

static void in_threads(struct guest *guest, void *(*run)(void *))
{
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, run, guest), 0);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

/* Everything is there when they are through, and was read once. */
static void all_come_back(void)
{
	for (int is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct guest guest;
		begin(&guest, is_memfd, NULL, TS_SERVE_MESSAGE);
		CHECK_EQ(guest_evict(&guest, bytes(NR), 0, true).nr_failed, 0);
		CHECK(nr_not_there(&guest) >= NR - NR / 16);
		in_threads(&guest, serve_all);
		CHECK_EQ(nr_not_there(&guest), 0);
		CHECK(guest_stats(&guest)->nr_faults <= NR);
		guest_check_all(&guest);
		guest_close(&guest);
	}
}

/* What a vCPU does: the guest's access fails, the page is served, the access is tried again. */
static void *read_by_system_call(void *arg)
{
	struct guest *guest = arg;
	uint64_t words[GUEST_PAGE / 8], start = guest_mix((uintptr_t)&start) % NR;
	int fds[2];

	CHECK_EQ(pipe(fds), 0);
	for (uint64_t i = 0; i < NR; i++) {
		uint64_t page = (start + i * 5) % NR;
		unsigned nr_tries = 0;
		while (write(fds[1], guest->mem + bytes(page), GUEST_PAGE) != GUEST_PAGE) {
			CHECK_EQ(errno, EFAULT);
			CHECK(++nr_tries < TRIES_MAX);
			CHECK_EQ(ts_region_serve(guest->region, bytes(page), 0), 0);
		}
		CHECK_EQ(read(fds[0], words, GUEST_PAGE), GUEST_PAGE);
		for (unsigned w = 0; w < GUEST_PAGE / 8; w++)
			CHECK(words[w] == guest_word(page, 0, w));
		atomic_fetch_add(&guest->nr_touched, nr_tries > 0);
	}
	close(fds[0]);
	close(fds[1]);
	return NULL;
}

static void *evict_on(void *arg)
{
	struct guest *guest = arg;

	while (!atomic_load(&guest->is_stopping))
		guest_evict(guest, bytes(64), 0, true);
	return NULL;
}

/* The evictor takes pages back out of their hands all the while. */
static void as_after_an_exit(void)
{
	struct guest guest;
	pthread_t evictor;

	begin(&guest, false, NULL, TS_SERVE_IN_THREAD);
	CHECK_EQ(guest_evict(&guest, bytes(NR), 0, true).nr_failed, 0);
	CHECK_EQ(pthread_create(&evictor, NULL, evict_on, &guest), 0);
	in_threads(&guest, read_by_system_call);
	atomic_store(&guest.is_stopping, true);
	CHECK_EQ(pthread_join(evictor, NULL), 0);
	CHECK(guest.nr_touched >= NR / 2);
	guest_close(&guest);
}

/* A hole that the guest has not touched yet is served, too: it reads as zeros. */
static void holes(void)
{
	struct guest guest;

	begin(&guest, false, NULL, TS_SERVE_MESSAGE);
	CHECK_EQ(madvise(guest.mem + bytes(8), bytes(4), MADV_DONTNEED), 0);
	for (uint64_t page = 8; page < 12; page++) {
		CHECK_EQ(ts_region_serve(guest.region, bytes(page), 0), 0);
		atomic_store(&guest.versions[page], GUEST_ZEROED);
	}
	unsigned char present[4];
	CHECK_EQ(mincore(guest.mem + bytes(8), bytes(4), present), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(present[i] & 1, 1);
	guest_close(&guest);
}

/* Said by an error code, at once and ever after; never by other bytes. */
static void lost_pages(void)
{
	struct guest guest;

	begin(&guest, false, "fault:get=1,error=corrupt", TS_SERVE_MESSAGE);
	CHECK_EQ(guest_evict(&guest, bytes(NR), 0, true).nr_failed, 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(ts_region_serve(guest.region, bytes(100), 0), TS_ECORRUPT);
		CHECK(strstr(ts_last_error(), "page 100") != NULL);
	}
	CHECK_EQ(guest_stats(&guest)->failures[TS_FAIL_POISONED], 1);
	for (uint64_t page = 0; page < NR; page++)
		atomic_store(&guest.versions[page], GUEST_UNMAPPED);
	guest_close(&guest);
}

static void bad_arguments(void)
{
	struct guest guest;

	begin(&guest, false, NULL, TS_SERVE_MESSAGE);
	CHECK_EQ(ts_region_serve(guest.region, bytes(NR), 0), TS_ECONFIG);
	CHECK_EQ(ts_region_serve(guest.region, UINT64_MAX, 0), TS_ECONFIG);
	CHECK_EQ(ts_region_serve(guest.region, 0, 2), TS_ECONFIG);
	CHECK_EQ(ts_region_serve(guest.region, bytes(NR) - 1, 0), 0);
	guest_close(&guest);
}

CHECK_MAIN({ "all_come_back", all_come_back }, { "as_after_an_exit", as_after_an_exit },
	   { "holes", holes }, { "lost_pages", lost_pages }, { "bad_arguments", bad_arguments })
