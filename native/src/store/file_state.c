/* SPDX-License-Identifier: Apache-2.0
 *
 * file_state.c — the index of a file store in a shared map, so that it outlives the process.
 *
 * The records on disk can't say which of two with one key is the newer one: several segments are
 * open at a time, and a collection may write an old copy late.  The index can.  It is changed as
 * ever, by single stores: a new frame's place before its size, a move by its place alone.  Only a
 * replaced frame is torn between two stores; its put was not acknowledged.  The segments' sequences
 * lie there, too; all else about them follows from the index.
 *
 * No write of a dead process is still on its way: its rings hold the file, and with it the lock,
 * until the last of them has ended.
 *
 * Layout: a head in the first block; then segments, places and sizes, each from a new block on.
 */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "store/file.h"

#define STATE_MAGIC "TSFSTATE"
enum { STATE_VERSION = 1 };

struct state_head {
	char magic[8];
	uint32_t version, nr_segments;
	uint64_t key_max;
	uint8_t uuid[16];         /* of the store whose index this is; zero: of none yet */
	uint64_t checksum;        /* XXH3-64 (seed 0) of the bytes before it */
};

static size_t whole_blocks(size_t len_bytes)
{
	return (len_bytes + TS_FILE_BLOCK_BYTES - 1) & ~(size_t)(TS_FILE_BLOCK_BYTES - 1);
}

static size_t places_at(const struct ts_file *file)
{
	return TS_FILE_BLOCK_BYTES + whole_blocks(file->nr_segments * sizeof(file->segments[0]));
}

static size_t sizes_at(const struct ts_file *file)
{
	return places_at(file) + whole_blocks((file->key_max + 1) * sizeof(file->places[0]));
}

static size_t state_bytes(const struct ts_file *file)
{
	return sizes_at(file) + whole_blocks((file->key_max + 1) * sizeof(file->sizes[0]));
}

/* ---- The map ----------------------------------------------------------------------------- */

static int map_old(struct ts_file *file, const char *path)
{
	int ret = ts_mapfile_open(path, state_bytes(file), &file->state);
	const struct state_head *head = file->state.base;

	if (ret == -ENOENT)
		return ts_fail(TS_ESTATE, "%s: %s, which says what the store holds, is gone",
			       file->path, path);
	if (ret)
		return ret;
	if (memcmp(head->magic, STATE_MAGIC, sizeof(head->magic)) ||
	    head->checksum != XXH3_64bits(head, offsetof(struct state_head, checksum)))
		return ts_fail(TS_ECORRUPT, "%s: damaged head", path);
	if (head->version != STATE_VERSION)
		return ts_fail(TS_EVERSION, "%s: written by another version (%u, this is %d)",
			       path, head->version, STATE_VERSION);
	if (head->nr_segments != file->nr_segments || head->key_max != file->key_max)
		return ts_fail(TS_ECONFIG, "%s: the store's size is not what it was: %u MiB",
			       file->path, head->nr_segments);
	return 0;
}

int ts_file_state_open(struct ts_file *file, const struct ts_store_config *config)
{
	char path[4096];
	uint64_t nr_groups = file->key_max / TS_FILE_GROUP_KEYS + 1;

	if (snprintf(path, sizeof(path), "%s.index", config->state_path) >= (int)sizeof(path))
		return ts_fail(TS_ECONFIG, "%s: the state folder's path is too long", file->path);
	int ret = file->is_resumed ? map_old(file, path) :
		  ts_mapfile_create(path, state_bytes(file), &file->state);
	if (!ret)
		ret = ts_mapfile_reserve(&file->state, 0, places_at(file));
	if (ret)
		return ret > -10000 ? ts_fail(ret, "%s: %s", path, ts_strerror(ret)) : ret;
	file->reserved = calloc(nr_groups, sizeof(file->reserved[0]));
	if (!file->reserved)
		return ts_fail(-ENOMEM, "%s: out of memory", file->path);
	uint8_t *base = file->state.base;
	file->segments = (void *)(base + TS_FILE_BLOCK_BYTES);
	file->places = (void *)(base + places_at(file));
	file->sizes = (void *)(base + sizes_at(file));
	return 0;
}

void ts_file_state_close(struct ts_file *file)
{
	if (!file->state.base)
		return;
	file->segments = NULL;
	file->places = NULL;
	file->sizes = NULL;
	ts_mapfile_close(&file->state);
	free(file->reserved);
}

