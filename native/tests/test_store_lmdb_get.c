/* SPDX-License-Identifier: Apache-2.0
 * test_store_lmdb_get.c — a get of the store "lmdb" allocates nothing, found or not, with a writer
 * before each that gives it a new state to look at. */
#include <stdlib.h>
#include <unistd.h>

#include "count_allocations.h"
#include "storekit.h"

#ifndef COUNTS_ALLOCATIONS
static void gets_allocate_nothing(void)
{
	SKIP("the sanitizer replaces malloc itself");
}
#else
static void gets_allocate_nothing(void)
{
	static char buf[KIT_BUF_BYTES] __attribute__((aligned(4096)));
	const struct ts_store_ops *ops = ts_store_find("lmdb");
	char folder[] = "/tmp/test_store_lmdb_get.XXXXXX";
	struct ts_store_config config = kit_config();
	struct ts_get request = { .buf = buf, .cap_bytes = sizeof(buf) };
	struct ts_store *store;
	struct ts_reader *reader;

	CHECK(mkdtemp(folder));
	config.path = folder;
	/* Past the forwarder, which would put a thread between. */
	CHECK_EQ(ops->open(&config, &store), 0);
	CHECK_EQ(ops->reader_open(store, &reader), 0);
	for (uint32_t key = 0; key < 300; key++) {
		struct ts_put item = { .key = key, .data = buf, .len_bytes = 100 + key * 67 };

		CHECK_EQ(ops->put(store, &item, 1), 0);
		CHECK_EQ(item.status, 0);
		unsigned long before = nr_allocations;

		request.key = key / 2;
		CHECK_EQ(ops->get(reader, &request), 0);
		CHECK_EQ(request.status, 0);
		CHECK_EQ(request.len_bytes, 100 + key / 2 * 67);
		request.key = key + 1;
		CHECK_EQ(ops->get(reader, &request), 0);
		CHECK_EQ(request.status, TS_ENOTFOUND);
		CHECK_EQ(nr_allocations, before);
	}
	CHECK(nr_allocations > 300); /* the puts were counted */
	ops->reader_close(reader);
	ops->close(store);
	CHECK_EQ(rmdir(folder), 0);
}
#endif

CHECK_MAIN({ "gets_allocate_nothing", gets_allocate_nothing })
