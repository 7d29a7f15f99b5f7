/* SPDX-License-Identifier: Apache-2.0
 *
 * test_events.c — what the guest's own madvise, munmap, mremap, fork and balloon do to pages that are
 * here, away, or on their way, and that the rest stays right and evictable. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "guest.h"
#include "util/hook.h"
#include "util/limits.h"

enum { NR = 2048, FIRST = 700, COUNT = 100, TIMEOUT_MS = 20000 };

static size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }
static unsigned char *at(struct guest *guest, uint64_t page) { return guest->mem + bytes(page); }

static void begin_with(struct guest *guest, bool is_memfd, struct ts_engine_options options)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, is_memfd);
	guest_open(guest);
	ts_engine_close(guest->engine);
	options.size = sizeof(options);
	CHECK_EQ(ts_engine_open(&options, &guest->engine), 0);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .probation_ms = 10000 });
}

static void begin(struct guest *guest, bool is_memfd)
{
	begin_with(guest, is_memfd, (struct ts_engine_options){ .log = guest_log });
}

static struct ts_evict_result evict_all(struct guest *guest)
{
	return guest_evict(guest, bytes(NR), 0, true);
}

static bool is_zero(struct guest *guest, uint64_t page)
{
	static const unsigned char zeros[GUEST_PAGE];
	return !memcmp(at(guest, page), zeros, GUEST_PAGE);
}

/* The pages read as zeros; then they are written, and all is well again, also after another trip. */
static void expect_zeros(struct guest *guest, uint64_t first, uint64_t count)
{
	for (uint64_t page = first; page < first + count; page++) {
		CHECK(is_zero(guest, page));
		guest_fill(guest, page, atomic_fetch_add(&guest->versions[page], 1) + 1);
	}
	guest_check_all(guest);
	evict_all(guest);
	guest_check_all(guest);
}

/* ---- madvise ---------------------------------------------------------------------------- */

static void remove_resident(void)
{
	struct guest guest;

	begin(&guest, false);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	expect_zeros(&guest, FIRST, COUNT);
	guest_close(&guest);
}

static void remove_away(void)
{
	struct guest guest;

	begin(&guest, false);
	evict_all(&guest);
	uint64_t nr_away = guest_stats(&guest)->nr_away;
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK(stats->nr_away < nr_away);
	CHECK(stats->nr_removed > 0 && stats->nr_removed <= COUNT);
	CHECK_EQ(stats->nr_resident, 0);
	uint64_t nr_pages = 0;
	for (unsigned t = 0; t < stats->nr_tiers; t++)
		nr_pages += stats->tiers[t].nr_pages;
	CHECK_EQ(nr_pages, stats->nr_away);
	expect_zeros(&guest, FIRST, COUNT);
	guest_close(&guest);
}

/* A kept copy must not come back for a page that the guest gave up. */
static void remove_kept(void)
{
	struct guest guest;

	begin(&guest, false);
	evict_all(&guest);
	guest_check_all(&guest);
	CHECK(guest_stats(&guest)->nr_kept > 0);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	evict_all(&guest);
	expect_zeros(&guest, FIRST, COUNT);
	guest_close(&guest);
}

/* On probation: in the staging area, not yet in a store. */
static void remove_staged(void)
{
	struct guest guest;

	begin(&guest, false);
	guest_evict(&guest, bytes(NR), 0, false);
	CHECK_EQ(guest_stats(&guest)->nr_leaving, NR);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	CHECK_EQ(guest_stats(&guest)->nr_leaving, NR - COUNT);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++) {
		CHECK(is_zero(&guest, page));
		guest_fill(&guest, page, atomic_fetch_add(&guest.versions[page], 1) + 1);
	}
	CHECK_EQ(ts_region_detach(guest.region), 0);
	guest_close(&guest);
}

#ifdef TS_HOOKS
static void *evict_thread(void *arg)
{
	evict_all(arg);
	return NULL;
}

