/* SPDX-License-Identifier: Apache-2.0
 *
 * file_segment.c — which segments are free, what the others hold, and the index from key to
 * place.  The index changes under file->lock only, but gets read it at any time without: the
 * order of the stores below is what makes that right. */
#include <string.h>

#include "store/file.h"

/* ---- Free lists -------------------------------------------------------------------------- */

static void check_empty(struct ts_file *file, uint32_t number)
{
	struct ts_file_segment *segment = &file->segments[number];

	if (segment->state != TS_FILE_SEALED || segment->live_units || segment->nr_writing)
		return;
	file->used_gain_units -= segment->gain_units;
	segment->gain_units = 0;
	segment->is_stuck = 0;
	segment->state = TS_FILE_FREE;
	segment->next = file->dirty_first;
	file->dirty_first = number;
	file->nr_dirty++;
	file->nr_free++;
	file->nr_used--;
}

/* The first segment of a list that no read is in flight on.  A pin that comes later is that of
 * a get which will find, looking at the index again, that it has come too late. */
static uint32_t list_take(struct ts_file *file, uint32_t *first)
{
	for (uint32_t *link = first; *link != TS_FILE_NONE;
	     link = &file->segments[*link].next) {
		uint32_t number = *link;

		if (atomic_load(&file->segments[number].nr_pins))
			continue;
		*link = file->segments[number].next;
		return number;
	}
	return TS_FILE_NONE;
}

int ts_file_segment_take(struct ts_file *file, bool may_use_reserve, uint32_t *segment_out)
{
	/* The collector's own open segment is part of its reserve. */
	bool is_gc_open = file->gc_writer && file->gc_writer->segment != TS_FILE_NONE;
	uint32_t reserve = may_use_reserve ? 0 : TS_FILE_GC_RESERVE - (is_gc_open ? 1 : 0);
	uint32_t number;

	if (file->nr_free <= reserve)
		return TS_EFULL;
	/* First those that the medium has room for already. */
	number = list_take(file, &file->dirty_first);
	if (number != TS_FILE_NONE)
		file->nr_dirty--;
	else
		number = list_take(file, &file->clean_first);
	if (number == TS_FILE_NONE && file->nr_fresh < file->nr_segments)
		number = file->nr_fresh++;
	if (number == TS_FILE_NONE)
		return TS_EFULL;
	struct ts_file_segment *segment = &file->segments[number];
	TS_ASSERT(segment->state == TS_FILE_FREE && segment->live_units == 0);
	segment->state = TS_FILE_OPEN;
	segment->nr_blocks = (uint16_t)ts_file_first_block(number);
	atomic_store(&segment->sequence, file->sequence_next++);
	/* 0 says "never used" to the next process (file_state.c). */
	file->sequence_next += !file->sequence_next;
	file->nr_free--;
	file->nr_used++;
	*segment_out = number;
	return 0;
}

void ts_file_segment_seal(struct ts_file *file, uint32_t number)
{
	TS_ASSERT(file->segments[number].state == TS_FILE_OPEN);
	file->segments[number].state = TS_FILE_SEALED;
	check_empty(file, number);
}

void ts_file_segment_adopt(struct ts_file *file, uint32_t number, uint32_t sequence)
{
	struct ts_file_segment *segment = &file->segments[number];

	TS_ASSERT(segment->state == TS_FILE_FREE && number >= file->nr_fresh);
	for (uint32_t skipped = file->nr_fresh; skipped < number; skipped++) {
		file->segments[skipped].next = file->clean_first;
		file->clean_first = skipped;
	}
	file->nr_fresh = number + 1;
	file->nr_free--;
	file->nr_used++;
	segment->state = TS_FILE_SEALED;
	segment->nr_blocks = TS_FILE_SEGMENT_BLOCKS;
	atomic_store(&segment->sequence, sequence);
	if ((int32_t)(sequence - file->sequence_next) >= 0)
		file->sequence_next = sequence + 1;
}

void ts_file_segment_resume(struct ts_file *file, uint32_t number)
{
	struct ts_file_segment *segment = &file->segments[number];

	file->nr_free--;
	file->nr_used++;
	/* What is dead in it, and what was never written. */
	ts_file_segment_gain(file, number, file->segment_units - segment->live_units);
	check_empty(file, number);
}

void ts_file_segment_gain(struct ts_file *file, uint32_t number, uint32_t nr_units)
{
	file->segments[number].gain_units += nr_units;
	file->used_gain_units += nr_units;
}

