/* SPDX-License-Identifier: Apache-2.0
 *
 * file_gc.c — making room: segments with little alive in them are emptied by moving the rest,
 * and empty segments are given back to the medium.  A moved byte is paid for by at least an
 * eighth of a byte won, so collection writes at most eight times what put() asks for when the
 * store is full, and nothing at all while there is room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/file.h"

/* ---- Collection -------------------------------------------------------------------------- */

/* The sealed segment whose emptying wins most, pinned; TS_FILE_NONE if all win too little. */
static uint32_t victim_take(struct ts_file *file, uint32_t gain_min_units)
{
	uint32_t best = TS_FILE_NONE, gain_best = TS_MAX(gain_min_units, 1u) - 1;

	TS_SCOPED_LOCK(&file->lock);
	uint32_t nr_looked = TS_MIN(file->nr_fresh, (uint32_t)TS_FILE_GC_SCAN_MAX);
	for (uint32_t i = 0; i < nr_looked; i++) {
		uint32_t number = (uint32_t)((file->gc_cursor + (uint64_t)i) % file->nr_fresh);
		const struct ts_file_segment *segment = &file->segments[number];

		if (segment->state != TS_FILE_SEALED || segment->is_stuck ||
		    segment->nr_writing || segment->gain_units <= gain_best)
			continue;
		best = number;
		gain_best = segment->gain_units;
	}
	if (nr_looked < file->nr_fresh)
		file->gc_cursor = (file->gc_cursor + nr_looked) % file->nr_fresh;
	if (best != TS_FILE_NONE)
		atomic_fetch_add(&file->segments[best].nr_pins, 1);
	return best;
}

/* A head that has another length than the index says is damaged.  Such a record can't be moved;
 * were it tried, the collection would fail here each time, and no other segment's turn would come.
 */
static bool is_live(struct ts_file *file, const struct ts_file_head *head, uint32_t place)
{
	return head->key <= file->key_max && head->len_bytes <= file->frame_max_bytes &&
	       atomic_load(&file->sizes[head->key]) == ts_file_units(file, head->len_bytes) &&
	       atomic_load(&file->places[head->key]) == place;
}

/* Collects the next batch of live records from the image; returns how many. */
static unsigned gather(struct ts_file *file, uint32_t victim, uint32_t len_bytes,
		       uint32_t *at_bytes)
{
	uint32_t sequence = atomic_load(&file->segments[victim].sequence), head_at;
	struct ts_file_head head;
	unsigned nr_items = 0;

	while (nr_items < file->batch_max &&
	       ts_file_walk(file, file->gc_buffer, len_bytes, sequence, at_bytes, &head,
			    &head_at)) {
		uint32_t place = (uint32_t)(((uint64_t)victim * TS_FILE_SEGMENT_BYTES + head_at) >>
					    file->unit_shift);

		if (!is_live(file, &head, place))
			continue;
		file->gc_items[nr_items] = (struct ts_put){
			.key = head.key, .len_bytes = head.len_bytes,
			.data = file->gc_buffer + head_at + TS_FILE_HEAD_BYTES,
		};
		file->gc_places[nr_items++] = place;
	}
	return nr_items;
}

/* *is_stuck_out: live records that are still there won't come out another time either. */
static int move_live(struct ts_file *file, uint32_t victim, bool *is_stuck_out)
{
	uint32_t first = ts_file_first_block(victim) * TS_FILE_BLOCK_BYTES, at = first;
	uint32_t len_bytes = file->segments[victim].nr_blocks * (uint32_t)TS_FILE_BLOCK_BYTES;
	int ret = ts_file_transfer(file, false, file->gc_buffer + first, len_bytes - first,
				   (uint64_t)victim * TS_FILE_SEGMENT_BYTES + first);
	unsigned nr_items;

	*is_stuck_out = true;
	if (ret)
		return ret;
	while ((nr_items = gather(file, victim, len_bytes, &at)) > 0) {
		ret = ts_file_write_batch(file, file->gc_writer, file->gc_items, file->gc_places,
					  nr_items);
		for (unsigned i = 0; !ret && i < nr_items; i++)
			ret = file->gc_items[i].status;
		if (ret) {
			*is_stuck_out = false;
			return ret;
		}
	}
	return 0;
}

