/* SPDX-License-Identifier: Apache-2.0
 * test_threaded.c — a store whose get() blocks does not block those who ask it. */
#include <poll.h>

#include "gatestore.h"
#include "util/hook.h"

static void start(struct kit_reader *kit, unsigned request, uint64_t key)
{
	kit->gets[request].key = key;
	CHECK_EQ(ts_store_get(kit->reader, &kit->gets[request]), 1);
}

/* Reaps one request, waiting for it. */
static struct ts_get *finish(struct kit_reader *kit)
{
	struct ts_get *done = NULL;

	CHECK_EQ(ts_store_reap(kit->reader, &done, 1, -1), 1);
	return done;
}

static bool is_readable(struct kit_reader *kit)
{
	struct pollfd poll_fd = { .fd = ts_store_reader_fd(kit->reader), .events = POLLIN };

	CHECK(poll_fd.fd >= 0);
	return poll(&poll_fd, 1, 0) == 1;
}

static void a_get_returns_while_the_store_blocks(void)
{
	struct ts_store *store = gate_store_open("");
	struct kit_reader kit;
	struct ts_get *done;

	CHECK(!(store->ops->flags & TS_STORE_BLOCKING_GET));
	kit_reader_open(store, &kit);
	CHECK_EQ(kit_put(store, 1, 5, 4000), 0);
	gate_set(1, 1);
	start(&kit, 0, 1);
	gate_wait_inside(1);
	CHECK_EQ(ts_store_reap(kit.reader, &done, 1, 0), 0);
	CHECK_EQ(ts_store_reap(kit.reader, &done, 1, 20), 0);
	CHECK(!is_readable(&kit));
	/* Writers don't queue behind it. */
	CHECK_EQ(kit_put(store, 2, 0, 100), 0);
	CHECK_EQ(ts_store_del(store, &(uint64_t){ 2 }, 1), 0);
	gate_set(1, 0);
	CHECK(finish(&kit) == &kit.gets[0]);
	CHECK_EQ(kit.gets[0].status, 0);
	CHECK_EQ(kit.gets[0].off_bytes, 512);
	CHECK(content_is(kit_frame(&kit.gets[0]), 4000, 1, 5));
	CHECK(!is_readable(&kit));
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void a_full_queue_completes_in_order(void)
{
	struct ts_store *store = gate_store_open("");
	struct kit_reader kit;
	struct ts_get *done[KIT_DEPTH];

	kit_reader_open(store, &kit);
	for (unsigned key = 0; key < KIT_DEPTH; key++)
		CHECK_EQ(kit_put(store, key, key, 100 + key), 0);
	for (int round = 0; round < 3; round++) {
		unsigned nr_done = 0;

		gate_set(0, 1);
		for (unsigned i = 0; i < KIT_DEPTH; i++)
			start(&kit, i, i);
		gate_set(0, 0);
		while (nr_done < KIT_DEPTH) {
			struct pollfd poll_fd = { .fd = ts_store_reader_fd(kit.reader),
						  .events = POLLIN };

			CHECK_EQ(poll(&poll_fd, 1, -1), 1);
			int result = ts_store_reap(kit.reader, done, 3, 0);
			CHECK(result >= 1 && result <= 3);
			for (int i = 0; i < result; i++, nr_done++) {
				CHECK(done[i] == &kit.gets[nr_done]);
				CHECK_EQ(done[i]->status, 0);
				CHECK(content_is(kit_frame(done[i]), 100 + nr_done, nr_done,
						 nr_done));
			}
		}
		CHECK(!is_readable(&kit));
		CHECK_EQ(ts_store_reap(kit.reader, done, 1, -1), 0); /* nothing pending */
	}
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void failures_are_reported(void)
{
	struct ts_store *store = gate_store_open("");
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	CHECK_EQ(kit_get(&kit, 7), TS_ENOTFOUND);
	CHECK_EQ(kit_get(&kit, GATE_KEY_BAD), -EIO);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void more_threads_read_at_the_same_time(void)
{
	struct ts_store *store = gate_store_open("thread:n=4");
	struct kit_reader kit;
	unsigned seen = 0;

	kit_reader_open(store, &kit);
	for (unsigned key = 0; key < 5; key++) {
		CHECK_EQ(kit_put(store, key, 0, 300), 0);
		gate_set(key, 1);
		start(&kit, key, key);
	}
	gate_wait_inside(4);
	/* One that is let through makes room for the fifth. */
	gate_set(2, 0);
	CHECK(finish(&kit) == &kit.gets[2]);
	gate_wait_inside(4);
	for (unsigned key = 0; key < 5; key++)
		gate_set(key, 0);
	for (int i = 0; i < 4; i++)
		seen |= 1u << (finish(&kit) - kit.gets);
	CHECK_EQ(seen, 0x1b);
	kit_reader_close(&kit);
	ts_store_close(store);
}

/* One reader's slow key delays another reader's, but neither is lost nor mixed up. */
static void readers_share_the_threads(void)
{
	struct ts_store *store = gate_store_open("");
	struct kit_reader a, b;

	kit_reader_open(store, &a);
	kit_reader_open(store, &b);
	CHECK_EQ(kit_put(store, 1, 1, 1000), 0);
	CHECK_EQ(kit_put(store, 2, 2, 2000), 0);
	gate_set(1, 1);
	start(&a, 0, 1);
	gate_wait_inside(1);
	start(&b, 0, 2);
	struct ts_get *done;
	CHECK_EQ(ts_store_reap(b.reader, &done, 1, 0), 0);
	gate_set(1, 0);
	CHECK(finish(&b) == &b.gets[0]);
	CHECK(content_is(kit_frame(&b.gets[0]), 2000, 2, 2));
	kit_reader_close(&b); /* while a's request is not yet reaped */
	CHECK(finish(&a) == &a.gets[0]);
	CHECK(content_is(kit_frame(&a.gets[0]), 1000, 1, 1));
	kit_reader_close(&a);
	ts_store_close(store);
}

enum { NR_THREADS = 4, NR_GETS = 3000 };

static void *get_many(void *context)
{
	struct ts_store *store = context;
	struct kit_reader kit;
	struct ts_get *done[KIT_DEPTH];
	unsigned nr_started = 0, nr_done = 0, nr_free = KIT_DEPTH;
	struct ts_get *spare[KIT_DEPTH];

	kit_reader_open(store, &kit);
	for (unsigned i = 0; i < KIT_DEPTH; i++)
		spare[i] = &kit.gets[i];
	while (nr_done < NR_GETS) {
		while (nr_free > 0 && nr_started < NR_GETS) {
			struct ts_get *request = spare[--nr_free];

			request->key = nr_started++ % 32;
			CHECK_EQ(ts_store_get(kit.reader, request), 1);
		}
		int result = ts_store_reap(kit.reader, done, KIT_DEPTH, -1);
		CHECK(result > 0);
		for (int i = 0; i < result; i++) {
			CHECK_EQ(done[i]->status, 0);
			CHECK(content_is(kit_frame(done[i]), 64, done[i]->key, 0));
			spare[nr_free++] = done[i];
		}
		nr_done += (unsigned)result;
	}
	kit_reader_close(&kit);
	return NULL;
}

static void many_readers_lose_nothing(void)
{
	struct ts_store *store = gate_store_open("thread:n=3");
	pthread_t threads[NR_THREADS];

	for (uint64_t key = 0; key < 32; key++)
		CHECK_EQ(kit_put(store, key, 0, 64), 0);
	for (int i = 0; i < NR_THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, get_many, store), 0);
	for (int i = 0; i < NR_THREADS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	ts_store_close(store);
}

CHECK_MAIN({ "a_get_returns_while_the_store_blocks", a_get_returns_while_the_store_blocks },
	   { "a_full_queue_completes_in_order", a_full_queue_completes_in_order },
	   { "failures_are_reported", failures_are_reported },
	   { "more_threads_read_at_the_same_time", more_threads_read_at_the_same_time },
	   { "readers_share_the_threads", readers_share_the_threads },
	   { "many_readers_lose_nothing", many_readers_lose_nothing })
