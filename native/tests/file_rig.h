/* SPDX-License-Identifier: Apache-2.0
 * file_rig.h — for the tests of the store "file": a folder of their own, opening with short
 * arguments, and gets that wait. */
#ifndef TS_TESTS_FILE_RIG_H
#define TS_TESTS_FILE_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierstore/store.h>

#include "check.h"
#include "content.h"

enum {
	RIG_FRAME_MAX = 262208,
	RIG_BUF_BYTES = RIG_FRAME_MAX + 4 * 4096 - 64,
	RIG_KEY_MAX = (1 << 20) - 1,
	RIG_BATCH_MAX = 256,
	RIG_DEPTH_MAX = 32,
	RIG_MIB = 1 << 20,
};

static char rig_folder[256];

static inline int rig_remove(const char *path, const struct stat *info, int flag,
			     struct FTW *where)
{
	if (remove(path))
		fprintf(stderr, "could not remove %s\n", path);
	return 0;
}

static inline void rig_cleanup(void)
{
	nftw(rig_folder, rig_remove, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* A path in a folder that is removed at exit. */
static inline const char *rig_path(const char *name)
{
	static char path[300];
	static pid_t owner;

	if (owner == 0) {
		const char *base = getenv("TMPDIR");

		snprintf(rig_folder, sizeof(rig_folder), "%s/tierstore-test.XXXXXX",
			 base ? base : "/tmp");
		CHECK(mkdtemp(rig_folder) != NULL);
		owner = getpid();
		atexit(rig_cleanup);
	}
	snprintf(path, sizeof(path), "%s/%s", rig_folder, name);
	return path;
}

static inline int rig_try_open(const char *path, uint64_t size_bytes, const char *options,
			       struct ts_store **store_out)
{
	struct ts_store_config config = {
		.size = sizeof(config), .name = "test", .path = path, .size_bytes = size_bytes,
		.frame_max_bytes = RIG_FRAME_MAX, .key_max = RIG_KEY_MAX,
		.batch_max = RIG_BATCH_MAX, .reader_max = 8, .depth_max = RIG_DEPTH_MAX,
		.options = options,
	};

	return ts_store_open("file", NULL, "", &config, store_out);
}

static inline struct ts_store *rig_open(const char *path, uint64_t size_bytes,
					const char *options)
{
	struct ts_store *store = NULL;
	int ret = rig_try_open(path, size_bytes, options, &store);

	if (ret)
		fprintf(stderr, "%s: %s\n", path, ts_last_error());
	CHECK_EQ(ret, 0);
	return store;
}

static inline void *rig_buffer(size_t len_bytes)
{
	void *base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	CHECK(base != MAP_FAILED);
	return base;
}

/* One frame with the contents of (key, version); its status. */
static inline int rig_put(struct ts_store *store, uint64_t key, uint64_t version,
			  uint32_t len_bytes)
{
	unsigned char *data = malloc(len_bytes);
	struct ts_put item = { .key = key, .data = data, .len_bytes = len_bytes, .status = 1 };

	CHECK(data != NULL);
	content_fill(data, len_bytes, key, version);
	int ret = ts_store_put(store, &item, 1);
	free(data);
	return ret < 0 ? ret : item.status;
}

static inline int rig_del(struct ts_store *store, uint64_t key)
{
	return ts_store_del(store, &key, 1);
}

/* Gets and waits; the request's status. */
static inline int rig_get(struct ts_reader *reader, struct ts_get *request, uint64_t key,
			  void *buf)
{
	struct ts_get *done = NULL;

	*request = (struct ts_get){ .key = key, .buf = buf, .cap_bytes = RIG_BUF_BYTES,
				    .status = 1 };
	int ret = ts_store_get(reader, request);
	CHECK(ret == 0 || ret == 1);
	if (ret == 1) {
		CHECK_EQ(ts_store_reap(reader, &done, 1, -1), 1);
		CHECK(done == request);
	}
	CHECK(request->status <= 0);
	return request->status;
}

/* The frame is there, with these contents. */
static inline void rig_expect(struct ts_reader *reader, void *buf, uint64_t key,
			      uint64_t version, uint32_t len_bytes)
{
	struct ts_get request;

	CHECK_EQ(rig_get(reader, &request, key, buf), 0);
	CHECK_EQ(request.len_bytes, len_bytes);
	CHECK(content_is((char *)buf + request.off_bytes, len_bytes, key, version));
}

static inline struct ts_store_stat rig_stat(struct ts_store *store)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };

	CHECK_EQ(ts_store_stat_get(store, &stat), 0);
	return stat;
}

/* Bytes that the file system has assigned to a path. */
static inline uint64_t rig_disk_bytes(const char *path)
{
	struct stat info;

	CHECK_EQ(stat(path, &info), 0);
	return (uint64_t)info.st_blocks * 512;
}

static inline void rig_write_file(const char *path, const void *bytes, size_t len_bytes,
				  off_t offset)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	CHECK(fd >= 0);
	CHECK_EQ(pwrite(fd, bytes, len_bytes, offset), (long long)len_bytes);
	close(fd);
}

#endif
