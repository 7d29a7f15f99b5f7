/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_verify.c — "verify": keeps a checksum of every frame that was put and holds every get to
 * it.  The engine's frames carry checksums of their own; this one tells a store that returns
 * another frame, or an older one, from a store that returns the right one.
 *
 * A key that is not known (put before this process) is not checked.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "store/pool_class.h"
#include "store/wrap.h"

struct verify_store {
	struct ts_wrap wrap;
	size_t table_bytes;
	_Atomic uint64_t *sums; /* by key, touched where used; 0: not known */
};

static const struct ts_store_ops verify_ops;

static int verify_option(void *context, const char *key, const char *value)
{
	return ts_fail(TS_ECONFIG, "verify: no option '%s'; it has none", key);
}

static int verify_open(struct ts_store *next, const struct ts_store_config *config,
		       struct ts_store **store_out)
{
	struct verify_store *store;
	int result = ts_options_parse("verify", config->options, verify_option, NULL);

	if (result < 0)
		return result;
	if (config->key_max >= SIZE_MAX / sizeof(store->sums[0]))
		return ts_fail(TS_ELIMIT, "verify: key_max is too large for a table of keys");
	store = ts_wrap_create(sizeof(*store), &verify_ops, next, config);
	if (!store)
		return -ENOMEM;
	store->table_bytes = (config->key_max + 1) * sizeof(store->sums[0]);
	store->sums = ts_pool_map(store->table_bytes);
	if (!store->sums) {
		free(store);
		return ts_fail(-ENOMEM, "verify: can't map a table for %llu keys",
			       (unsigned long long)config->key_max);
	}
	*store_out = &store->wrap.base;
	return 0;
}

static void verify_close(struct ts_store *base)
{
	struct verify_store *store = (struct verify_store *)base;

	if (store)
		munmap(store->sums, store->table_bytes);
	ts_wrap_close(base);
}

static uint64_t sum_of(const void *data, uint32_t len_bytes)
{
	uint64_t sum = XXH3_64bits(data, len_bytes);

	return sum ? sum : 1;
}

static int verify_put(struct ts_store *base, struct ts_put *items, unsigned nr_items)
{
	struct verify_store *store = (struct verify_store *)base;
	int result = ts_store_put(store->wrap.next, items, nr_items);

	/* One that failed has left what the key held before. */
	for (unsigned i = 0; i < nr_items; i++)
		if (items[i].status == 0)
			atomic_store(&store->sums[items[i].key],
				     sum_of(items[i].data, items[i].len_bytes));
	return result;
}

static int verify_del(struct ts_store *base, const uint64_t *keys, unsigned nr_keys)
{
	struct verify_store *store = (struct verify_store *)base;

	/* Before the call: after it the key may be in use again. */
	for (unsigned i = 0; i < nr_keys; i++)
		atomic_store(&store->sums[keys[i]], 0);
	return ts_store_del(store->wrap.next, keys, nr_keys);
}

static void check(struct verify_store *store, struct ts_get *request)
{
	uint64_t sum = atomic_load(&store->sums[request->key]);
	const char *frame = (const char *)request->buf + request->off_bytes;

	if (request->status == 0 && sum && sum != sum_of(frame, request->len_bytes))
		request->status = TS_ECORRUPT;
}

static int verify_get(struct ts_reader *base, struct ts_get *request)
{
	int result = ts_wrap_get(base, request);

	if (result == 0)
		check((struct verify_store *)base->store, request);
	return result;
}

static int verify_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max,
		       int wait_ms)
{
	int nr_done = ts_wrap_reap(base, done, done_max, wait_ms);

	for (int i = 0; i < nr_done; i++)
		check((struct verify_store *)base->store, done[i]);
	return nr_done;
}

static const struct ts_store_ops verify_ops = {
	.size = sizeof(verify_ops),
	.name = "verify",
	.open = ts_wrap_open_alone,
	.close = verify_close,
	.put = verify_put,
	.del = verify_del,
	.reader_open = ts_wrap_reader_open,
	.reader_close = ts_wrap_reader_close,
	.get = verify_get,
	.reap = verify_reap,
	.reader_arena = ts_wrap_reader_arena,
	.reader_fd = ts_wrap_reader_fd,
	.maintain = ts_wrap_maintain,
	.stat = ts_wrap_stat,
};

const struct ts_wrap_kind ts_wrap_verify = {
	.name = "verify", .ops = &verify_ops, .open = verify_open,
};
