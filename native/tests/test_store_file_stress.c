/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_stress.c — threads that put, delete, get and collect at the same time in a
 * store with little room to spare.  Each writer owns its keys, as the engine does, and gets race
 * with collections that move what they read. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "file_rig.h"

enum {
	SIZE_BYTES = 12 * RIG_MIB, NR_WRITERS = 2, NR_READERS = 2, KEYS_EACH = 400,
	TURNS = 500, BATCH = 24, DEPTH = 8,
};

/* 0: absent or about to change; else the version that is there.  A reader that finds the same
 * number before and after its get knows what it must have seen. */
static _Atomic uint64_t versions[NR_WRITERS * KEYS_EACH];
static _Atomic bool is_over;
static _Atomic uint64_t nr_got;
static struct ts_store *store;

static uint32_t length_of(uint64_t key, uint64_t version)
{
	uint64_t mixed = key * 7919 + version * 104729;

	return 1 + (uint32_t)(mixed % (mixed % 16 == 0 ? 60000 : 4080));
}

static void put_batch(uint64_t first, uint64_t *state, uint64_t turn)
{
	struct ts_put items[BATCH] = { { 0 } };
	uint64_t start = content_random(state) % KEYS_EACH;
	unsigned nr = 0;

	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t key = first + (start + i * 3) % KEYS_EACH;

		if (atomic_load(&versions[key]))
			continue;
		uint32_t len_bytes = length_of(key, turn);
		items[nr] = (struct ts_put){ .key = key, .data = malloc(len_bytes),
					     .len_bytes = len_bytes };
		content_fill((void *)items[nr++].data, len_bytes, key, turn);
	}
	if (nr)
		CHECK_EQ(ts_store_put(store, items, nr), 0);
	for (unsigned i = 0; i < nr; i++) {
		CHECK(items[i].status == 0 || items[i].status == TS_EFULL);
		if (items[i].status == 0)
			atomic_store(&versions[items[i].key], turn);
		free((void *)items[i].data);
	}
}

static void *writer_run(void *argument)
{
	uint64_t number = (uint64_t)(uintptr_t)argument, first = number * KEYS_EACH;
	uint64_t state = number + 1;

	for (uint64_t turn = 1; turn <= TURNS; turn++) {
		put_batch(first, &state, turn);
		for (unsigned i = 0; i < BATCH / 2; i++) {
			uint64_t key = first + content_random(&state) % KEYS_EACH;

			atomic_store(&versions[key], 0);
			CHECK_EQ(rig_del(store, key), 0);
		}
	}
	return NULL;
}

static void check_got(const struct ts_get *request, uint64_t before)
{
	uint64_t after = atomic_load(&versions[request->key]);

	if (before == 0 || before != after)
		return;
	CHECK_EQ(request->status, 0);
	CHECK_EQ(request->len_bytes, length_of(request->key, before));
	CHECK(content_is((char *)request->buf + request->off_bytes, request->len_bytes,
			 request->key, before));
	atomic_fetch_add(&nr_got, 1);
}

static void *reader_run(void *argument)
{
	struct ts_get requests[DEPTH], *done[DEPTH];
	uint64_t before[DEPTH], state = (uint64_t)(uintptr_t)argument + 77;
	char *arena = rig_buffer((size_t)DEPTH * RIG_BUF_BYTES);
	struct ts_reader *reader;

	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	CHECK_EQ(ts_store_reader_arena(reader, arena, (size_t)DEPTH * RIG_BUF_BYTES), 0);
	while (!atomic_load(&is_over)) {
		unsigned nr_pending = 0;

		for (unsigned i = 0; i < DEPTH; i++) {
			uint64_t key = content_random(&state) % (NR_WRITERS * KEYS_EACH);

			requests[i] = (struct ts_get){ .key = key, .cap_bytes = RIG_BUF_BYTES,
				.buf = arena + (size_t)i * RIG_BUF_BYTES, .user = &before[i] };
			before[i] = atomic_load(&versions[key]);
			int ret = ts_store_get(reader, &requests[i]);
			CHECK(ret == 0 || ret == 1);
			nr_pending += ret == 1;
			if (ret == 0)
				check_got(&requests[i], before[i]);
		}
		while (nr_pending > 0) {
			int ret = ts_store_reap(reader, done, DEPTH, 1000);

			CHECK(ret >= 0);
			nr_pending -= (unsigned)ret;
			for (int i = 0; i < ret; i++)
				check_got(done[i], *(uint64_t *)done[i]->user);
		}
	}
	ts_store_reader_close(reader);
	munmap(arena, (size_t)DEPTH * RIG_BUF_BYTES);
	return NULL;
}

static void *keeper_run(void *argument)
{
	struct ts_store_stat stat;

	while (!atomic_load(&is_over)) {
		CHECK(ts_store_maintain(store) >= 0);
		stat = rig_stat(store);
		CHECK(stat.used_bytes <= SIZE_BYTES);
	}
	return argument;
}

static void all_at_once(void)
{
	pthread_t writers[NR_WRITERS], readers[NR_READERS], keeper;
	void *buf = rig_buffer(RIG_BUF_BYTES);
	struct ts_reader *reader;

	store = rig_open(rig_path("stress"), SIZE_BYTES, "");
	for (uintptr_t i = 0; i < NR_WRITERS; i++)
		CHECK_EQ(pthread_create(&writers[i], NULL, writer_run, (void *)i), 0);
	for (uintptr_t i = 0; i < NR_READERS; i++)
		CHECK_EQ(pthread_create(&readers[i], NULL, reader_run, (void *)i), 0);
	CHECK_EQ(pthread_create(&keeper, NULL, keeper_run, NULL), 0);
	for (unsigned i = 0; i < NR_WRITERS; i++)
		CHECK_EQ(pthread_join(writers[i], NULL), 0);
	atomic_store(&is_over, true);
	for (unsigned i = 0; i < NR_READERS; i++)
		CHECK_EQ(pthread_join(readers[i], NULL), 0);
	CHECK_EQ(pthread_join(keeper, NULL), 0);
	CHECK(atomic_load(&nr_got) > 0);
	CHECK(rig_stat(store).moved_bytes > 0);
	CHECK_EQ(rig_stat(store).nr_errors, 0);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	for (uint64_t key = 0; key < NR_WRITERS * KEYS_EACH; key++) {
		struct ts_get request;
		uint64_t version = atomic_load(&versions[key]);

		if (version)
			rig_expect(reader, buf, key, version, length_of(key, version));
		else
			CHECK_EQ(rig_get(reader, &request, key, buf), TS_ENOTFOUND);
	}
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

CHECK_MAIN({ "all_at_once", all_at_once })
