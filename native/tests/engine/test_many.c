/* SPDX-License-Identifier: Apache-2.0
 *
 * test_many.c — regions that come and go under a running guest, and several engines with several
 * regions at once: contents stay right, and nothing is left behind. */
#include <malloc.h>
#include <unistd.h>

#include "guest.h"

enum { NR = 1024, ROUNDS = 200, WARM_UP = 20, ENGINES = 3, WRITERS = 3 };

static size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }

struct fds {
	unsigned nr_rings, nr_others;
};

static struct fds count_fds(bool is_printed)
{
	struct fds fds = { 0 };
	char path[64], target[256];

	for (int fd = 0; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t len = readlink(path, target, sizeof(target) - 1);
		if (len < 0)
			continue;
		target[len] = 0;
		if (is_printed)
			fprintf(stderr, "fd %d: %s\n", fd, target);
		if (strstr(target, "[io_uring]"))
			fds.nr_rings++;
		else
			fds.nr_others++;
	}
	return fds;
}

/* The store "file" opens rings for writers as puts happen to overlap, and keeps them. */
static bool fds_are(struct fds before)
{
	struct fds now = count_fds(false);

	if (now.nr_others == before.nr_others && now.nr_rings <= before.nr_rings + WRITERS)
		return true;
	count_fds(true);
	return false;
}

static unsigned nr_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned nr = 0;
	int c;

	CHECK(maps != NULL);
	while ((c = fgetc(maps)) != EOF)
		nr += c == '\n';
	fclose(maps);
	return nr;
}

static void come_and_go(bool is_memfd, struct ts_region_options options)
{
	struct guest guest = { 0 };
	pthread_t threads[2];
	struct fds fds = { 0 };
	unsigned mappings = 0;
	size_t heap_bytes = 0;

	guest_map(&guest, NR, is_memfd);
	guest_open(&guest);
	guest_add_ladder(&guest);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, guest_worker, &guest), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		guest_attach(&guest, options);
		guest_evict(&guest, bytes(NR) / (1 + round % 3), 0, round % 2);
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		CHECK_EQ(ts_region_detach(guest.region), 0);
		if (round == WARM_UP) {
			fds = count_fds(false);
			mappings = nr_mappings();
			heap_bytes = mallinfo2().uordblks;
		}
	}
	CHECK(fds_are(fds));
	/* A writer has four mappings, a sanitizer some.  LMDB's lists of pages grow by doubling, by
	 * 200 KiB in all.  A leak would be one a round. */
	CHECK(nr_mappings() < mappings + ROUNDS / 4);
	CHECK(mallinfo2().uordblks < heap_bytes + ROUNDS * 2048);
	atomic_store(&guest.is_stopping, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(atomic_load(&guest.nr_touched) > 0);
	CHECK_EQ(atomic_load(&guest.nr_wrong), 0);
	guest_close(&guest);
}

static void anon(void) { come_and_go(false, (struct ts_region_options){ 0 }); }
static void memfd(void) { come_and_go(true, (struct ts_region_options){ .nr_shards = 2 }); }

static void in_thread(void)
{
	come_and_go(false, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD });
}

/* Two regions an engine: the second guest borrows the first one's engine. */
static void several_engines(void)
{
	struct guest guests[2 * ENGINES] = { 0 };
	pthread_t threads[2 * ENGINES];

	for (unsigned i = 0; i < 2 * ENGINES; i++) {
		struct guest *guest = &guests[i];
		guest_map(guest, NR, i % 3 == 0);
		if (i % 2 == 0) {
			guest_open(guest);
			guest_add_ladder(guest);
			CHECK_EQ(ts_engine_start(guest->engine), 0);
		} else {
			guest->engine = guests[i - 1].engine;
		}
		guest_attach(guest, (struct ts_region_options){ .probation_ms = 10 });
		CHECK_EQ(pthread_create(&threads[i], NULL, guest_worker, guest), 0);
	}
	for (unsigned round = 0; round < 40; round++)
		guest_evict(&guests[round % (2 * ENGINES)], bytes(NR), 0, round % 2);
	for (unsigned i = 0; i < 2 * ENGINES; i++) {
		atomic_store(&guests[i].is_stopping, true);
		pthread_join(threads[i], NULL);
		CHECK_EQ(atomic_load(&guests[i].nr_wrong), 0);
	}
	for (unsigned i = 0; i < 2 * ENGINES; i += 2) {
		CHECK_EQ(ts_region_detach(guests[i + 1].region), 0);
		guest_close(&guests[i]);
		guest_check_all(&guests[i + 1]);
		guest_unmap(&guests[i + 1]);
	}
}

CHECK_MAIN({ "anon", anon }, { "memfd", memfd }, { "in_thread", in_thread },
	   { "several_engines", several_engines })
