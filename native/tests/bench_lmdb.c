/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_lmdb.c — what the store "lmdb" costs beside the bare library with the same settings: puts
 * in batches, gets from the page cache, gets through the thread that the engine gives it, gets
 * from the disk; and what frames of different lengths cost in pages.
 * Usage: bench_lmdb [--json] [megabytes] [frame length] [folder]
 * With --json: puts and gets alone, as one object, for the bench suite. */
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/measure.h"
#include "storekit.h"
#include "util/base.h"

enum { BATCH = 64, NR_GETS = 20000, NR_COLD_GETS = 2000, LEAF_MAX = 2024 };

static bool is_json;
static char root[128] = "/tmp/bench_lmdb.dir";
static uint64_t map_bytes, nr_frames;
static uint32_t len_bytes;
static char batch_data[BATCH][KIT_FRAME_MAX], copy[KIT_FRAME_MAX];
static uint64_t times_ns[NR_GETS];

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void json_figure(const char *what, const char *figure, double value)
{
	char name[64];

	snprintf(name, sizeof(name), "%s %s", what, figure);
	json_number(name, value);
}

static void print_times(const char *what, size_t nr_times)
{
	qsort(times_ns, nr_times, sizeof(times_ns[0]), compare_u64);
	if (is_json) {
		json_figure(what, "p50_ns", (double)times_ns[nr_times / 2]);
		return;
	}
	printf("%-28s p50 %8.2f us   p99 %8.2f us\n", what, (double)times_ns[nr_times / 2] / 1e3,
	       (double)times_ns[nr_times * 99 / 100] / 1e3);
}

static void print_rate(const char *what, ts_mono_ns start_ns)
{
	double seconds = (double)(ts_now_ns() - start_ns) / 1e9;

	if (is_json) {
		json_figure(what, "mb_per_s", (double)nr_frames * len_bytes / 1e6 / seconds);
		return;
	}
	printf("%-28s %8.2f us a frame   %8.0f MB/s\n", what, seconds * 1e6 / (double)nr_frames,
	       (double)nr_frames * len_bytes / 1e6 / seconds);
}