/* The event arrives while an evictor stands at `phase` with the pages in its hands. */
static void remove_at(enum ts_phase phase, bool is_unmap)
{
	struct guest guest;
	pthread_t thread;

	begin(&guest, false);
	ts_hook_park((int)phase);
	CHECK_EQ(pthread_create(&thread, NULL, evict_thread, &guest), 0);
	CHECK_EQ(ts_hook_wait((int)phase, TIMEOUT_MS), 0);
	if (is_unmap)
		CHECK(mmap(at(&guest, FIRST), bytes(COUNT), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	else
		CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	ts_hook_release((int)phase);
	pthread_join(thread, NULL);
	expect_zeros(&guest, FIRST, COUNT);
	guest_close(&guest);
}

static void remove_on_the_way(void)
{
	remove_at(TS_PHASE_CLAIMED, false);
	remove_at(TS_PHASE_TAKEN, false);
	remove_at(TS_PHASE_PUT, false);
	remove_at(TS_PHASE_PUBLISHED, false);
}

static void unmap_on_the_way(void)
{
	remove_at(TS_PHASE_CLAIMED, true);
	remove_at(TS_PHASE_TAKEN, true);
	remove_at(TS_PHASE_PUT, true);
}
#else
static void remove_on_the_way(void) { SKIP("needs a build with hooks"); }
static void unmap_on_the_way(void) { SKIP("needs a build with hooks"); }
#endif

/* With a new version of our pages between deactivate and scan. */
static void scan_once(struct guest *guest)
{
	struct ts_scan_result scan = { .size = sizeof(scan) };

	CHECK_EQ(ts_region_deactivate(guest->region), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		guest_fill(guest, page, atomic_fetch_add(&guest->versions[page], 1) + 1);
	CHECK_EQ(ts_region_scan(guest->region, &scan), 0);
}

/* The kernel may keep the pages or drop them, until they are written again: a scan or three later they
 * are pages like any other. */
static void free_lazily(void)
{
	struct guest guest;

	begin(&guest, false);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_FREE), 0);
	for (unsigned round = 0; round < 4; round++)
		scan_once(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_resident, NR);
	evict_all(&guest);
	guest_check_all(&guest);
	CHECK_EQ(evict_all(&guest).nr_claimed, NR);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_FREE), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		CHECK(is_zero(&guest, page));
	expect_zeros(&guest, FIRST, COUNT);
	guest_close(&guest);
}

/* munmap() returns when its event has been read; the words follow a moment later. */
static void expect_gone(struct guest *guest, uint64_t nr_gone)
{
	for (unsigned ms = 0; guest_stats(guest)->nr_gone != nr_gone && ms < TIMEOUT_MS; ms++)
		usleep(1000);
	CHECK_EQ(guest_stats(guest)->nr_gone, nr_gone);
}

/* ---- munmap, mremap --------------------------------------------------------------------- */

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

/* While nobody has read the event of a munmap, other memory of the process may already lie at these
 * addresses.  It is not ours to move or to zap. */
