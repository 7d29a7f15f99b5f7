/* SPDX-License-Identifier: Apache-2.0
 *
 * hist.c — histograms with a relative error of at most 1/16, from 0 ns to 34 s.
 *
 * Buckets 0..15 hold the values 0..15.  Above, every power of two is cut into 16 equal buckets,
 * so that the bucket follows from the position of the highest bit and the four bits below it.
 */
#include "util/hist.h"

#include "util/base.h"

enum { SUB_BITS = 4, SUB = 1 << SUB_BITS };

_Static_assert(TS_HIST_BUCKETS % SUB == 0, "whole powers of two");

unsigned ts_hist_bucket(uint64_t value_ns)
{
	unsigned high_bit, shift, bucket;

	if (value_ns < SUB)
		return (unsigned)value_ns;
	high_bit = 63u - (unsigned)__builtin_clzll(value_ns);
	shift = high_bit - SUB_BITS;
	bucket = SUB + shift * SUB + (unsigned)((value_ns >> shift) & (SUB - 1));
	return TS_MIN(bucket, (unsigned)TS_HIST_BUCKETS - 1);
}

uint64_t ts_hist_bucket_ns(unsigned bucket)
{
	if (bucket < SUB)
		return bucket;
	/* One past the last is allowed: it is the upper bound of the last. */
	bucket = TS_MIN(bucket, (unsigned)TS_HIST_BUCKETS);
	return (uint64_t)(SUB + bucket % SUB) << (bucket / SUB - 1);
}

static uint64_t read_relaxed(const uint64_t *number)
{
	return __atomic_load_n(number, __ATOMIC_RELAXED);
}

/* Only this thread writes, so a load and a store do: no read-modify-write on the bus. */
static void bump(uint64_t *number, uint64_t by)
{
	__atomic_store_n(number, read_relaxed(number) + by, __ATOMIC_RELAXED);
}

void ts_hist_add(struct ts_hist *hist, uint64_t value_ns)
{
	bump(&hist->buckets[ts_hist_bucket(value_ns)], 1);
	bump(&hist->count, 1);
	bump(&hist->sum_ns, value_ns);
	if (value_ns > read_relaxed(&hist->max_ns))
		__atomic_store_n(&hist->max_ns, value_ns, __ATOMIC_RELAXED);
}

void ts_hist_merge(struct ts_hist *dst, const struct ts_hist *src)
{
	uint64_t max_ns = read_relaxed(&src->max_ns);

	dst->count += read_relaxed(&src->count);
	dst->sum_ns += read_relaxed(&src->sum_ns);
	dst->max_ns = TS_MAX(dst->max_ns, max_ns);
	for (unsigned i = 0; i < TS_HIST_BUCKETS; i++)
		dst->buckets[i] += read_relaxed(&src->buckets[i]);
}

uint64_t ts_hist_percentile_ns(const struct ts_hist *hist, double share)
{
	uint64_t total = 0, seen = 0, wanted, max_ns = read_relaxed(&hist->max_ns);

	for (unsigned i = 0; i < TS_HIST_BUCKETS; i++)
		total += read_relaxed(&hist->buckets[i]);
	if (total == 0)
		return 0;
	if (!(share < 1.0))
		return max_ns;
	/* The rank of the sample asked for, from 1; a negative share means the first. */
	wanted = share > 0 ? (uint64_t)(share * (double)total) : 0;
	if ((double)wanted < share * (double)total || wanted == 0)
		wanted++;
	for (unsigned i = 0; i < TS_HIST_BUCKETS; i++) {
		seen += read_relaxed(&hist->buckets[i]);
		/* The bucket's largest value: never flatters.  The last bucket has no end. */
		if (seen >= wanted)
			return i == TS_HIST_BUCKETS - 1 ? max_ns
				: TS_MIN(ts_hist_bucket_ns(i + 1) - 1, max_ns);
	}
	return max_ns;
}