/* An empty folder of this name under the root: what an earlier one held is removed. */
static const char *folder_new(const char *name)
{
	static const char *const files[] = { "data.mdb", "lock.mdb", "tierstore-lmdb" };
	static char path[192];
	char file[256];

	CHECK(mkdir(root, 0700) == 0 || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/%s", root, name);
	CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
	for (size_t i = 0; i < TS_ARRAY_LEN(files); i++) {
		snprintf(file, sizeof(file), "%s/%s", path, files[i]);
		CHECK(unlink(file) == 0 || errno == ENOENT);
	}
	return path;
}

static void folders_remove(void)
{
	static const char *const names[] = { "writemap", "bare", "store", "pages" };

	for (size_t i = 0; i < TS_ARRAY_LEN(names); i++)
		CHECK_EQ(rmdir(folder_new(names[i])), 0);
	CHECK_EQ(rmdir(root), 0);
}

/* ---- The bare library ------------------------------------------------------------------- */

static MDB_env *env;
static MDB_dbi dbi;

static void bare_open(const char *path, unsigned flags)
{
	MDB_txn *txn;

	CHECK_EQ(mdb_env_create(&env), 0);
	CHECK_EQ(mdb_env_set_mapsize(env, map_bytes), 0);
	CHECK_EQ(mdb_env_set_maxdbs(env, 1), 0);
	CHECK_EQ(mdb_env_open(env, path, MDB_NOTLS | MDB_NORDAHEAD | MDB_NOSYNC | MDB_NOMETASYNC |
			      flags, 0600), 0);
	CHECK_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
	CHECK_EQ(mdb_dbi_open(txn, "frames", MDB_INTEGERKEY | MDB_CREATE, &dbi), 0);
	CHECK_EQ(mdb_txn_commit(txn), 0);
}

static void bare_put_all(const char *what)
{
	ts_mono_ns start_ns = ts_now_ns();

	for (uint64_t first = 0; first < nr_frames; first += BATCH) {
		MDB_txn *txn;

		CHECK_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
		for (uint64_t i = 0; i < BATCH; i++) {
			uint64_t key_value = first + i;
			MDB_val key = { sizeof(key_value), &key_value };
			MDB_val value = { len_bytes, batch_data[i] };

			CHECK_EQ(mdb_put(txn, dbi, &key, &value, MDB_APPEND), 0);
		}
		CHECK_EQ(mdb_txn_commit(txn), 0);
	}
	print_rate(what, start_ns);
}

static void bare_get_some(void)
{
	uint64_t state = 3;
	MDB_txn *txn;

	CHECK_EQ(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
	mdb_txn_reset(txn);
	for (size_t i = 0; i < NR_GETS; i++) {
		uint64_t key_value = content_random(&state) % nr_frames;
		MDB_val key = { sizeof(key_value), &key_value }, value;
		ts_mono_ns start_ns = ts_now_ns();

		CHECK_EQ(mdb_txn_renew(txn), 0);
		CHECK_EQ(mdb_get(txn, dbi, &key, &value), 0);
		memcpy(copy, value.mv_data, value.mv_size);
		mdb_txn_reset(txn);
		times_ns[i] = ts_now_ns() - start_ns;
	}
	mdb_txn_abort(txn);
	print_times("get, bare", NR_GETS);
}

static void bare(void)
{
	bare_open(folder_new("writemap"), MDB_WRITEMAP);
	bare_put_all("put, bare, MDB_WRITEMAP");
	mdb_env_close(env);
	bare_open(folder_new("bare"), 0);
	bare_put_all("put, bare");
	bare_get_some();
	mdb_env_close(env);
}

/* ---- The store -------------------------------------------------------------------------- */

static struct ts_store_config config_for(const char *path)
{
	struct ts_store_config config = kit_config();

	config.path = path;
	config.size_bytes = map_bytes;
	config.key_max = nr_frames + BATCH;
	config.options = "keep=1";
	return config;
}

static void store_put_all(struct ts_store *store)
{
	ts_mono_ns start_ns = ts_now_ns();

	for (uint64_t first = 0; first < nr_frames; first += BATCH) {
		struct ts_put items[BATCH];

		for (uint64_t i = 0; i < BATCH; i++)
			items[i] = (struct ts_put){ .key = first + i, .data = batch_data[i],
						    .len_bytes = len_bytes };
		CHECK_EQ(store->ops->put(store, items, BATCH), 0);
		for (uint64_t i = 0; i < BATCH; i++)
			CHECK_EQ(items[i].status, 0);
	}
	print_rate("put, store", start_ns);
}

static void store_get_some(struct ts_store *store, const char *what, size_t nr_gets)
{
	const struct ts_store_ops *ops = store->ops;
	struct ts_get request = { .buf = aligned_alloc(4096, KIT_BUF_BYTES),
				  .cap_bytes = KIT_BUF_BYTES };
	struct ts_get *done;
	struct ts_reader *reader;
	uint64_t state = 3;

	CHECK(request.buf);
	CHECK_EQ(ops->reader_open(store, &reader), 0);
	for (size_t i = 0; i < nr_gets; i++) {
		request.key = content_random(&state) % nr_frames;
		ts_mono_ns start_ns = ts_now_ns();

		if (ops->get(reader, &request) == 1)
			CHECK_EQ(ops->reap(reader, &done, 1, -1), 1);
		CHECK_EQ(request.status, 0);
		times_ns[i] = ts_now_ns() - start_ns;
	}
	ops->reader_close(reader);
	free(request.buf);
	print_times(what, nr_gets);
}

/* What is on disk only: written out, and dropped from the page cache while nothing maps it. */
static void cache_drop(const char *path)
{
	char file[256];

	snprintf(file, sizeof(file), "%s/data.mdb", path);
	int fd = open(file, O_RDWR);
	CHECK(fd >= 0 && fsync(fd) == 0);
	CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	CHECK_EQ(close(fd), 0);
}

static void through_the_store(void)
{
	const struct ts_store_ops *ops = ts_store_find("lmdb");
	const char *path = folder_new("store");
	struct ts_store_config config = config_for(path);
	struct ts_store *store;

	CHECK_EQ(ops->open(&config, &store), 0);
	store_put_all(store);
	store_get_some(store, "get, store", NR_GETS);
	ops->close(store);
	CHECK_EQ(ts_store_open("lmdb", NULL, "", &config, &store), 0);
	store_get_some(store, "get, store, by a thread", NR_GETS);
	ts_store_close(store);
	if (is_json || len_bytes < LEAF_MAX)
		return; /* frames that lie in leaf pages are read by the open itself */
	cache_drop(path);
	CHECK_EQ(ops->open(&config, &store), 0);
	store_get_some(store, "get, store, from the disk", NR_COLD_GETS);
	ops->close(store);
}

/* ---- What a frame costs in pages -------------------------------------------------------- */

static void print_pages(uint32_t length)
{
	const struct ts_store_ops *ops = ts_store_find("lmdb");
	struct ts_store_config config = config_for(folder_new("pages"));
	struct ts_store_stat before = { .size = sizeof(before) }, after = before;
	struct ts_store *store;

	config.size_bytes = 64 << 20;
	config.options = "";
	CHECK_EQ(ops->open(&config, &store), 0);
	CHECK_EQ(ops->stat(store, &before), 0);
	for (uint64_t key = 0; key < 256; key++) {
		struct ts_put item = { .key = key, .data = batch_data[0], .len_bytes = length };
		CHECK_EQ(ops->put(store, &item, 1), 0);
	}
	CHECK_EQ(ops->stat(store, &after), 0);
	double used = (double)(after.used_bytes - before.used_bytes) / 256;
	printf("%8u bytes: %8.0f in the file, %3.0f %% of it the frame\n", length, used,
	       100.0 * length / used);
	ops->close(store);
}

int main(int argc, char **argv)
{
	static const uint32_t lengths[] = { 200, 700, 1000, 1340, 1400, 2022, 2030, 3000, 4080,
					    4081, 5500, 8176, 16000, 20000, 65536 };
	is_json = argc > 1 && strcmp(argv[1], "--json") == 0;
	argc -= is_json;
	argv += is_json;
	uint64_t megabytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 128;

	len_bytes = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1600;
	if (argc > 3)
		snprintf(root, sizeof(root), "%s", argv[3]);
	CHECK(megabytes > 0 && len_bytes > 0 && len_bytes <= KIT_FRAME_MAX);
	nr_frames = megabytes * 1000000 / len_bytes / BATCH * BATCH;
	map_bytes = nr_frames * (2 * (uint64_t)len_bytes + 8192);
	for (unsigned i = 0; i < BATCH; i++)
		content_fill(batch_data[i], KIT_FRAME_MAX, i, 0);
	if (!is_json)
		printf("%llu frames of %u bytes\n", (unsigned long long)nr_frames, len_bytes);
	bare();
	through_the_store();
	if (is_json) {
		json_end(nr_frames);
		folders_remove();
		return 0;
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(lengths); i++)
		print_pages(lengths[i]);
	folders_remove();
	return 0;
}