void ts_file_state_bind(struct ts_file *file)
{
	struct state_head *head = file->state.base;

	*head = (struct state_head){ .magic = STATE_MAGIC, .version = STATE_VERSION,
				     .nr_segments = file->nr_segments, .key_max = file->key_max };
	memcpy(head->uuid, file->super.uuid, sizeof(head->uuid));
	head->checksum = XXH3_64bits(head, offsetof(struct state_head, checksum));
}

bool ts_file_state_is_of(const struct ts_file *file, const struct ts_file_super *super)
{
	const struct state_head *head = file->state.base;

	return !memcmp(head->uuid, super->uuid, sizeof(head->uuid));
}

int ts_file_state_reserve(struct ts_file *file, uint64_t key)
{
	uint64_t group = key / TS_FILE_GROUP_KEYS;

	if (!file->state.base || atomic_load_explicit(&file->reserved[group], memory_order_acquire))
		return 0;
	size_t first = group * TS_FILE_GROUP_KEYS;
	size_t nr_keys = TS_MIN(file->key_max + 1 - first, (uint64_t)TS_FILE_GROUP_KEYS);
	int ret = ts_mapfile_reserve(&file->state,
				     places_at(file) + first * sizeof(file->places[0]),
				     nr_keys * sizeof(file->places[0]));
	if (!ret)
		ret = ts_mapfile_reserve(&file->state,
					 sizes_at(file) + first * sizeof(file->sizes[0]),
					 nr_keys * sizeof(file->sizes[0]));
	if (!ret)
		atomic_store_explicit(&file->reserved[group], 1, memory_order_release);
	return ret;
}

/* ---- Taking over ------------------------------------------------------------------------- */

static int resume_key(struct ts_file *file, uint64_t key)
{
	uint16_t nr_units = atomic_load(&file->sizes[key]);
	uint32_t place = atomic_load(&file->places[key]);
	uint64_t end = (uint64_t)place + nr_units;

	if (!nr_units)
		return 0;
	uint32_t number = ts_file_segment_of(file, place);
	if (end << file->unit_shift > file->capacity_bytes ||
	    ts_file_segment_of(file, (uint32_t)(end - 1)) != number ||
	    !atomic_load(&file->segments[number].sequence))
		return ts_fail(TS_ECORRUPT, "%s: the index names a place for key %llu that can't "
			       "be", file->path, (unsigned long long)key);
	ts_file_index_count(file, key, place, nr_units);
	return 0;
}

int ts_file_state_each(struct ts_file *file, int (*fn)(struct ts_file *file, uint64_t key))
{
	size_t at = sizes_at(file), len_bytes;
	size_t end = at + (file->key_max + 1) * sizeof(file->sizes[0]);
	int ret = 0;

	while (!ret && ts_mapfile_next_data(&file->state, &at, &len_bytes, end)) {
		uint64_t first = (at - sizes_at(file)) / sizeof(file->sizes[0]);
		uint64_t nr_keys = len_bytes / sizeof(file->sizes[0]);

		for (uint64_t key = first; !ret && key < first + nr_keys; key++)
			ret = fn(file, key);
		at += len_bytes;
	}
	return ret;
}

/* Serial numbers: the newest of those in use, plus one. */
static void resume_sequence(struct ts_file *file)
{
	bool is_first = true;

	for (uint32_t i = 0; i < file->nr_segments; i++) {
		uint32_t sequence = atomic_load(&file->segments[i].sequence);

		if (!sequence)
			continue;
		file->nr_fresh = i + 1;
		if (is_first || (int32_t)(sequence - file->sequence_next) >= 0)
			file->sequence_next = sequence + 1 ? sequence + 1 : 1;
		is_first = false;
	}
}

int ts_file_resume(struct ts_file *file)
{
	TS_SCOPED_LOCK(&file->lock);
	resume_sequence(file);
	for (uint32_t i = 0; i < file->nr_segments; i++) {
		uint32_t sequence = atomic_load(&file->segments[i].sequence);

		file->segments[i] = (struct ts_file_segment){ .nr_blocks = TS_FILE_SEGMENT_BLOCKS };
		atomic_store(&file->segments[i].sequence, sequence);
		/* Until it is known whether anything in it is alive. */
		file->segments[i].state = i < file->nr_fresh ? TS_FILE_SEALED : TS_FILE_FREE;
	}
	int ret = ts_file_state_each(file, resume_key);
	for (uint32_t i = 0; !ret && i < file->nr_fresh; i++)
		ts_file_segment_resume(file, i);
	return ret;
}
