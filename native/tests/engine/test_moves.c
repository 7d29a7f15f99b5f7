/* SPDX-License-Identifier: Apache-2.0
 *
 * test_moves.c — munmap and mremap of a region's parts, of all of it, of more parts than can be
 * written down, and other memory of the process that takes the place of what was unmapped. */

#include "engine/events.h"

static void *map_at(void *addr, size_t len_bytes)
{
	void *area = mmap(addr, len_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | (addr ? MAP_FIXED : 0), -1, 0);
	CHECK(area != MAP_FAILED);
	return area;
}

static void unmap_middle(void)
{
	struct guest guest;

	for (unsigned away = 0; away < 2; away++) {
		begin(&guest, false);
		if (away)
			evict_all(&guest);
		CHECK_EQ(munmap(at(&guest, FIRST), bytes(COUNT)), 0);
		expect_gone(&guest, COUNT);
		map_at(at(&guest, FIRST), bytes(COUNT));
		expect_zeros(&guest, FIRST, COUNT);
		scan_once(&guest);
		guest_check_all(&guest);
		CHECK_EQ(ts_region_detach(guest.region), 0);
		guest_close(&guest);
	}
}

static void unmap_everything(void)
{
	struct guest guest;

	for (unsigned away = 0; away < 2; away++) {
		begin(&guest, false);
		if (away)
			evict_all(&guest);
		CHECK_EQ(munmap(guest.mem, bytes(NR)), 0);
		expect_gone(&guest, NR);
		CHECK_EQ(evict_all(&guest).nr_claimed, 0);
		CHECK_EQ(ts_region_detach(guest.region), 0);
		map_at(guest.mem, bytes(NR));
		for (uint64_t page = 0; page < NR; page++)
			guest_fill(&guest, page, atomic_load(&guest.versions[page]));
		guest_close(&guest);
	}
}

#ifdef TS_HOOKS
static void *touch_thread(void *arg)
{
	struct guest *guest = arg;
	CHECK(guest_is_right(guest, NR - 1, 0));
	return NULL;
}

static void *unmap_thread(void *arg)
{
	CHECK_EQ(munmap(at(arg, FIRST), bytes(COUNT)), 0);
	return NULL;
}

/* Other memory of the process, where the guest unmaps its own; the unmapper waits for the event to
 * be read. */
