/* SPDX-License-Identifier: Apache-2.0
 * test_store_file.c — the store "file": what was put comes back, in any size; a full store says
 * so; ten times its capacity goes through it without a byte lost. */
#include <poll.h>

#include "file_rig.h"

static struct ts_store *store;
static struct ts_reader *reader;
static void *buf;

static void begin(const char *name, uint64_t size_bytes)
{
	store = rig_open(rig_path(name), size_bytes, "");
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	buf = rig_buffer(RIG_BUF_BYTES);
	CHECK_EQ(ts_store_reader_arena(reader, buf, RIG_BUF_BYTES), 0);
}

static void end(void)
{
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

static void every_size_comes_back(void)
{
	static const uint32_t sizes[] = { 1, 15, 16, 17, 2000, 4079, 4080, 4081, 4096, 5000, 8176,
					  12345, 65576, 131072, 262143, RIG_FRAME_MAX };
	enum { NR = sizeof(sizes) / sizeof(sizes[0]) };
	struct ts_put items[NR] = { { 0 } };
	struct ts_get request;

	begin("sizes", 16 * RIG_MIB);
	for (unsigned i = 0; i < NR; i++) {
		items[i] = (struct ts_put){ .key = i * 1000, .data = malloc(sizes[i]),
					    .len_bytes = sizes[i], .status = 1 };
		content_fill((void *)items[i].data, sizes[i], items[i].key, 1);
	}
	CHECK_EQ(ts_store_put(store, items, NR), 0);
	for (unsigned i = 0; i < NR; i++) {
		CHECK_EQ(items[i].status, 0);
		rig_expect(reader, buf, items[i].key, 1, sizes[i]);
		free((void *)items[i].data);
	}
	CHECK_EQ(rig_stat(store).nr_frames, NR);
	for (unsigned i = 0; i < NR; i++)
		CHECK_EQ(rig_del(store, items[i].key), 0);
	CHECK_EQ(rig_del(store, 0), 0);
	CHECK_EQ(rig_get(reader, &request, 1000, buf), TS_ENOTFOUND);
	CHECK_EQ(rig_get(reader, &request, RIG_KEY_MAX, buf), TS_ENOTFOUND);
	CHECK_EQ(rig_stat(store).nr_frames, 0);
	CHECK_EQ(rig_stat(store).frame_bytes, 0);
	end();
}

/* Frames of one page must cost one block to read, however they are packed. */
static void small_frames_never_cross_a_block(void)
{
	struct ts_put items[RIG_BATCH_MAX] = { { 0 } };
	uint64_t state = 7;
	uint32_t total_bytes = 0;

	begin("small", 16 * RIG_MIB);
	for (unsigned i = 0; i < RIG_BATCH_MAX; i++) {
		uint32_t len_bytes = 1 + (uint32_t)(content_random(&state) % 4080);

		items[i] = (struct ts_put){ .key = i, .data = malloc(len_bytes),
					    .len_bytes = len_bytes };
		content_fill((void *)items[i].data, len_bytes, i, 0);
		total_bytes += len_bytes;
	}
	CHECK_EQ(ts_store_put(store, items, RIG_BATCH_MAX), 0);
	for (unsigned i = 0; i < RIG_BATCH_MAX; i++) {
		struct ts_get request;

		CHECK_EQ(rig_get(reader, &request, i, buf), 0);
		CHECK(request.off_bytes + request.len_bytes <= 4096);
		CHECK(content_is((char *)buf + request.off_bytes, items[i].len_bytes, i, 0));
		free((void *)items[i].data);
	}
	/* Best fit wastes little: an eighth at the very most, superblock included. */
	CHECK(rig_stat(store).device_bytes < total_bytes + total_bytes / 8);
	end();
}

static void a_put_replaces(void)
{
	begin("replace", 8 * RIG_MIB);
	for (uint64_t version = 0; version < 50; version++) {
		uint32_t len_bytes = (uint32_t)(100 + version * 321);

		CHECK_EQ(rig_put(store, 5, version, len_bytes), 0);
		rig_expect(reader, buf, 5, version, len_bytes);
		CHECK_EQ(rig_stat(store).nr_frames, 1);
	}
	end();
}

static void full_is_said_and_ends(void)
{
	uint64_t key = 0, size_bytes = 8 * RIG_MIB + 4096;
	int ret;

	begin("full", size_bytes);
	while ((ret = rig_put(store, key, 0, 20000)) == 0) {
		key++;
		CHECK(rig_stat(store).used_bytes <= size_bytes);
		CHECK(key < 1000);
	}
	CHECK_EQ(ret, TS_EFULL);
	/* At least half of it holds frames. */
	CHECK(key * 20000 > size_bytes / 2);
	for (uint64_t i = 0; i < key; i++)
		rig_expect(reader, buf, i, 0, 20000);
	CHECK_EQ(rig_stat(store).nr_errors, 0);
	for (uint64_t i = 0; i < key; i += 2)
		CHECK_EQ(rig_del(store, i), 0);
	for (uint64_t i = 0; i < key / 2; i += 2)
		CHECK_EQ(rig_put(store, i, 1, 20000), 0);
	for (uint64_t i = 1; i < key; i += 2)
		rig_expect(reader, buf, i, 0, 20000);
	end();
}

enum { CHURN_KEYS = 4000, CHURN_BATCH = 32 };
static struct {
	uint32_t len_bytes;
	uint64_t version;
} model[CHURN_KEYS];

static uint32_t churn_length(uint64_t *state)
{
	uint64_t r = content_random(state);

	return r % 8 == 0 ? 1 + (uint32_t)(r >> 8) % 70000 : 1 + (uint32_t)(r >> 8) % 4080;
}

/* One batch of puts of keys that are not in the store; returns the bytes stored. */
static uint64_t churn_put(uint64_t *state, uint64_t version)
{
	struct ts_put items[CHURN_BATCH] = { { 0 } };
	uint64_t stored_bytes = 0;
	unsigned nr = 0;

	for (unsigned i = 0; i < CHURN_BATCH; i++) {
		uint64_t key = content_random(state) % CHURN_KEYS;

		if (model[key].len_bytes)
			continue;
		model[key].len_bytes = churn_length(state);
		model[key].version = version;
		items[nr].key = key;
		items[nr].len_bytes = model[key].len_bytes;
		items[nr].data = malloc(items[nr].len_bytes);
		content_fill((void *)items[nr].data, items[nr].len_bytes, key, version);
		nr++;
	}
	if (nr)
		CHECK_EQ(ts_store_put(store, items, nr), 0);
	for (unsigned i = 0; i < nr; i++) {
		CHECK(items[i].status == 0 || items[i].status == TS_EFULL);
		if (items[i].status)
			model[items[i].key].len_bytes = 0;
		else
			stored_bytes += items[i].len_bytes;
		free((void *)items[i].data);
	}
	return stored_bytes;
}

static void churn_del(uint64_t *state, uint64_t live_max, uint64_t *live_bytes)
{
	while (*live_bytes > live_max) {
		uint64_t key = content_random(state) % CHURN_KEYS;

		*live_bytes -= model[key].len_bytes;
		model[key].len_bytes = 0;
		CHECK_EQ(rig_del(store, key), 0);
	}
}

static void churn_verify(void)
{
	struct ts_get request;

	for (uint64_t key = 0; key < CHURN_KEYS; key++)
		if (model[key].len_bytes)
			rig_expect(reader, buf, key, model[key].version, model[key].len_bytes);
		else
			CHECK_EQ(rig_get(reader, &request, key, buf), TS_ENOTFOUND);
}

static void churn_ten_times_the_capacity(void)
{
	uint64_t state = 42, live_bytes = 0, put_bytes = 0, version = 1;
	uint64_t size_bytes = 16 * RIG_MIB;
	const char *path = rig_path("churn");

	begin("churn", size_bytes);
	memset(model, 0, sizeof(model));
	for (; put_bytes < 10 * size_bytes; version++) {
		uint64_t bytes = churn_put(&state, version);

		put_bytes += bytes;
		live_bytes += bytes;
		churn_del(&state, size_bytes * 6 / 10, &live_bytes);
		if (version % 8 == 0)
			(void)ts_store_maintain(store);
		CHECK(rig_stat(store).used_bytes <= size_bytes);
		if (version % 200 == 0)
			churn_verify();
	}
	churn_verify();
	struct ts_store_stat stat = rig_stat(store);
	CHECK_EQ(stat.nr_errors, 0);
	CHECK(stat.moved_bytes > 0);
	CHECK(stat.written_bytes == put_bytes);
	printf("     amplification %.2f, moved %.2f\n",
	       (double)stat.device_bytes / (double)stat.written_bytes,
	       (double)stat.moved_bytes / (double)stat.written_bytes);
	CHECK(stat.device_bytes < 4 * stat.written_bytes);
	for (uint64_t key = 0; key < CHURN_KEYS; key++)
		CHECK_EQ(rig_del(store, key), 0);
	for (unsigned i = 0; ts_store_maintain(store) == 1; i++)
		CHECK(i < 1000);
	/* What is left: the superblock and the segments that are open. */
	CHECK(rig_disk_bytes(path) <= 3 * RIG_MIB);
	CHECK(rig_stat(store).discarded_bytes > 0);
	end();
}

/* Lone small puts leave most of their blocks empty; maintenance wins that back. */
static void lone_puts_are_packed_later(void)
{
	enum { NR = 12000 };

	begin("lone", 64 * RIG_MIB);
	for (uint64_t key = 0; key < NR; key++)
		CHECK_EQ(rig_put(store, key, 0, 300), 0);
	uint64_t before_bytes = rig_stat(store).used_bytes;
	for (unsigned i = 0; ts_store_maintain(store) == 1; i++)
		CHECK(i < 1000);
	CHECK(rig_stat(store).used_bytes < before_bytes / 2);
	for (uint64_t key = 0; key < NR; key += 7)
		rig_expect(reader, buf, key, 0, 300);
	end();
}

static void many_gets_in_flight(void)
{
	struct ts_get requests[RIG_DEPTH_MAX], *done[RIG_DEPTH_MAX];
	char *arena = rig_buffer((size_t)RIG_DEPTH_MAX * RIG_BUF_BYTES);
	struct ts_reader *wide;
	unsigned nr_done = 0, nr_pending = 0;

	begin("depth", 16 * RIG_MIB);
	CHECK_EQ(ts_store_reader_open(store, &wide), 0);
	CHECK_EQ(ts_store_reader_arena(wide, arena, (size_t)RIG_DEPTH_MAX * RIG_BUF_BYTES), 0);
	for (uint64_t key = 0; key < RIG_DEPTH_MAX; key++)
		CHECK_EQ(rig_put(store, key, 3, (uint32_t)(1000 + key * 500)), 0);
	CHECK_EQ(ts_store_reap(wide, done, 1, 0), 0);
	for (uint64_t key = 0; key < RIG_DEPTH_MAX; key++) {
		requests[key] = (struct ts_get){ .key = key, .cap_bytes = RIG_BUF_BYTES,
						 .buf = arena + key * RIG_BUF_BYTES };
		int ret = ts_store_get(wide, &requests[key]);
		CHECK(ret == 1 || (ret == 0 && requests[key].status == 0));
		nr_pending += ret == 1;
	}
	while (nr_done < nr_pending) {
		struct pollfd poll_fd = { .fd = ts_store_reader_fd(wide), .events = POLLIN };

		CHECK(poll_fd.fd >= 0);
		int ready = poll(&poll_fd, 1, 5000);
		CHECK(ready == 1 || (ready < 0 && errno == EINTR));
		int ret = ts_store_reap(wide, done, 5, 0);
		CHECK(ret >= 0 && ret <= 5);
		nr_done += (unsigned)ret;
	}
	for (uint64_t key = 0; key < RIG_DEPTH_MAX; key++) {
		CHECK_EQ(requests[key].status, 0);
		CHECK(content_is(arena + key * RIG_BUF_BYTES + requests[key].off_bytes,
				 requests[key].len_bytes, key, 3));
	}
	ts_store_reader_close(wide);
	munmap(arena, (size_t)RIG_DEPTH_MAX * RIG_BUF_BYTES);
	end();
}

/* Beyond 64 GiB records are aligned more coarsely, so that 32 bits still address them. */
static void a_large_store_has_larger_units(void)
{
	begin("large", UINT64_C(200) << 30);
	for (uint32_t len_bytes = 1; len_bytes < 200000; len_bytes = len_bytes * 3 + 1)
		CHECK_EQ(rig_put(store, len_bytes, 0, len_bytes), 0);
	for (uint32_t len_bytes = 1; len_bytes < 200000; len_bytes = len_bytes * 3 + 1)
		rig_expect(reader, buf, len_bytes, 0, len_bytes);
	CHECK_EQ(rig_stat(store).capacity_bytes, UINT64_C(200) << 30);
	end();
}

/* Bytes that changed behind the store's back are not served. */
static void a_damaged_record_is_corrupt(void)
{
	const char *path = rig_path("damaged");
	struct ts_get request;
	char garbage[64];

	begin("damaged", 8 * RIG_MIB);
	memset(garbage, 0x5a, sizeof(garbage));
	CHECK_EQ(rig_put(store, 9, 0, 3000), 0);
	rig_expect(reader, buf, 9, 0, 3000);
	/* The first record lies behind the superblock. */
	rig_write_file(path, garbage, sizeof(garbage), 4096);
	CHECK_EQ(rig_get(reader, &request, 9, buf), TS_ECORRUPT);
	CHECK(rig_stat(store).nr_errors > 0);
	end();
}

CHECK_MAIN({ "every_size_comes_back", every_size_comes_back },
	   { "small_frames_never_cross_a_block", small_frames_never_cross_a_block },
	   { "a_put_replaces", a_put_replaces },
	   { "full_is_said_and_ends", full_is_said_and_ends },
	   { "churn_ten_times_the_capacity", churn_ten_times_the_capacity },
	   { "lone_puts_are_packed_later", lone_puts_are_packed_later },
	   { "many_gets_in_flight", many_gets_in_flight },
	   { "a_large_store_has_larger_units", a_large_store_has_larger_units },
	   { "a_damaged_record_is_corrupt", a_damaged_record_is_corrupt })
