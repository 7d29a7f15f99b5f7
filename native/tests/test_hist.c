/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hist.c — histograms: every value in its bucket, percentiles that do not flatter, and
 * readers beside the writer.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "util/hist.h"

static struct ts_hist hist;

static void buckets_tile_the_numbers(void)
{
	for (unsigned i = 0; i < TS_HIST_BUCKETS; i++) {
		uint64_t low = ts_hist_bucket_ns(i), next = ts_hist_bucket_ns(i + 1);

		CHECK(next > low);
		CHECK_EQ(ts_hist_bucket(low), i);
		CHECK_EQ(ts_hist_bucket(next - 1), i);
		/* No wider than a 16th of what it holds. */
		CHECK(i < 16 || (next - low) * 16 <= low);
	}
	CHECK_EQ(ts_hist_bucket_ns(0), 0);
	CHECK_EQ(ts_hist_bucket_ns(17), 17);
	CHECK(ts_hist_bucket_ns(TS_HIST_BUCKETS) > 30000000000ull);
	CHECK_EQ(ts_hist_bucket(UINT64_MAX), TS_HIST_BUCKETS - 1);
}

static void percentiles_of_known_samples(void)
{
	memset(&hist, 0, sizeof(hist));
	CHECK_EQ(ts_hist_percentile_ns(&hist, 0.5), 0);
	for (uint64_t ns = 1; ns <= 1000; ns++)
		ts_hist_add(&hist, ns * 1000);
	CHECK_EQ(hist.count, 1000);
	CHECK_EQ(hist.sum_ns, 1000ull * 1000 * 1001 / 2);
	CHECK_EQ(hist.max_ns, 1000000);
	for (unsigned percent = 1; percent < 100; percent++) {
		uint64_t exact = percent * 10000;
		uint64_t got = ts_hist_percentile_ns(&hist, percent / 100.0);

		CHECK(got >= exact);
		CHECK(got <= exact + exact / 16);
	}
	CHECK_EQ(ts_hist_percentile_ns(&hist, 1.0), 1000000);
	CHECK_EQ(ts_hist_percentile_ns(&hist, 7.0), 1000000);
	CHECK(ts_hist_percentile_ns(&hist, -1.0) <= 1063);
}

/* One sample in a hundred is slow: p99 must not show it, anything above must. */
static void a_tail_is_seen(void)
{
	memset(&hist, 0, sizeof(hist));
	for (unsigned i = 0; i < 100; i++)
		ts_hist_add(&hist, i == 50 ? 7000000 : 10);
	CHECK_EQ(ts_hist_percentile_ns(&hist, 0.99), 10);
	CHECK_EQ(ts_hist_percentile_ns(&hist, 0.991), 7000000);
	/* Beyond the last bucket's bound the largest value is all that is known. */
	ts_hist_add(&hist, UINT64_MAX / 2);
	CHECK_EQ(ts_hist_percentile_ns(&hist, 0.999), UINT64_MAX / 2);
}

enum { NR_SAMPLES = 2000000 };

static void *add_samples(void *arg)
{
	for (unsigned i = 0; i < NR_SAMPLES; i++)
		ts_hist_add(arg, i % 4096);
	return NULL;
}

/* Snapshots beside the writer never go back, and the last one is exact. */
static void readers_beside_the_writer(void)
{
	static struct ts_hist snapshot, sum;
	uint64_t before = 0, total;
	pthread_t writer;

	memset(&hist, 0, sizeof(hist));
	CHECK_EQ(pthread_create(&writer, NULL, add_samples, &hist), 0);
	do {
		memset(&snapshot, 0, sizeof(snapshot));
		ts_hist_merge(&snapshot, &hist);
		CHECK(snapshot.count >= before);
		before = snapshot.count;
		total = 0;
		for (unsigned i = 0; i < TS_HIST_BUCKETS; i++)
			total += snapshot.buckets[i];
		/* The buckets are read after the count, so they lag by what a CPU may reorder. */
		CHECK(total + 64 >= snapshot.count);
	} while (snapshot.count < NR_SAMPLES);
	CHECK_EQ(pthread_join(writer, NULL), 0);
	memset(&sum, 0, sizeof(sum));
	ts_hist_merge(&sum, &hist);
	ts_hist_merge(&sum, &hist);
	CHECK_EQ(sum.count, 2 * NR_SAMPLES);
	CHECK_EQ(sum.sum_ns, 2 * hist.sum_ns);
	CHECK_EQ(sum.max_ns, 4095);
	CHECK_EQ(sum.buckets[5], 2 * hist.buckets[5]);
}

CHECK_MAIN({ "buckets_tile_the_numbers", buckets_tile_the_numbers },
	   { "percentiles_of_known_samples", percentiles_of_known_samples },
	   { "a_tail_is_seen", a_tail_is_seen },
	   { "readers_beside_the_writer", readers_beside_the_writer })