static unsigned char *map_foreign(struct guest *guest, pthread_t *unmapper)
{
	unsigned char *foreign = MAP_FAILED;

	CHECK_EQ(pthread_create(unmapper, NULL, unmap_thread, guest), 0);
	for (unsigned ms = 0; foreign == MAP_FAILED && ms < TIMEOUT_MS; ms++) {
		foreign = mmap(at(guest, FIRST), bytes(COUNT), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		usleep(1000);
	}
	CHECK(foreign != MAP_FAILED);
	memset(foreign, 0xab, bytes(COUNT));
	return foreign;
}

static void check_foreign(const unsigned char *foreign)
{
	for (size_t i = 0; i < bytes(COUNT); i++)
		CHECK_EQ(foreign[i], 0xab);
}

/* While nobody has read the event of a munmap, other memory of the process may already lie at these
 * addresses.  It is not ours to move or to zap. */
static void foreign_memory(bool is_memfd)
{
	struct guest guest;
	pthread_t toucher, unmapper;

	begin_with(&guest, is_memfd, (struct ts_engine_options){ .nr_fault_threads = 1 });
	evict_all(&guest);
	CHECK_EQ(ts_region_prefetch(guest.region, bytes(FIRST), bytes(COUNT)), 0);
	/* The only reader of events is kept busy with a fault. */
	ts_hook_park(TS_PHASE_FAULT_CLAIMED);
	CHECK_EQ(pthread_create(&toucher, NULL, touch_thread, &guest), 0);
	CHECK_EQ(ts_hook_wait(TS_PHASE_FAULT_CLAIMED, TIMEOUT_MS), 0);
	unsigned char *foreign = map_foreign(&guest, &unmapper);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	evict_all(&guest);
	ts_hook_release(TS_PHASE_FAULT_CLAIMED);
	pthread_join(toucher, NULL);
	pthread_join(unmapper, NULL);
	check_foreign(foreign);
	expect_gone(&guest, COUNT);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		guest_fill(&guest, page, 0);
	guest_close(&guest);
}

static void *evict_thread(void *arg)
{
	evict_all(arg);
	return NULL;
}

/* The same, and it happens after the evictor has looked where its pages are. */
static void foreign_at_the_last_moment(void)
{
	struct guest guest;
	pthread_t evictor, unmapper;

	begin_with(&guest, false, (struct ts_engine_options){ .nr_evict_threads = 1 });
	/* The first run of pages that is moved lies in what is unmapped. */
	CHECK_EQ(ts_region_discard(guest.region, 0, bytes(FIRST)), 0);
	ts_hook_park(TS_PHASE_ADDRESS);
	CHECK_EQ(pthread_create(&evictor, NULL, evict_thread, &guest), 0);
	CHECK_EQ(ts_hook_wait(TS_PHASE_ADDRESS, TIMEOUT_MS), 0);
	unsigned char *foreign = map_foreign(&guest, &unmapper);
	ts_hook_release(TS_PHASE_ADDRESS);
	pthread_join(evictor, NULL);
	pthread_join(unmapper, NULL);
	check_foreign(foreign);
	expect_gone(&guest, COUNT);
	for (uint64_t page = 0; page < FIRST; page++)
		atomic_store(&guest.versions[page], GUEST_ZEROED);
	for (uint64_t page = 0; page < FIRST + COUNT; page++)
		guest_fill(&guest, page, atomic_load(&guest.versions[page]));
	guest_close(&guest);
}

static void foreign_anon(void) { foreign_memory(false); }
static void foreign_memfd(void) { foreign_memory(true); }
#else
static void foreign_anon(void) { SKIP("needs a build with hooks"); }
static void foreign_memfd(void) { SKIP("needs a build with hooks"); }
static void foreign_at_the_last_moment(void) { SKIP("needs a build with hooks"); }
#endif

static void move_to(void *from, size_t len_bytes, void *to)
{
	CHECK(mremap(from, len_bytes, len_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
}

static void move_whole(void)
{
	struct guest guest;

	begin(&guest, false);
	for (unsigned round = 0; round < 4; round++) {
		if (round % 2)
			evict_all(&guest);
		void *to = map_at(NULL, bytes(NR));
		move_to(guest.mem, bytes(NR), to);
		guest.mem = to;
		guest_check_all(&guest);
		CHECK_EQ(evict_all(&guest).nr_failed, 0);
		guest_check_all(&guest);
	}
	guest_close(&guest);
}

/* A middle part leaves for another address and returns. */
static void move_part(void)
{
	struct guest guest;

	begin(&guest, false);
	evict_all(&guest);
	unsigned char *other = map_at(NULL, bytes(COUNT)), *home = at(&guest, FIRST);
	move_to(home, bytes(COUNT), other);
	map_at(home, bytes(COUNT));
	CHECK(is_zero(&guest, FIRST));
	for (uint64_t i = 0; i < COUNT; i += 2) {
		struct guest moved = guest;
		moved.mem = other - bytes(FIRST);
		CHECK(guest_is_right(&moved, FIRST + i, 0));
	}
	/* The last page's word says RESIDENT a moment after its reader was woken. */
	while (guest_stats(&guest)->nr_coming)
		;
	CHECK(evict_all(&guest).nr_claimed >= COUNT / 2);
	move_to(other, bytes(COUNT), home);
	guest_check_all(&guest);
	evict_all(&guest);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* The old addresses stay mapped and registered, and empty: they read as zeros, they don't hang. */
static void move_dontunmap(void)
{
	struct guest guest;

	begin(&guest, false);
	evict_all(&guest);
	unsigned char *old = guest.mem;
	int flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
	unsigned char *to = mremap(old, bytes(NR), bytes(NR), flags, NULL);
	CHECK(to != MAP_FAILED);
	for (uint64_t page = 0; page < NR; page += 16)
		CHECK(is_zero(&guest, page));
	guest.mem = to;
	guest_check_all(&guest);
	evict_all(&guest);
	guest_check_all(&guest);
	CHECK_EQ(munmap(old, bytes(NR)), 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void unmap_more_than_bound(void)
{
	struct guest guest;

	begin(&guest, false);
	evict_all(&guest);
	for (uint64_t page = 8; page < 8 * 4 * TS_EXTENT_MAX; page += 8)
		CHECK_EQ(munmap(at(&guest, page), bytes(2)), 0);
	for (uint64_t page = 8; page < 8 * 4 * TS_EXTENT_MAX; page += 8)
		map_at(at(&guest, page), bytes(2));
	for (uint64_t page = 0; page < NR; page++)
		if (page >= 8 && page < 8 * 4 * TS_EXTENT_MAX && page % 8 < 2)
			guest_fill(&guest, page, 7), atomic_store(&guest.versions[page], 7);
	guest_check_all(&guest);
	scan_once(&guest);
	evict_all(&guest);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* What can't be written down is lost loudly: SIGBUS, no hang, no zeros. */
static void move_more_than_bound(void)
{
	enum { PIECES = 3 * TS_EXTENT_MAX };
	static unsigned char *pieces[PIECES];
	struct guest guest;
	unsigned nr_lost = 0;

	begin(&guest, false);
	evict_all(&guest);
	for (unsigned i = 0; i < PIECES; i++) {
		pieces[i] = map_at(NULL, bytes(3));
		unsigned char *to = pieces[i] + bytes(1);
		CHECK(mremap(at(&guest, 16 * i + 3), bytes(1), bytes(1),
			     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	}
	for (unsigned i = 0; i < PIECES; i++) {
		int pipe_fds[2];
		unsigned char *to = pieces[i] + bytes(1);
		CHECK_EQ(pipe(pipe_fds), 0);
		/* The kernel reads for us: EFAULT in place of a signal. */
		ssize_t got = write(pipe_fds[1], to, 64);
		if (got < 0) {
			nr_lost++;
		} else {
			struct guest moved = guest;
			moved.mem = to - bytes(16 * i + 3);
			CHECK(guest_is_right(&moved, 16 * i + 3, 0));
		}
		close(pipe_fds[0]);
		close(pipe_fds[1]);
		map_at(at(&guest, 16 * i + 3), bytes(1));
		guest_fill(&guest, 16 * i + 3, 0);
	}
	CHECK(nr_lost >= TS_EXTENT_MAX);
	CHECK(guest_stats(&guest)->failures[TS_FAIL_INSTALL] == nr_lost);
	guest_check_all(&guest);
	evict_all(&guest);
	guest_close(&guest);
}

CHECK_MAIN({ "unmap_middle", unmap_middle }, { "unmap_everything", unmap_everything },
	   { "foreign_anon", foreign_anon }, { "foreign_memfd", foreign_memfd },
	   { "foreign_at_the_last_moment", foreign_at_the_last_moment },
	   { "move_whole", move_whole }, { "move_part", move_part },
	   { "move_dontunmap", move_dontunmap },
	   { "unmap_more_than_bound", unmap_more_than_bound },
	   { "move_more_than_bound", move_more_than_bound })
