/* SPDX-License-Identifier: Apache-2.0
 * storekit.h — for the tests of stores: a reader with its buffers, and gets that wait. */
#ifndef TS_TESTS_STOREKIT_H
#define TS_TESTS_STOREKIT_H

#include <string.h>
#include <sys/mman.h>
#include <tierstore/store.h>

#include "check.h"
#include "content.h"

enum {
	KIT_FRAME_MAX = 64 * 1024 + 64,
	KIT_BUF_BYTES = 20 * 4096,
	KIT_KEY_MAX = 1 << 20,
	KIT_DEPTH = 8,
	KIT_BATCH = 64,
};

static inline struct ts_store_config kit_config(void)
{
	return (struct ts_store_config){
		.size = sizeof(struct ts_store_config),
		.name = "test",
		.size_bytes = 64 << 20,
		.frame_max_bytes = KIT_FRAME_MAX,
		.key_max = KIT_KEY_MAX,
		.batch_max = KIT_BATCH,
		.reader_max = 8,
		.depth_max = KIT_DEPTH,
		.options = "",
	};
}

struct kit_reader {
	struct ts_reader *reader;
	char *arena;
	struct ts_get gets[KIT_DEPTH];
};

static inline void kit_reader_open(struct ts_store *store, struct kit_reader *kit)
{
	memset(kit, 0, sizeof(*kit));
	CHECK_EQ(ts_store_reader_open(store, &kit->reader), 0);
	kit->arena = mmap(NULL, (size_t)KIT_DEPTH * KIT_BUF_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(kit->arena != MAP_FAILED);
	CHECK_EQ(ts_store_reader_arena(kit->reader, kit->arena,
				       (size_t)KIT_DEPTH * KIT_BUF_BYTES), 0);
	for (size_t i = 0; i < KIT_DEPTH; i++) {
		kit->gets[i].buf = kit->arena + i * KIT_BUF_BYTES;
		kit->gets[i].cap_bytes = KIT_BUF_BYTES;
	}
}

static inline void kit_reader_close(struct kit_reader *kit)
{
	ts_store_reader_close(kit->reader);
	CHECK_EQ(munmap(kit->arena, (size_t)KIT_DEPTH * KIT_BUF_BYTES), 0);
}

/* Gets with request 0 and waits; returns its status. */
static inline int kit_get(struct kit_reader *kit, uint64_t key)
{
	struct ts_get *request = &kit->gets[0], *done = NULL;

	request->key = key;
	int result = ts_store_get(kit->reader, request);
	CHECK(result == 0 || result == 1);
	if (result == 1) {
		CHECK_EQ(ts_store_reap(kit->reader, &done, 1, -1), 1);
		CHECK(done == request);
	}
	return request->status;
}

static inline const char *kit_frame(const struct ts_get *request)
{
	return (const char *)request->buf + request->off_bytes;
}

/* The frame of this key and version is what a get returns. */
static inline void kit_expect(struct kit_reader *kit, uint64_t key, uint64_t version,
			      uint32_t len_bytes)
{
	CHECK_EQ(kit_get(kit, key), 0);
	CHECK_EQ(kit->gets[0].len_bytes, len_bytes);
	CHECK(content_is(kit_frame(&kit->gets[0]), len_bytes, key, version));
}

/* Stores one frame; returns its status. */
static inline int kit_put(struct ts_store *store, uint64_t key, uint64_t version,
			  uint32_t len_bytes)
{
	static _Thread_local char data[KIT_FRAME_MAX];
	struct ts_put item = { .key = key, .data = data, .len_bytes = len_bytes };

	content_fill(data, len_bytes, key, version);
	int result = ts_store_put(store, &item, 1);
	CHECK(result == 0 || result == item.status);
	return item.status;
}

static inline struct ts_store *kit_open(const char *kind, const char *wrap)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;
	int result = ts_store_open(kind, NULL, wrap, &config, &store);

	if (result < 0)
		fprintf(stderr, "%s\n", ts_last_error());
	CHECK_EQ(result, 0);
	return store;
}

#endif
