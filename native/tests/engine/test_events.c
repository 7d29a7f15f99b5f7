/* SPDX-License-Identifier: Apache-2.0
 *
 * test_events.c — what the guest's own madvise, fork and balloon do to pages that are here, away,
 * or on their way, and that the rest stays right and evictable. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "engine/events.h"

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
	expect_removed(&guest, 1, COUNT);
	struct ts_stats *stats = guest_stats(&guest);
	CHECK(stats->nr_away < nr_away);
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

/* On probation: in the staging area, not yet in a store.  Under rwp no page is ever there. */
static void remove_staged(void)
{
	struct guest guest;

	begin_tracked(&guest, false, (struct ts_engine_options){ .log = guest_log },
		      TS_TRACKER_WP);
	guest_evict(&guest, bytes(NR), 0, false);
	CHECK_EQ(guest_stats(&guest)->nr_leaving, NR);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_DONTNEED), 0);
	expect_removed(&guest, COUNT, COUNT);
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

/* The kernel may keep the pages or drop them, until they are written again: a scan or three later
 * they are pages like any other. */
static void free_lazily(void)
{
	struct guest guest;

	begin(&guest, false);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_FREE), 0);
	for (unsigned round = 0; round < 4; round++)
		scan_once(&guest);
	CHECK_EQ(guest_stats(&guest)->nr_resident, NR);
	evict_all(&guest);
	guest_check_and_rest(&guest, NR);
	CHECK_EQ(evict_all(&guest).nr_claimed, NR);
	CHECK_EQ(madvise(at(&guest, FIRST), bytes(COUNT), MADV_FREE), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		CHECK(is_zero(&guest, page));
	expect_zeros(&guest, FIRST, COUNT);
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
		guest_check_and_rest(&guest, NR);
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
	   { "free_lazily", free_lazily }, { "fork_and_exec", fork_and_exec },
	   { "balloon", balloon }, { "balloon_untold", balloon_untold })
