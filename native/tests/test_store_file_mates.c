/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_mates.c — the store "file" names the other frames that a read has brought: each
 * is what its own get would give, and none is one that has gone (store.h, mates). */
#include "file_rig.h"
#include "store/forward.h"

enum { NR_KEYS = 256, FRAME_BYTES = 900, AROUND_BYTES = 16384, MATES_MAX = 64 };

static struct ts_store *store;
static struct ts_reader *reader;
static void *buf;
static uint64_t versions[NR_KEYS];   /* 0: not there */

static void put_all(uint64_t version)
{
	struct ts_put items[NR_KEYS] = { { 0 } };

	for (unsigned i = 0; i < NR_KEYS; i++) {
		items[i] = (struct ts_put){ .key = i, .data = malloc(FRAME_BYTES + i),
					    .len_bytes = FRAME_BYTES + i };
		content_fill((void *)items[i].data, FRAME_BYTES + i, i, version);
		versions[i] = version;
	}
	CHECK_EQ(ts_store_put(store, items, NR_KEYS), 0);
	for (unsigned i = 0; i < NR_KEYS; i++) {
		CHECK_EQ(items[i].status, 0);
		free((void *)items[i].data);
	}
}

static void begin(const char *name)
{
	store = rig_open(rig_path(name), 16 * RIG_MIB, "");
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	buf = rig_buffer(RIG_BUF_BYTES);
	CHECK_EQ(ts_store_reader_arena(reader, buf, RIG_BUF_BYTES), 0);
	put_all(1);
}

static void end(void)
{
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

/* Gets the frame, which is right, and holds its mates to what is there.  How many they are. */
static int get_with_mates(uint64_t key)
{
	struct ts_store_mate mates[MATES_MAX];
	struct ts_get request;

	CHECK_EQ(rig_get(reader, &request, key, buf), 0);
	CHECK_EQ(request.len_bytes, FRAME_BYTES + key);
	CHECK(content_is((char *)buf + request.off_bytes, request.len_bytes, key, versions[key]));
	int nr = ts_store_mates(reader, &request, mates, MATES_MAX);
	for (int i = 0; i < nr; i++) {
		CHECK(mates[i].key < NR_KEYS && mates[i].key != key && versions[mates[i].key]);
		CHECK_EQ(mates[i].len_bytes, FRAME_BYTES + mates[i].key);
		CHECK(content_is((char *)buf + mates[i].off_bytes, mates[i].len_bytes,
				 mates[i].key, versions[mates[i].key]));
	}
	return nr;
}

static unsigned all_with_mates(void)
{
	unsigned nr = 0;

	for (uint64_t key = 0; key < NR_KEYS; key++)
		if (versions[key])
			nr += (unsigned)get_with_mates(key);
	return nr;
}

static void they_are_what_a_get_would_give(void)
{
	begin("right");
	unsigned nr_in_blocks = all_with_mates();
	CHECK(nr_in_blocks >= 2 * NR_KEYS);   /* three or four to a block */
	ts_store_reader_around(reader, AROUND_BYTES);
	CHECK(all_with_mates() > 3 * nr_in_blocks);
	ts_store_reader_around(reader, 0);
	CHECK_EQ(all_with_mates(), nr_in_blocks);
	end();
}

static void none_that_has_gone(void)
{
	begin("gone");
	ts_store_reader_around(reader, AROUND_BYTES);
	unsigned nr_before = all_with_mates();
	for (uint64_t key = 0; key < NR_KEYS; key += 2) {
		CHECK_EQ(rig_del(store, key), 0);
		versions[key] = 0;
	}
	unsigned nr_left = all_with_mates();
	CHECK(nr_left > 0 && nr_left < nr_before / 2);
	/* Elsewhere now: where they were they are not current. */
	for (uint64_t key = 1; key < NR_KEYS; key += 2)
		CHECK_EQ(rig_put(store, key, versions[key] = 2, FRAME_BYTES + (uint32_t)key), 0);
	(void)all_with_mates();
	end();
}

/* A stretch that is longer than the buffer is halved until it fits. */
static void as_much_as_the_buffer_holds(void)
{
	begin("long");
	unsigned nr_in_blocks = all_with_mates();
	ts_store_reader_around(reader, 1 << 20);
	CHECK(all_with_mates() > 3 * nr_in_blocks);
	end();
}

/* The stretch ends with the file: then there is less of it. */
static void at_the_end_of_the_file(void)
{
	struct ts_get request;

	begin("end");
	CHECK_EQ(truncate(rig_path("end"), (off_t)rig_disk_bytes(rig_path("end"))), 0);
	ts_store_reader_around(reader, 1 << 20);
	CHECK(all_with_mates() > 0);
	request = (struct ts_get){ .key = 7, .buf = buf, .cap_bytes = RIG_BUF_BYTES };
	CHECK_EQ(ts_store_get(reader, &request), 1);
	struct ts_get *done;
	CHECK_EQ(ts_store_reap(reader, &done, 1, -1), 1);
	CHECK_EQ(done->status, 0);
	end();
}

/* A store of another make, and a wrapper, don't say. */
static void who_does_not_know_says_so(void)
{
	struct ts_store_config config = {
		.size = sizeof(config), .name = "test", .path = rig_path("wrapped"),
		.size_bytes = 16 * RIG_MIB, .frame_max_bytes = RIG_FRAME_MAX,
		.key_max = RIG_KEY_MAX, .batch_max = RIG_BATCH_MAX, .reader_max = 8,
		.depth_max = RIG_DEPTH_MAX, .options = "",
	};
	struct ts_store_mate mates[MATES_MAX];
	struct ts_get request;

	CHECK_EQ(ts_store_open("file", NULL, "stats", &config, &store), 0);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	buf = rig_buffer(RIG_BUF_BYTES);
	put_all(1);
	CHECK_EQ(rig_get(reader, &request, 3, buf), 0);
	CHECK_EQ(ts_store_mates(reader, &request, mates, MATES_MAX), TS_EUNSUPPORTED);
	ts_store_reader_around(reader, AROUND_BYTES);
	end();
}

CHECK_MAIN({ "they_are_what_a_get_would_give", they_are_what_a_get_would_give },
	   { "none_that_has_gone", none_that_has_gone },
	   { "as_much_as_the_buffer_holds", as_much_as_the_buffer_holds },
	   { "at_the_end_of_the_file", at_the_end_of_the_file },
	   { "who_does_not_know_says_so", who_does_not_know_says_so })
