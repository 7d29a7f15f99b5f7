/* SPDX-License-Identifier: Apache-2.0
 * ram.c — the store "ram": frames in this process's memory.  All of it is in the pool. */
#include <errno.h>
#include <stdatomic.h>

#include "store/pool.h"
#include "store/wrap.h"
#include "util/base.h"
#include "util/hook.h"

struct ram_store {
	struct ts_store base;
	struct ts_pool *pool;
	_Atomic uint64_t nr_errors;
};

static const char ram_owner[] = "ram";

static int ram_option(void *context, const char *key, const char *value)
{
	return ts_fail(TS_ECONFIG, "%s: there is no option '%s'; ram has none", ram_owner, key);
}

extern const struct ts_store_ops ts_store_ram_ops;

static int ram_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	struct ts_pool_options options = {
		.name = config->name,
		.size_bytes = config->size_bytes,
		.key_max = config->key_max,
		.frame_max_bytes = config->frame_max_bytes,
	};
	struct ram_store *store;
	int result = ts_options_parse(ram_owner, config->options, ram_option, NULL);

	if (result < 0)
		return result;
	store = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*store));
	if (!store)
		return ts_fail(-ENOMEM, "store '%s': no memory", config->name);
	result = ts_pool_create(&options, &store->pool);
	if (result < 0) {
		free(store);
		return result;
	}
	store->base.ops = &ts_store_ram_ops;
	*store_out = &store->base;
	return 0;
}

static void ram_close(struct ts_store *base)
{
	struct ram_store *store = (struct ram_store *)base;

	if (!store)
		return;
	ts_pool_destroy(store->pool);
	free(store);
}

static int ram_put(struct ts_store *base, struct ts_put *items, unsigned nr_items)
{
	struct ram_store *store = (struct ram_store *)base;

	for (unsigned i = 0; i < nr_items; i++) {
		struct ts_put *item = &items[i];

		item->status = ts_pool_put(store->pool, item->key, item->data, item->len_bytes);
		if (item->status < 0 && item->status != TS_EFULL)
			atomic_fetch_add(&store->nr_errors, 1);
	}
	return 0;
}

static int ram_del(struct ts_store *base, const uint64_t *keys, unsigned nr_keys)
{
	for (unsigned i = 0; i < nr_keys; i++)
		ts_pool_del(((struct ram_store *)base)->pool, keys[i]);
	return 0;
}

static int ram_reader_open(struct ts_store *base, struct ts_reader **reader_out)
{
	struct ts_reader *reader = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*reader));

	if (!reader)
		return ts_fail(-ENOMEM, "store 'ram': no memory for a reader");
	reader->store = base;
	*reader_out = reader;
	return 0;
}

static void ram_reader_close(struct ts_reader *reader)
{
	free(reader);
}

static int ram_get(struct ts_reader *reader, struct ts_get *request)
{
	struct ram_store *store = (struct ram_store *)reader->store;

	request->off_bytes = 0;
	request->status = ts_pool_get(store->pool, request->key, request->buf,
				      &request->len_bytes);
	return 0;
}

static void ram_reader_expect(struct ts_reader *reader, uint64_t key)
{
	ts_pool_expect(((struct ram_store *)reader->store)->pool, key);
}

/* The spare pages are worth having back when the store is nearly full. */
static int ram_maintain(struct ts_store *base)
{
	struct ram_store *store = (struct ram_store *)base;
	struct ts_pool_stat stat;

	ts_pool_stat_get(store->pool, &stat);
	if (stat.used_bytes > stat.capacity_bytes / 10 * 9)
		ts_pool_trim(store->pool);
	return 0;
}

static int ram_stat(struct ts_store *base, struct ts_store_stat *stat)
{
	struct ram_store *store = (struct ram_store *)base;
	struct ts_pool_stat pool;

	ts_pool_stat_get(store->pool, &pool);
	stat->capacity_bytes = pool.capacity_bytes;
	stat->nr_frames = pool.nr_frames;
	stat->frame_bytes = pool.frame_bytes;
	stat->used_bytes = pool.used_bytes;
	stat->memory_bytes = pool.used_bytes;
	stat->index_bytes = pool.index_bytes;
	stat->written_bytes = pool.written_bytes;
	stat->device_bytes = pool.written_bytes + pool.moved_bytes;
	stat->moved_bytes = pool.moved_bytes;
	stat->discarded_bytes = pool.discarded_bytes;
	stat->nr_errors = atomic_load(&store->nr_errors);
	return 0;
}

const struct ts_store_ops ts_store_ram_ops = {
	.size = sizeof(ts_store_ram_ops),
	.name = "ram",
	.open = ram_open,
	.close = ram_close,
	.put = ram_put,
	.del = ram_del,
	.reader_open = ram_reader_open,
	.reader_close = ram_reader_close,
	.get = ram_get,
	.maintain = ram_maintain,
	.stat = ram_stat,
	.reader_expect = ram_reader_expect,
};