int ts_file_gc_step(struct ts_file *file, uint32_t gain_min_units)
{
	TS_SCOPED_LOCK(&file->gc_lock);
	uint32_t victim = victim_take(file, gain_min_units);

	if (victim == TS_FILE_NONE)
		return 0;
	bool is_stuck;
	int ret = move_live(file, victim, &is_stuck);
	pthread_mutex_lock(&file->lock);
	/* What can't be read or recognised can't be moved, and stays until it is deleted: do not
	 * try it again and again.  What could not be written may find a better time. */
	if (is_stuck && file->segments[victim].state == TS_FILE_SEALED &&
	    file->segments[victim].live_units) {
		file->segments[victim].is_stuck = 1;
		atomic_fetch_add(&file->nr_errors, 1);
	}
	pthread_mutex_unlock(&file->lock);
	ts_file_unpin(file, victim);
	return ret < 0 ? ret : 1;
}

/* ---- Giving back ------------------------------------------------------------------------- */

static int compare_number(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

/* Takes empty segments that still hold old data off their list, but for a few that the next
 * puts can use: writing to room that the medium has assigned already is cheaper. */
static unsigned discard_take(struct ts_file *file, uint32_t *numbers)
{
	unsigned nr_taken = 0;

	TS_SCOPED_LOCK(&file->lock);
	uint32_t nr_spare = file->nr_frames ? TS_MIN(file->nr_segments / 16, 8u) : 0;
	if (!file->can_discard)
		return 0;
	for (uint32_t *link = &file->dirty_first; *link != TS_FILE_NONE;) {
		struct ts_file_segment *segment = &file->segments[*link];

		if (file->nr_dirty <= nr_spare || nr_taken == TS_FILE_DISCARD_MAX)
			break;
		if (atomic_load(&segment->nr_pins)) {
			link = &segment->next;
			continue;
		}
		numbers[nr_taken++] = *link;
		*link = segment->next;
		file->nr_dirty--;
		file->nr_free--;
	}
	return nr_taken;
}

/* Gives back neighbours with one call: the file system waits for reads in flight each time. */
static uint64_t discard_runs(struct ts_file *file, const uint32_t *numbers, unsigned nr_numbers,
			     bool *is_refused)
{
	uint64_t discarded_bytes = 0;

	for (unsigned i = 0, end; i < nr_numbers; i = end) {
		for (end = i + 1; end < nr_numbers && numbers[end] == numbers[end - 1] + 1; end++)
			;
		uint64_t offset = (uint64_t)numbers[i] * TS_FILE_SEGMENT_BYTES;
		uint64_t len_bytes = (uint64_t)(end - i) * TS_FILE_SEGMENT_BYTES;
		if (numbers[i] == 0) {
			offset += TS_FILE_BLOCK_BYTES;
			len_bytes -= TS_FILE_BLOCK_BYTES;
		}
		int ret = ts_file_discard(file, offset, len_bytes);
		if (ret == 0)
			discarded_bytes += len_bytes;
		else if (ret == -EOPNOTSUPP || ret == -ENOTTY)
			*is_refused = true;
		else
			atomic_fetch_add(&file->nr_errors, 1);
	}
	return discarded_bytes;
}

/* Returns how many segments went back. */
static unsigned discard_step(struct ts_file *file)
{
	uint32_t numbers[TS_FILE_DISCARD_MAX];
	unsigned nr_numbers = discard_take(file, numbers);
	bool is_refused = false;

	if (nr_numbers == 0)
		return 0;
	qsort(numbers, nr_numbers, sizeof(numbers[0]), compare_number);
	uint64_t discarded_bytes = discard_runs(file, numbers, nr_numbers, &is_refused);
	TS_SCOPED_LOCK(&file->lock);
	if (is_refused)
		file->can_discard = false;
	file->discarded_bytes += discarded_bytes;
	for (unsigned i = nr_numbers; i-- > 0;) {
		file->segments[numbers[i]].next = file->clean_first;
		file->clean_first = numbers[i];
		file->nr_free++;
	}
	return nr_numbers;
}

/* What a collection has to win to be worth while now; 0: nothing is. */
static uint32_t gain_wanted(struct ts_file *file)
{
	TS_SCOPED_LOCK(&file->lock);
	uint64_t used_units = (uint64_t)file->nr_used * file->segment_units;

	if (file->nr_free < TS_MAX(file->nr_segments / 8, TS_FILE_GC_RESERVE + 1u))
		return file->segment_units / 4;
	if (file->nr_used > TS_FILE_SEGMENTS_PER_WRITER && file->used_gain_units > used_units / 2)
		return file->segment_units / 2;
	return 0;
}

int ts_file_maintain(struct ts_store *store)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);
	uint32_t gain_min_units = gain_wanted(file);

	if (gain_min_units && ts_file_gc_step(file, gain_min_units) > 0)
		return 1;
	return discard_step(file) > 0 ? 1 : 0;
}