static void foreign_memory(bool is_memfd)
{
	struct guest guest;
	pthread_t toucher, unmapper;
	unsigned char *foreign = MAP_FAILED;

	begin_with(&guest, is_memfd, (struct ts_engine_options){ .nr_fault_threads = 1 });
	evict_all(&guest);
	CHECK_EQ(ts_region_prefetch(guest.region, bytes(FIRST), bytes(COUNT)), 0);
	/* The only reader of events is kept busy with a fault. */
	ts_hook_park(TS_PHASE_FAULT_CLAIMED);
	CHECK_EQ(pthread_create(&toucher, NULL, touch_thread, &guest), 0);
	CHECK_EQ(ts_hook_wait(TS_PHASE_FAULT_CLAIMED, TIMEOUT_MS), 0);
	CHECK_EQ(pthread_create(&unmapper, NULL, unmap_thread, &guest), 0);
	for (unsigned ms = 0; foreign == MAP_FAILED && ms < TIMEOUT_MS; ms++) {
		foreign = mmap(at(&guest, FIRST), bytes(COUNT), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		usleep(1000);
	}
	CHECK(foreign != MAP_FAILED);
	memset(foreign, 0xab, bytes(COUNT));
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	evict_all(&guest);
	ts_hook_release(TS_PHASE_FAULT_CLAIMED);
	pthread_join(toucher, NULL);
	pthread_join(unmapper, NULL);
	for (size_t i = 0; i < bytes(COUNT); i++)
		CHECK_EQ(foreign[i], 0xab);
	expect_gone(&guest, COUNT);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		guest_fill(&guest, page, 0);
	guest_close(&guest);
}

static void foreign_anon(void) { foreign_memory(false); }
static void foreign_memfd(void) { foreign_memory(true); }
#else
static void foreign_anon(void) { SKIP("needs a build with hooks"); }
static void foreign_memfd(void) { SKIP("needs a build with hooks"); }
#endif

static void move_whole(void)
{
	struct guest guest;

	begin(&guest, false);
	for (unsigned round = 0; round < 4; round++) {
		if (round % 2)
			evict_all(&guest);
		void *to = map_at(NULL, bytes(NR));
		CHECK(mremap(guest.mem, bytes(NR), bytes(NR), MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
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
	CHECK(mremap(home, bytes(COUNT), bytes(COUNT), MREMAP_MAYMOVE | MREMAP_FIXED, other) == other);
	map_at(home, bytes(COUNT));
	CHECK(is_zero(&guest, FIRST));
	for (uint64_t i = 0; i < COUNT; i += 2) {
		struct guest moved = guest;
		moved.mem = other - bytes(FIRST);
		CHECK(guest_is_right(&moved, FIRST + i, 0));
	}
	CHECK(evict_all(&guest).nr_claimed >= COUNT / 2);
	CHECK(mremap(other, bytes(COUNT), bytes(COUNT), MREMAP_MAYMOVE | MREMAP_FIXED, home) == home);
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
	unsigned char *to = mremap(old, bytes(NR), bytes(NR), MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
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

/* ---- fork ------------------------------------------------------------------------------- */

static int wait_for(pid_t child)
{
	int status;

	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static void fork_and_exec(void)
{
	for (unsigned is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct guest guest;
		begin(&guest, is_memfd);
		evict_all(&guest);
		pid_t sleeper = fork();
		if (!sleeper) {
			pause();
			_exit(0);
		}
		pid_t program = fork();
		if (!program) {
			execlp("true", "true", NULL);
			_exit(127);
		}
		CHECK_EQ(wait_for(program), 0);
		pid_t toucher = fork();
		if (!toucher) {
			signal(SIGSEGV, SIG_DFL);
			_exit(*(volatile unsigned char *)guest.mem == 0xff);
		}
		int status = wait_for(toucher);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
		guest_check_all(&guest);
		CHECK_EQ(evict_all(&guest).nr_failed, 0);
		CHECK_EQ(guest_stats(&guest)->nr_resident, 0);
		guest_check_all(&guest);
		guest_close(&guest);
		kill(sleeper, SIGKILL);
		wait_for(sleeper);
	}
}

/* ---- A balloon on shared memory --------------------------------------------------------- */

static void punch(struct guest *guest, uint64_t first, uint64_t count)
{
	CHECK_EQ(fallocate(guest->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)bytes(first), (off_t)bytes(count)), 0);
}

static void balloon(void)
{
	struct guest guest;

	for (unsigned variant = 0; variant < 4; variant++) {
		begin(&guest, true);
		if (variant & 1)
			evict_all(&guest);
		if (variant & 2)
			CHECK_EQ(ts_region_discard(guest.region, bytes(FIRST), bytes(COUNT)), 0);
		punch(&guest, FIRST, COUNT);
		if (!(variant & 2))
			CHECK_EQ(ts_region_discard(guest.region, bytes(FIRST), bytes(COUNT)), 0);
		expect_zeros(&guest, FIRST, COUNT);
		guest_close(&guest);
	}
}

/* The header's caveat: without discard, evicted pages come back as they were. */
static void balloon_untold(void)
{
	struct guest guest;

	begin(&guest, true);
	evict_all(&guest);
	punch(&guest, FIRST, COUNT);
	guest_check_all(&guest);
	punch(&guest, FIRST, COUNT);
	expect_zeros(&guest, FIRST, COUNT);
	evict_all(&guest);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_REMOVE), 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

CHECK_MAIN({ "remove_resident", remove_resident }, { "remove_away", remove_away },
	   { "remove_kept", remove_kept }, { "remove_staged", remove_staged },
	   { "remove_on_the_way", remove_on_the_way }, { "unmap_on_the_way", unmap_on_the_way },
	   { "free_lazily", free_lazily }, { "unmap_middle", unmap_middle },
	   { "unmap_everything", unmap_everything }, { "foreign_anon", foreign_anon },
	   { "foreign_memfd", foreign_memfd }, { "move_whole", move_whole },
	   { "move_part", move_part }, { "move_dontunmap", move_dontunmap },
	   { "unmap_more_than_bound", unmap_more_than_bound },
	   { "move_more_than_bound", move_more_than_bound }, { "fork_and_exec", fork_and_exec },
	   { "balloon", balloon }, { "balloon_untold", balloon_untold })
