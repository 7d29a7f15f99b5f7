/* SPDX-License-Identifier: Apache-2.0
 *
 * file.c — the store "file": frames in a regular file or on a block device, through io_uring.
 * How it works is told in file.h, what is on disk in FORMAT.md.
 *
 * Options: direct=on|off|auto (auto: buffered where O_DIRECT is refused), depth=N (reads in
 * flight for each reader), keep=1 (contents outlive close), init=1 (overwrite what is there). */
#include <string.h>

#include "store/file.h"

static int del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);

	TS_SCOPED_LOCK(&file->lock);
	for (unsigned i = 0; i < nr_keys; i++)
		if (keys[i] <= file->key_max)
			ts_file_index_drop(file, keys[i]);
	return 0;
}

static int stat_get(struct ts_store *store, struct ts_store_stat *stat)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);

	TS_SCOPED_LOCK(&file->lock);
	stat->capacity_bytes = file->capacity_bytes;
	stat->nr_frames = file->nr_frames;
	/* Exact lengths are on disk only: this counts whole units. */
	stat->frame_bytes = (file->live_units << file->unit_shift) -
			    file->nr_frames * TS_FILE_HEAD_BYTES;
	stat->used_bytes = (uint64_t)file->nr_used * TS_FILE_SEGMENT_BYTES;
	if (file->nr_used == 0)
		stat->used_bytes = TS_FILE_BLOCK_BYTES;
	stat->index_bytes = file->nr_groups_touched * TS_FILE_GROUP_BYTES;
	stat->memory_bytes = stat->index_bytes + atomic_load(&file->memory_bytes);
	stat->written_bytes = file->written_bytes;
	stat->device_bytes = atomic_load(&file->device_bytes);
	stat->moved_bytes = file->moved_bytes;
	stat->discarded_bytes = file->discarded_bytes;
	stat->nr_errors = atomic_load(&file->nr_errors);
	return 0;
}

static int list(struct ts_store *store, ts_key_fn fn, void *user)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);
	int ret = 0;

	/* By groups that hold anything: the index is sparse. */
	for (uint64_t group = 0; group <= file->key_max / TS_FILE_GROUP_KEYS; group++) {
		uint64_t key = group * TS_FILE_GROUP_KEYS;
		uint64_t end = TS_MIN(key + TS_FILE_GROUP_KEYS, file->key_max + 1);

		if (!(file->touched[group / 64] >> (group % 64) & 1))
			continue;
		for (; !ret && key < end; key++)
			if (atomic_load(&file->sizes[key]))
				ret = TS_MIN(fn(user, key), 0);
	}
	return ret;
}

static int open_store(const struct ts_store_config *config, struct ts_store **store_out)
{
	int ret = ts_file_open(config, store_out);

	if (ret == 0)
		(*store_out)->ops = &ts_store_file_ops;
	return ret;
}

const struct ts_store_ops ts_store_file_ops = {
	.size = sizeof(struct ts_store_ops),
	.name = "file",
	.flags = TS_STORE_CAN_RESUME,
	.open = open_store,
	.close = ts_file_close,
	.put = ts_file_put,
	.del = del,
	.reader_open = ts_file_reader_open,
	.reader_close = ts_file_reader_close,
	.get = ts_file_get,
	.reap = ts_file_reap,
	.reader_arena = ts_file_reader_arena,
	.reader_fd = ts_file_reader_fd,
	.maintain = ts_file_maintain,
	.stat = stat_get,
	.list = list,
	.mates = ts_file_mates,
	.reader_around = ts_file_reader_around,
};
