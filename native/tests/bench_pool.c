/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_pool.c — what the pool costs: RAM over the frames' own bytes, after its contents were
 * replaced twenty times with changing sizes, and nanoseconds an operation.
 * Usage: bench_pool [megabytes] [pages|wide] */
#include <string.h>

#include "check.h"
#include "content.h"
#include "store/pool.h"
#include "util/base.h"

enum { LEN_MAX = 70 * 1024, REPLACED = 20 };

static uint64_t state = 42;
static char data[LEN_MAX], buf[LEN_MAX];

/* pages: frames of a 4 KiB page; wide: 60 bytes to 70 KB, each power of two as often. */
static uint32_t random_len(bool is_wide)
{
	uint64_t random = content_random(&state) >> 11;

	if (!is_wide)
		return 200 + (uint32_t)(random % (4136 - 200 + 1));
	uint32_t low = 60u << (random % 11);
	uint32_t len_bytes = low + (uint32_t)((random >> 8) % low);
	return TS_MIN(len_bytes, (uint32_t)LEN_MAX);
}

static uint64_t resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	CHECK(file && fscanf(file, "%llu %llu", &size, &resident) == 2);
	fclose(file);
	return resident * 4096;
}

static void print_waste(const char *when, struct ts_pool *pool, uint64_t before_bytes)
{
	struct ts_pool_stat stat;

	ts_pool_stat_get(pool, &stat);
	printf("%-16s %8llu frames %7.1f MB, used %7.1f MB (+%.2f %%), process %7.1f MB, "
	       "moved %.1f MB\n",
	       when, (unsigned long long)stat.nr_frames, (double)stat.frame_bytes / 1e6,
	       (double)stat.used_bytes / 1e6,
	       100.0 * ((double)stat.used_bytes / (double)stat.frame_bytes - 1),
	       (double)(resident_bytes() - before_bytes) / 1e6, (double)stat.moved_bytes / 1e6);
}

static void print_ns(const char *what, ts_mono_ns start_ns, uint64_t nr_ops)
{
	printf("%-16s %.0f ns\n", what, (double)(ts_now_ns() - start_ns) / (double)nr_ops);
}

int main(int argc, char **argv)
{
	uint64_t megabytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 256;
	bool is_wide = argc > 2 && strcmp(argv[2], "wide") == 0;
	uint64_t target = megabytes << 20, nr_keys = 0, before = resident_bytes();
	struct ts_pool_options options = { .name = "bench", .size_bytes = 2 * target,
		.key_max = (1 << 27) + 65535, .frame_max_bytes = 256 * 1024 + 64 };
	struct ts_pool *pool;
	struct ts_pool_stat stat;
	uint32_t len_bytes;

	CHECK_EQ(ts_pool_create(&options, &pool), 0);
	ts_pool_stat_get(pool, &stat);
	printf("empty: %llu bytes\n", (unsigned long long)stat.used_bytes);
	ts_mono_ns start_ns = ts_now_ns();
	for (; stat.frame_bytes < target; ts_pool_stat_get(pool, &stat))
		CHECK_EQ(ts_pool_put(pool, nr_keys++, data, random_len(is_wide)), 0);
	print_ns("put, growing", start_ns, nr_keys);
	print_waste("filled", pool, before);

	start_ns = ts_now_ns();
	for (uint64_t i = 0; i < REPLACED * nr_keys; i++) {
		uint64_t key = content_random(&state) % nr_keys;

		ts_pool_del(pool, key);
		CHECK_EQ(ts_pool_put(pool, key, data, random_len(is_wide)), 0);
	}
	print_ns("del + put", start_ns, REPLACED * nr_keys);
	print_waste("churned", pool, before);

	start_ns = ts_now_ns();
	for (uint64_t i = 0; i < 4 * nr_keys; i++)
		CHECK_EQ(ts_pool_get(pool, content_random(&state) % nr_keys, buf, &len_bytes), 0);
	print_ns("get", start_ns, 4 * nr_keys);

	start_ns = ts_now_ns();
	for (uint64_t key = 0; key < nr_keys; key++)
		if (key % 10)
			ts_pool_del(pool, key);
	print_ns("del, shrinking", start_ns, nr_keys);
	print_waste("a tenth left", pool, before);
	ts_pool_destroy(pool);
	return 0;
}
