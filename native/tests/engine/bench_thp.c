/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_thp.c — what a guest pays once evictions have split its huge pages: random reads of memory
 * that is all resident, before an eviction, after everything has come back in small pages, and
 * after the option `collapse` has made huge pages again.
 *
 *   bench_thp [MIB]
 *
 * Prints nanoseconds a read, and how much of the memory is in huge pages. */
#include <inttypes.h>
#include <time.h>

#include "guest.h"
#include "os/uapi.h"
#include "thp.h"

enum { READS = 4 << 20, REPEATS = 3 };

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The best of a few rounds.  Each address depends on the read before, so nothing overlaps. */
static double ns_a_read(const struct guest *guest)
{
	uint64_t nr_words = guest->nr_pages * GUEST_PAGE / 8, best_ns = UINT64_MAX;
	const uint64_t *words = (const uint64_t *)guest->mem;

	for (unsigned repeat = 0; repeat < REPEATS; repeat++) {
		uint64_t start_ns = now_ns(), at = 0;
		for (unsigned i = 0; i < READS; i++)
			at = guest_mix(words[at % nr_words] + i);
		uint64_t took_ns = now_ns() - start_ns + (at == 1);
		best_ns = took_ns < best_ns ? took_ns : best_ns;
	}
	return (double)best_ns / READS;
}

static void show(const struct guest *guest, const char *what)
{
	printf("%-28s %6.1f ns a read, %4" PRIu64 " MiB in huge pages\n", what, ns_a_read(guest),
	       thp_bytes(guest->mem) >> 20);
}

int main(int argc, char **argv)
{
	uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 256;
	struct guest guest = { 0 };

	guest_map(&guest, mib << 8, false);
	CHECK_EQ(madvise(guest.mem, mib << 20, MADV_DONTNEED), 0);
	CHECK_EQ(madvise(guest.mem, mib << 20, MADV_HUGEPAGE), 0);
	for (uint64_t page = 0; page < guest.nr_pages; page++)
		guest_fill(&guest, page, 0);
	thp_make(guest.mem, mib << 20);
	guest_open(&guest);
	int tier = guest_add_tier(&guest, "warm", "ram", NULL, mib << 20, TS_CODEC_LZ4, 4096, NULL);
	CHECK_EQ(tier, 0);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){ .collapse = true });
	show(&guest, "before");
	guest_evict(&guest, mib << 20, 0, true);
	guest_check_all(&guest);
	show(&guest, "back, in small pages");
	uint64_t start_ns = now_ns();
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	printf("collapse: %.1f ms\n", (double)(now_ns() - start_ns) / 1e6);
	show(&guest, "collapsed");
	guest_close(&guest);
	return 0;
}
