/* SPDX-License-Identifier: Apache-2.0
 * wrap_stats.c — "stats": counts and times every call of the store behind it. */
#include <errno.h>
#include <string.h>

#include "store/forward.h"
#include "store/wrap.h"
#include "util/hist.h"
#include "util/sized.h"

struct stats_store {
	struct ts_wrap wrap;
	pthread_mutex_t lock; /* guards stat; innermost, held for a few additions */
	struct ts_store_wrap_stat stat;
};

static const struct ts_store_ops stats_ops;

static int stats_option(void *context, const char *key, const char *value)
{
	return ts_fail(TS_ECONFIG, "stats: no option '%s'; it has none", key);
}

static int stats_open(struct ts_store *next, const struct ts_store_config *config,
		      struct ts_store **store_out)
{
	int result = ts_options_parse("stats", config->options, stats_option, NULL);

	if (result < 0)
		return result;
	struct stats_store *store = ts_wrap_create(sizeof(*store), &stats_ops, next, config);
	if (!store)
		return -ENOMEM;
	pthread_mutex_init(&store->lock, NULL);
	*store_out = &store->wrap.base;
	return 0;
}

static void stats_close(struct ts_store *base)
{
	if (base)
		pthread_mutex_destroy(&((struct stats_store *)base)->lock);
	ts_wrap_close(base);
}

static int stats_put(struct ts_store *base, struct ts_put *items, unsigned nr_items)
{
	struct stats_store *store = (struct stats_store *)base;
	ts_mono_ns start_ns = ts_now_ns();
	int result = ts_store_put(store->wrap.next, items, nr_items);
	ts_mono_ns end_ns = ts_now_ns();

	TS_SCOPED_LOCK(&store->lock);
	ts_hist_add(&store->stat.put_ns, end_ns - start_ns);
	for (unsigned i = 0; i < nr_items; i++) {
		if (items[i].status == 0) {
			store->stat.nr_puts++;
			store->stat.put_bytes += items[i].len_bytes;
		} else {
			store->stat.nr_put_failures++;
		}
	}
	return result;
}

static int stats_del(struct ts_store *base, const uint64_t *keys, unsigned nr_keys)
{
	struct stats_store *store = (struct stats_store *)base;
	ts_mono_ns start_ns = ts_now_ns();
	int result = ts_store_del(store->wrap.next, keys, nr_keys);
	ts_mono_ns end_ns = ts_now_ns();

	TS_SCOPED_LOCK(&store->lock);
	ts_hist_add(&store->stat.del_ns, end_ns - start_ns);
	if (result == 0)
		store->stat.nr_dels += nr_keys;
	else
		store->stat.nr_del_failures += nr_keys;
	return result;
}

static void count_get(struct stats_store *store, const struct ts_get *request, uint64_t start_ns)
{
	ts_mono_ns end_ns = ts_now_ns();

	TS_SCOPED_LOCK(&store->lock);
	ts_hist_add(&store->stat.get_ns, end_ns - start_ns);
	if (request->status == 0) {
		store->stat.nr_gets++;
		store->stat.get_bytes += request->len_bytes;
	} else {
		store->stat.nr_get_failures++;
	}
}

static int stats_get(struct ts_reader *base, struct ts_get *request)
{
	struct ts_wrap_reader *reader = (struct ts_wrap_reader *)base;
	ts_mono_ns start_ns = ts_now_ns();
	int result = ts_store_get(reader->next, request);

	if (result == 0)
		count_get((struct stats_store *)base->store, request, start_ns);
	else
		ts_wrap_slot_take(reader, request, start_ns);
	return result;
}

static int stats_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max, int wait_ms)
{
	struct ts_wrap_reader *reader = (struct ts_wrap_reader *)base;
	int nr_done = ts_store_reap(reader->next, done, done_max, wait_ms);

	for (int i = 0; i < nr_done; i++)
		count_get((struct stats_store *)base->store, done[i],
			  ts_wrap_slot_give(reader, done[i]));
	return nr_done;
}

int ts_store_wrap_stats(struct ts_store *base, struct ts_store_wrap_stat *stat)
{
	struct stats_store *store = (struct stats_store *)ts_guard_find(base, &stats_ops);
	int rc = ts_sized_check(stat->size, "ts_store_wrap_stat");

	if (rc)
		return rc;
	if (!store)
		return ts_fail(TS_ENOTFOUND, "store '%s' has no wrapper 'stats'", base->ops->name);
	TS_SCOPED_LOCK(&store->lock);
	ts_sized_out(stat, &store->stat, sizeof(store->stat));
	return 0;
}

static const struct ts_store_ops stats_ops = {
	.size = sizeof(stats_ops),
	.name = "stats",
	.open = ts_wrap_open_alone,
	.close = stats_close,
	.put = stats_put,
	.del = stats_del,
	.reader_open = ts_wrap_reader_open,
	.reader_close = ts_wrap_reader_close,
	.get = stats_get,
	.reap = stats_reap,
	.reader_arena = ts_wrap_reader_arena,
	.reader_fd = ts_wrap_reader_fd,
	.maintain = ts_wrap_maintain,
	.stat = ts_wrap_stat,
};

const struct ts_wrap_kind ts_wrap_stats = {
	.name = "stats", .ops = &stats_ops, .open = stats_open,
};