void ts_file_segment_write_begin(struct ts_file *file, uint32_t number, uint32_t nr_blocks)
{
	struct ts_file_segment *segment = &file->segments[number];

	TS_ASSERT(segment->state == TS_FILE_OPEN);
	TS_ASSERT(segment->nr_blocks + nr_blocks <= TS_FILE_SEGMENT_BLOCKS);
	segment->nr_blocks = (uint16_t)(segment->nr_blocks + nr_blocks);
	segment->nr_writing++;
}

void ts_file_segment_write_end(struct ts_file *file, uint32_t number)
{
	TS_ASSERT(file->segments[number].nr_writing > 0);
	file->segments[number].nr_writing--;
	check_empty(file, number);
}

/* ---- Index ------------------------------------------------------------------------------- */

static void count_live(struct ts_file *file, uint32_t place, uint16_t nr_units)
{
	struct ts_file_segment *segment = &file->segments[ts_file_segment_of(file, place)];

	TS_ASSERT(segment->state != TS_FILE_FREE);
	segment->live_units += nr_units;
	file->live_units += nr_units;
}

static void count_dead(struct ts_file *file, uint32_t place, uint16_t nr_units)
{
	uint32_t number = ts_file_segment_of(file, place);

	TS_ASSERT(file->segments[number].live_units >= nr_units);
	file->segments[number].live_units -= nr_units;
	file->live_units -= nr_units;
	ts_file_segment_gain(file, number, nr_units);
	check_empty(file, number);
}

static void count_touched(struct ts_file *file, uint64_t key)
{
	uint64_t group = key / TS_FILE_GROUP_KEYS, bit = UINT64_C(1) << (group % 64);

	if (file->touched[group / 64] & bit)
		return;
	file->touched[group / 64] |= bit;
	file->nr_groups_touched++;
}

void ts_file_index_count(struct ts_file *file, uint64_t key, uint32_t place, uint16_t nr_units)
{
	count_touched(file, key);
	count_live(file, place, nr_units);
	file->nr_frames++;
}

void ts_file_index_set(struct ts_file *file, uint64_t key, uint32_t place, uint16_t nr_units)
{
	uint16_t old_units = atomic_load(&file->sizes[key]);
	uint32_t old_place = atomic_load(&file->places[key]);

	TS_ASSERT(nr_units > 0);
	count_touched(file, key);
	count_live(file, place, nr_units);
	if (old_units)
		atomic_fetch_add(&file->replacing, 1);
	atomic_store(&file->places[key], place);
	atomic_store(&file->sizes[key], nr_units);
	if (old_units) {
		atomic_fetch_add(&file->replacing, 1);
		count_dead(file, old_place, old_units);
	} else {
		file->nr_frames++;
	}
}

bool ts_file_index_move(struct ts_file *file, uint64_t key, uint32_t from, uint32_t to,
			uint16_t nr_units)
{
	if (atomic_load(&file->sizes[key]) != nr_units || atomic_load(&file->places[key]) != from)
		return false;
	count_live(file, to, nr_units);
	atomic_store(&file->places[key], to);
	count_dead(file, from, nr_units);
	return true;
}

void ts_file_index_drop(struct ts_file *file, uint64_t key)
{
	uint16_t nr_units = atomic_load(&file->sizes[key]);

	if (nr_units == 0)
		return;
	atomic_store(&file->sizes[key], 0);
	file->nr_frames--;
	count_dead(file, atomic_load(&file->places[key]), nr_units);
}

/* Pin first, then make sure that the index still says the same: whoever frees a segment takes
 * its records out of the index before looking at the pins, so one of the two sees the other. */
bool ts_file_index_pin(struct ts_file *file, uint64_t key, uint32_t *place_out,
		       uint16_t *nr_units_out)
{
	for (;;) {
		uint32_t replacing = atomic_load(&file->replacing);
		uint16_t nr_units = atomic_load(&file->sizes[key]);
		uint32_t place = atomic_load(&file->places[key]);
		uint32_t number = ts_file_segment_of(file, place);

		if (nr_units == 0)
			return false;
		atomic_fetch_add(&file->segments[number].nr_pins, 1);
		if (atomic_load(&file->sizes[key]) == nr_units &&
		    atomic_load(&file->places[key]) == place && !(replacing & 1) &&
		    atomic_load(&file->replacing) == replacing) {
			*place_out = place;
			*nr_units_out = nr_units;
			return true;
		}
		ts_file_unpin(file, number);
	}
}

void ts_file_unpin(struct ts_file *file, uint32_t segment)
{
	uint32_t old = atomic_fetch_sub(&file->segments[segment].nr_pins, 1);

	TS_ASSERT(old > 0);
}
