/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_window.c — what guest threads wait for while a memfd region is deactivated, scanned and
 * evicted, over and over: `bench_window [seconds [auto|zap|rwp]]`.
 *
 * Toucher threads read or write a page at random, most of them in a hot eighth, and time each touch
 * by the clock.  Three quarters of the region are held away.  Printed: percentiles of the touches
 * without and with evictions, and the windows' own (TS_STAGE_WINDOW). */
#include <inttypes.h>
#include <time.h>

#include "../guest.h"
#include "util/hist.h"

enum { PAGES = 16384, TOUCHERS = 2 };

struct toucher {
	struct guest *guest;
	pthread_t thread;
	struct ts_hist waits;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *touch(void *arg)
{
	struct toucher *toucher = arg;
	struct guest *guest = toucher->guest;
	uint64_t state = (uintptr_t)arg;

	while (!atomic_load_explicit(&guest->is_stopping, memory_order_relaxed)) {
		uint64_t random = guest_mix(state += UINT64_C(0x9e3779b97f4a7c15));
		uint64_t span = random % 64 ? PAGES / 8 : PAGES;
		/* The last bytes of a page: nobody checks them here. */
		volatile unsigned char *byte = guest->mem +
					       ((random >> 8) % span) * GUEST_PAGE + 4095;
		uint64_t start_ns = now_ns();
		if (random >> 63)
			*byte = (unsigned char)random;
		else
			(void)*byte;
		ts_hist_add(&toucher->waits, now_ns() - start_ns);
	}
	return NULL;
}

static void print(const char *what, const struct ts_hist *hist)
{
	printf("%-22s %10" PRIu64 "   p50 %8.1f  p99 %8.1f  p99.9 %8.1f  p99.99 %8.1f  "
	       "max %9.1f us\n", what, hist->count, (double)ts_hist_percentile_ns(hist, 0.5) / 1e3,
	       (double)ts_hist_percentile_ns(hist, 0.99) / 1e3,
	       (double)ts_hist_percentile_ns(hist, 0.999) / 1e3,
	       (double)ts_hist_percentile_ns(hist, 0.9999) / 1e3, (double)hist->max_ns / 1e3);
}

/* Touchers run for so long, beside the cycle or alone. */
static void run(struct guest *guest, double seconds, bool is_evicting)
{
	static struct toucher touchers[TOUCHERS];
	struct ts_scan_result scan = { .size = sizeof(scan) };
	struct timespec pause = { .tv_nsec = 20000000 };
	static struct ts_hist waits;
	uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);

	memset(&waits, 0, sizeof(waits));
	atomic_store(&guest->is_stopping, false);
	for (unsigned i = 0; i < TOUCHERS; i++) {
		touchers[i] = (struct toucher){ .guest = guest };
		CHECK_EQ(pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]), 0);
	}
	while (now_ns() < end_ns) {
		nanosleep(&pause, NULL);
		if (!is_evicting)
			continue;
		CHECK_EQ(ts_region_scan(guest->region, &scan), 0);
		if (scan.nr_resident > PAGES / 4)
			guest_evict(guest, (scan.nr_resident - PAGES / 4) * GUEST_PAGE, 1, true);
		CHECK_EQ(ts_region_deactivate(guest->region), 0);
	}
	atomic_store(&guest->is_stopping, true);
	for (unsigned i = 0; i < TOUCHERS; i++) {
		pthread_join(touchers[i].thread, NULL);
		ts_hist_merge(&waits, &touchers[i].waits);
	}
	print(is_evicting ? "touches, evicting" : "touches, no evictions", &waits);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
	const char *tracker = argc > 2 ? argv[2] : "auto";
	struct guest guest = { 0 };

	guest_map(&guest, PAGES, true);
	guest_open(&guest);
	CHECK_EQ(guest_add_tier(&guest, "warm", "ram", NULL, 128 << 20, TS_CODEC_LZ4, 4096, NULL),
		 0);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){
		.nr_shards = 1,
		.tracker = !strcmp(tracker, "zap") ? TS_TRACKER_ZAP :
			   !strcmp(tracker, "rwp") ? TS_TRACKER_RWP : TS_TRACKER_AUTO });
	run(&guest, seconds / 2, false);
	run(&guest, seconds, true);
	struct ts_stats *stats = guest_stats(&guest);
	print("windows", &stats->stages[TS_STAGE_WINDOW]);
	print("faults answered", &stats->stages[TS_STAGE_FAULT]);
	printf("%" PRIu64 " evicted, %" PRIu64 " cancelled, %" PRIu64 " faults, %" PRIu64
	       " at a guard\n", stats->nr_evicted, stats->nr_cancelled, stats->nr_faults,
	       stats->nr_faults_guard);
	CHECK_EQ(ts_region_detach(guest.region), 0);
	ts_engine_close(guest.engine);
	CHECK_EQ(rmdir(guest.folder), 0);
	return 0;
}
