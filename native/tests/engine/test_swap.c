/* SPDX-License-Identifier: Apache-2.0
 *
 * test_swap.c — the kernel swaps the guest's pages while they are evicted and served: a host with
 * swap, or with a kernel daemon that pages out what it finds cold.
 *
 * With swap in play UFFDIO_MOVE moves a page, tries again, and reports the page it has just moved
 * as being in its way (EEXIST); who believes it loses the page. */
#include "swap.h"

enum { PAGES = 8192 };

static void *page_out(void *arg)
{
	struct guest *guest = arg;

	while (!atomic_load(&guest->is_stopping)) {
		madvise(guest->mem, guest->nr_pages * GUEST_PAGE, MADV_PAGEOUT);
		usleep(3000);
	}
	return NULL;
}

/* The kernel gives up on pages that somebody else is at work on, or when memory is short for the
 * moment, and wants to be asked again. */
static void swap_off(const char *path)
{
	unsigned n = 0;

	while (swapoff(path)) {
		int error = errno;
		fprintf(stderr, "swapoff %s: %s\n", path, strerror(error));
		CHECK((error == EINTR || error == EAGAIN || error == EBUSY || error == ENOMEM) &&
		      n++ < 50);
		usleep(100000);
	}
	swap_path[0] = '\0';
}

static void run_guest(struct guest *guest, uint64_t evicted_min)
{
	struct ts_scan_result scan = { .size = sizeof(scan) };
	pthread_t threads[3];

	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, i ? guest_worker : page_out, guest), 0);
	for (unsigned round = 0; guest_stats(guest)->nr_evicted < evicted_min; round++) {
		CHECK_EQ(ts_region_deactivate(guest->region), 0);
		guest_evict(guest, guest->nr_pages * GUEST_PAGE / 2, round % 2, round % 3 == 0);
		CHECK_EQ(ts_region_scan(guest->region, &scan), 0);
	}
	atomic_store(&guest->is_stopping, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

static void swapped(bool is_memfd)
{
	struct guest guest = { 0 };
	char path[160];

	alarm(300);
	guest_map(&guest, check_rounds(PAGES), is_memfd);
	guest_open(&guest);
	guest_add_ladder(&guest);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){ .probation_ms = 20 });
	snprintf(path, sizeof(path), "%s", guest_path(&guest, "swap"));
	if (!swap_on(path)) {
		guest_close(&guest);
		SKIP("no swap file can be had here (not root, or a file system without)");
	}
	run_guest(&guest, check_rounds(2 * PAGES));
	uint64_t nr_wrong = atomic_load(&guest.nr_wrong);
	ts_engine_close(guest.engine);
	guest.engine = NULL;
	swap_off(path);
	CHECK_EQ(nr_wrong, 0);
	guest_close(&guest);
	alarm(0);
}

static void anon(void) { swapped(false); }
static void memfd(void) { swapped(true); }

CHECK_MAIN({ "anon", anon }, { "memfd", memfd })
