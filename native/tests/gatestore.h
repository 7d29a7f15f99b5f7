/* SPDX-License-Identifier: Apache-2.0
 *
 * gatestore.h — a store for tests whose get() blocks for as long as the test wants: while its gate
 * is shut.  It keeps what was put as (version, length) and makes the bytes up again (content.h).
 */
#ifndef TS_TESTS_GATESTORE_H
#define TS_TESTS_GATESTORE_H

#include <errno.h>
#include <pthread.h>

#include "storekit.h"

enum { GATE_KEYS = 64, GATE_KEY_BAD = GATE_KEYS - 1 /* its gets fail with EIO */ };

/* One at a time, so that tests need no way through the wrappers to it. */
static struct gate {
	struct ts_store base;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int is_shut[GATE_KEYS];
	unsigned nr_inside;       /* threads in get() */
	uint64_t versions[GATE_KEYS];
	uint32_t lens[GATE_KEYS]; /* 0: not there */
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static inline void gate_set(uint64_t key, int is_shut)
{
	pthread_mutex_lock(&gate.lock);
	gate.is_shut[key] = is_shut;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

/* Waits until so many threads are in get(). */
static inline void gate_wait_inside(unsigned nr_inside)
{
	pthread_mutex_lock(&gate.lock);
	while (gate.nr_inside != nr_inside)
		pthread_cond_wait(&gate.changed, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
}

static const struct ts_store_ops gate_ops;

static int gate_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	gate.base.ops = &gate_ops;
	memset(gate.lens, 0, sizeof(gate.lens));
	*store_out = &gate.base;
	return 0;
}

static void gate_close(struct ts_store *store)
{
	CHECK_EQ(gate.nr_inside, 0);
}

static int gate_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	pthread_mutex_lock(&gate.lock);
	for (unsigned i = 0; i < nr_items; i++) {
		uint64_t version = 0;

		while (!content_is(items[i].data, items[i].len_bytes, items[i].key, version))
			CHECK(++version < 1000);
		gate.versions[items[i].key] = version;
		gate.lens[items[i].key] = items[i].len_bytes;
		items[i].status = 0;
	}
	pthread_mutex_unlock(&gate.lock);
	return 0;
}

static int gate_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	pthread_mutex_lock(&gate.lock);
	for (unsigned i = 0; i < nr_keys; i++)
		gate.lens[keys[i]] = 0;
	pthread_mutex_unlock(&gate.lock);
	return 0;
}

static int gate_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	*reader_out = calloc(1, sizeof(**reader_out));
	CHECK(*reader_out);
	(*reader_out)->store = store;
	return 0;
}

static void gate_reader_close(struct ts_reader *reader)
{
	free(reader);
}

static int gate_get(struct ts_reader *reader, struct ts_get *request)
{
	uint64_t key = request->key;

	pthread_mutex_lock(&gate.lock);
	gate.nr_inside++;
	pthread_cond_broadcast(&gate.changed);
	while (gate.is_shut[key])
		pthread_cond_wait(&gate.changed, &gate.lock);
	gate.nr_inside--;
	pthread_cond_broadcast(&gate.changed);
	request->len_bytes = gate.lens[key];
	request->off_bytes = 512; /* as a store that reads whole blocks has it */
	request->status = gate.lens[key] ? 0 : TS_ENOTFOUND;
	if (key == GATE_KEY_BAD)
		request->status = -EIO;
	content_fill((char *)request->buf + 512, request->len_bytes, key, gate.versions[key]);
	pthread_mutex_unlock(&gate.lock);
	return 0;
}

static int gate_stat(struct ts_store *store, struct ts_store_stat *stat)
{
	return 0;
}

static const struct ts_store_ops gate_ops = {
	.size = sizeof(gate_ops),
	.name = "gate",
	.flags = TS_STORE_BLOCKING_GET,
	.open = gate_open,
	.close = gate_close,
	.put = gate_put,
	.del = gate_del,
	.reader_open = gate_reader_open,
	.reader_close = gate_reader_close,
	.get = gate_get,
	.stat = gate_stat,
};

static inline struct ts_store *gate_store_open(const char *wrap)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;

	config.key_max = GATE_KEYS - 1;
	CHECK_EQ(ts_store_open("gate", &gate_ops, wrap, &config, &store), 0);
	return store;
}

#endif
