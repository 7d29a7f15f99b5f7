/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pitfalls.c — pages that the kernel will not part with, and moments in which it protects
 * nothing: the engine leaves such pages where they are, whole, and takes them when it can.
 * tests/README.md has the table of the kernel's pitfalls, their programs and these answers.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "guest.h"
#include "kernel/kern_ksm.h"
#include "page/region.h"
#include "track/track.h"
#include "util/hook.h"

enum { PAGES = 1024, ALL = PAGES * GUEST_PAGE };

static void start(struct guest *guest)
{
	CHECK_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	guest_map(guest, PAGES, false);
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
}

static bool is_resident(struct guest *guest, uint64_t page)
{
	return ts_word_is(ts_word_load(&guest->region->words[page]), TS_RESIDENT);
}

static uint64_t nr_refused(struct guest *guest)
{
	return guest_stats(guest)->failures[TS_FAIL_TAKE];
}

/* Merged pages: KSM drops their protection, and MOVE refuses them.  A page stays until its guest
 * writes it, which ends the merge. */
static void merged_pages_stay(void)
{
	struct guest guest = { 0 };
	uint64_t nr_merged = 0;

	start(&guest);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	kern_ksm_merge(guest.mem, ALL);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	guest_evict(&guest, ALL, 0, true);
	for (uint64_t page = 0; page < PAGES; page++)
		nr_merged += is_resident(&guest, page);
	printf("  %llu merged\n", (unsigned long long)nr_merged);
	CHECK(nr_merged > 0);
	CHECK_EQ(nr_refused(&guest), nr_merged);
	guest_check_and_rest(&guest, PAGES);

	CHECK_EQ(madvise(guest.mem, ALL, MADV_UNMERGEABLE), 0);
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, PAGES);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* What a child from before the attach shares is refused, also after its end, until it is written:
 * then it is the guest's own. */
static void shared_pages_stay(void)
{
	struct guest guest = { 0 };
	int fds[2], status;

	start(&guest);
	CHECK_EQ(pipe(fds), 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		char byte;
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) != 0);
	}
	close(fds[0]);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, 0);
	CHECK_EQ(nr_refused(&guest), PAGES);
	close(fds[1]);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, 0);
	for (uint64_t page = 0; page < PAGES; page += 2) {
		guest_fill(&guest, page, 1);
		atomic_store(&guest.versions[page], 1);
	}
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, PAGES / 2);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* A device that reads or writes a pinned page goes past the page table: the page must not leave. */
static void pinned_pages_stay(void)
{
	enum { FIRST = 100, NR = 16 };
	struct guest guest = { 0 };
	struct io_uring ring;

	start(&guest);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	struct iovec pinned = { guest.mem + FIRST * GUEST_PAGE, (size_t)NR * GUEST_PAGE };
	CHECK_EQ(io_uring_queue_init(2, &ring, 0), 0);
	CHECK_EQ(io_uring_register_buffers(&ring, &pinned, 1), 0);
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, PAGES - NR);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(is_resident(&guest, page), page >= FIRST && page < FIRST + NR);
	CHECK_EQ(nr_refused(&guest), NR);

	CHECK_EQ(io_uring_unregister_buffers(&ring), 0);
	io_uring_queue_exit(&ring);
	/* The kernel drops the pin by deferred work. */
	for (unsigned ms = 0; guest_stats(&guest)->nr_resident && ms < 20000; ms++) {
		guest_evict(&guest, ALL, 0, true);
		usleep(1000);
	}
	CHECK_EQ(guest_stats(&guest)->nr_resident, 0);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* A range is never registered a second time with other modes, which would drop nothing: the next
 * attach is after an UNREGISTER, and finds nothing armed. */
static void next_attach_starts_afresh(void)
{
	static const enum ts_tracker order[] = { TS_TRACKER_AUTO, TS_TRACKER_WP, TS_TRACKER_AUTO };
	struct guest guest = { 0 };

	start(&guest);
	for (unsigned i = 0; i < 3; i++) {
		guest_attach(&guest, (struct ts_region_options){ .tracker = order[i] });
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		guest_evict(&guest, ALL / 2, 0, true);
		CHECK_EQ(ts_region_detach(guest.region), 0);
		guest.region = NULL;
		guest_check_all(&guest);
	}
	guest_close(&guest);
}

/* Brought back ahead of need: young for one scan, for somebody expected the guest to want it; after
 * that cold like any page that nobody touches, and gone again. */
static void prefetched_pages_grow_old(void)
{
	struct ts_scan_result scan = { .size = sizeof(scan) };
	struct guest guest = { 0 };

	start(&guest);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	CHECK_EQ(guest_evict(&guest, ALL, 0, true).nr_evicted, PAGES);
	CHECK_EQ(ts_region_prefetch(guest.region, 0, ALL), 0);
	uint64_t nr_back = guest_stats(&guest)->nr_resident;
	CHECK(nr_back > PAGES / 2);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(guest_evict(&guest, ALL, 1, true).nr_claimed, 0);
		CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
		CHECK_EQ(i ? scan.nr_cold : scan.nr_touched, nr_back);
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
	}
	/* One that the kernel has in its hands this moment (a daemon that looks at it) stays. */
	uint64_t nr_gone = guest_evict(&guest, ALL, 1, true).nr_evicted;
	for (unsigned ms = 0; nr_gone < nr_back && ms < 20000; ms++) {
		usleep(1000);
		CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
		CHECK_EQ(ts_region_deactivate(guest.region), 0);
		nr_gone += guest_evict(&guest, ALL, 1, true).nr_evicted;
	}
	CHECK_EQ(nr_gone, nr_back);
	guest_check_all(&guest);
	guest_close(&guest);
}
#ifdef TS_HOOKS
/* An event is queued while the protection is due (EAGAIN): nothing is protected, and all of it
 * counts as touched, until the next time. */
static void unprotected_is_touched(void)
{
	struct ts_scan_result scan = { .size = sizeof(scan) };
	struct guest guest = { 0 };

	start(&guest);
	guest_attach(&guest, (struct ts_region_options){ 0 });
	if (guest.region->tracker != &ts_tracker_rwp_ops) {
		guest_close(&guest);
		SKIP("RWP needs Linux 7.3");
	}
	ts_hook_inject(1u << TS_SITE_IOCTL_WP, 1, EAGAIN, true);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	ts_hook_inject(0, 0, 0, 0);
	CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, PAGES);
	CHECK_EQ(guest_evict(&guest, ALL, 1, true).nr_claimed, 0);
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
	CHECK_EQ(scan.nr_cold, PAGES);
	guest_check_all(&guest);
	guest_close(&guest);
}
#else
static void unprotected_is_touched(void) { SKIP("needs a build with hooks"); }
#endif

CHECK_MAIN({ "merged_pages_stay", merged_pages_stay },
	   { "shared_pages_stay", shared_pages_stay }, { "pinned_pages_stay", pinned_pages_stay },
	   { "next_attach_starts_afresh", next_attach_starts_afresh },
	   { "unprotected_is_touched", unprotected_is_touched },
	   { "prefetched_pages_grow_old", prefetched_pages_grow_old })
