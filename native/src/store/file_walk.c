/* SPDX-License-Identifier: Apache-2.0
 *
 * file_walk.c — reading segments record by record, without the index: for garbage collection,
 * and for stores that outlive their process (keep=1): at close, records that are no longer
 * current are marked dead; at open, the index is made from the rest. */
#include <errno.h>
#include <string.h>

#include "store/file.h"

/* ---- One segment ------------------------------------------------------------------------- */

static bool head_is_valid(const struct ts_file *file, const struct ts_file_head *head,
			  uint32_t sequence, uint32_t at_bytes, uint32_t end_bytes)
{
	return head->magic == file->super.record_magic && head->sequence == sequence &&
	       head->len_bytes <= end_bytes - at_bytes - TS_FILE_HEAD_BYTES;
}

bool ts_file_walk(const struct ts_file *file, const uint8_t *image, uint32_t len_bytes,
		  uint32_t sequence, uint32_t *at_bytes, struct ts_file_head *head_out,
		  uint32_t *head_at_out)
{
	while (*at_bytes < len_bytes) {
		uint32_t at = *at_bytes;

		memcpy(head_out, image + at, sizeof(*head_out));
		if (head_is_valid(file, head_out, sequence, at, len_bytes)) {
			*head_at_out = at;
			*at_bytes = at + (ts_file_units(file, head_out->len_bytes) <<
					  file->unit_shift);
			return true;
		}
		/* A hole reaches up to the next block. */
		*at_bytes = (at / TS_FILE_BLOCK_BYTES + 1) * TS_FILE_BLOCK_BYTES;
	}
	return false;
}

static uint32_t place_of(const struct ts_file *file, uint32_t segment, uint32_t at_bytes)
{
	return (uint32_t)(((uint64_t)segment * TS_FILE_SEGMENT_BYTES + at_bytes) >>
			  file->unit_shift);
}

static int segment_transfer(struct ts_file *file, bool is_write, uint32_t segment)
{
	uint32_t skip = ts_file_first_block(segment) * TS_FILE_BLOCK_BYTES;

	return ts_file_transfer(file, is_write, file->gc_buffer + skip,
				TS_FILE_SEGMENT_BYTES - skip,
				(uint64_t)segment * TS_FILE_SEGMENT_BYTES + skip);
}

/* ---- Opening a store that was kept ------------------------------------------------------- */

static int load_record(struct ts_file *file, uint32_t segment, const struct ts_file_head *head,
		       uint32_t at_bytes)
{
	uint32_t nr_units = ts_file_units(file, head->len_bytes);

	if (head->key == TS_FILE_KEY_DEAD) {
		ts_file_segment_gain(file, segment, nr_units);
		return 0;
	}
	if (head->key > file->key_max || head->len_bytes > file->frame_max_bytes)
		return ts_fail(TS_ECONFIG, "%s holds a frame under key %u of %u bytes; this store "
			       "is configured for keys to %llu and frames to %u bytes", file->path,
			       head->key, head->len_bytes, (unsigned long long)file->key_max,
			       file->frame_max_bytes);
	if (atomic_load(&file->sizes[head->key]))
		return ts_fail(TS_ECORRUPT, "%s holds two frames under key %u", file->path,
			       head->key);
	ts_file_index_set(file, head->key, place_of(file, segment, at_bytes),
			  (uint16_t)nr_units);
	return 0;
}

static int load_segment(struct ts_file *file, uint32_t segment)
{
	uint32_t at = ts_file_first_block(segment) * TS_FILE_BLOCK_BYTES, head_at;
	struct ts_file_head head;
	int ret = segment_transfer(file, false, segment);

	if (ret)
		return ts_fail(ret, "read %s: %s", file->path, strerror(-ret));
	memcpy(&head, file->gc_buffer + at, sizeof(head));
	if (head.magic != file->super.record_magic)
		return 0;
	TS_SCOPED_LOCK(&file->lock);
	ts_file_segment_adopt(file, segment, head.sequence);
	file->segments[segment].nr_writing++;
	while (!ret && ts_file_walk(file, file->gc_buffer, TS_FILE_SEGMENT_BYTES, head.sequence,
				    &at, &head, &head_at))
		ret = load_record(file, segment, &head, head_at);
	ts_file_segment_write_end(file, segment);
	return ret;
}

int ts_file_load(struct ts_file *file)
{
	int ret = 0;

	for (uint32_t segment = 0; !ret && segment < file->nr_segments; segment++)
		ret = load_segment(file, segment);
	return ret;
}

/* ---- Closing a store to be kept ---------------------------------------------------------- */

static bool is_current(struct ts_file *file, uint32_t key, uint32_t place)
{
	return key <= file->key_max && atomic_load(&file->sizes[key]) &&
	       atomic_load(&file->places[key]) == place;
}

/* Whoever opens the store takes a segment's sequence from its first record.  If the first write
 * to the segment failed there may be an older one, or none: put a dead one in its place. */
static bool mark_first(struct ts_file *file, uint32_t sequence, uint32_t at)
{
	struct ts_file_head head;

	memcpy(&head, file->gc_buffer + at, sizeof(head));
	if (head.magic == file->super.record_magic && head.sequence == sequence)
		return false;
	head = (struct ts_file_head){
		.magic = file->super.record_magic, .sequence = sequence,
		.key = TS_FILE_KEY_DEAD, .len_bytes = TS_FILE_BLOCK_BYTES - TS_FILE_HEAD_BYTES,
	};
	memcpy(file->gc_buffer + at, &head, sizeof(head));
	return true;
}

static int keep_segment(struct ts_file *file, uint32_t segment)
{
	uint32_t at = ts_file_first_block(segment) * TS_FILE_BLOCK_BYTES, head_at;
	uint32_t sequence = atomic_load(&file->segments[segment].sequence);
	struct ts_file_head head;
	int ret = segment_transfer(file, false, segment);

	if (ret)
		return ret;
	bool is_changed = mark_first(file, sequence, at);
	while (ts_file_walk(file, file->gc_buffer, TS_FILE_SEGMENT_BYTES, sequence, &at, &head,
			    &head_at)) {
		if (head.key == TS_FILE_KEY_DEAD ||
		    is_current(file, head.key, place_of(file, segment, head_at)))
			continue;
		head.key = TS_FILE_KEY_DEAD;
		memcpy(file->gc_buffer + head_at, &head, sizeof(head));
		is_changed = true;
	}
	return is_changed ? segment_transfer(file, true, segment) : 0;
}

static int clear_segment(struct ts_file *file, uint32_t segment)
{
	uint32_t block = ts_file_first_block(segment);

	memset(file->gc_buffer, 0, TS_FILE_BLOCK_BYTES);
	return ts_file_transfer(file, true, file->gc_buffer, TS_FILE_BLOCK_BYTES,
				(uint64_t)segment * TS_FILE_SEGMENT_BYTES +
				(uint64_t)block * TS_FILE_BLOCK_BYTES);
}

int ts_file_keep(struct ts_file *file)
{
	int ret = 0;

	/* Segments that were never used are empty: the contents were given up at open. */
	for (uint32_t i = 0; !ret && i < file->nr_fresh; i++)
		ret = file->segments[i].state == TS_FILE_FREE ? clear_segment(file, i) :
								keep_segment(file, i);
	return ret;
}
