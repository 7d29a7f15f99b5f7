/* SPDX-License-Identifier: Apache-2.0
 *
 * file_pack.c — which frame of a batch goes where in a write.  A record that fits into a block
 * never crosses a block's edge, so that reading it costs one block; packing is therefore a
 * bin-packing problem, and best fit, longest first, keeps the holes of a batch to a few percent.
 * Longer records come first, one after the other: they may start anywhere. */
#include <stdlib.h>
#include <string.h>

#include "store/file.h"

enum { BIN_UNITS_MAX = TS_FILE_BLOCK_BYTES / TS_FILE_UNIT_BYTES_MIN };

/* Blocks with room left, in one list for each amount of room (in units).  words[] has a bit for
 * each list that is not empty. */
struct bins {
	uint64_t words[BIN_UNITS_MAX / 64 + 1];
	uint8_t first[BIN_UNITS_MAX + 1]; /* block + 1; 0: none */
	uint8_t next[TS_FILE_CHUNK_BLOCKS];
	uint16_t room_units[TS_FILE_CHUNK_BLOCKS];
};
static_assert(TS_FILE_CHUNK_BLOCKS < UINT8_MAX, "a block number fits into the lists above");

static void bin_add(struct bins *bins, uint32_t block, uint32_t room_units)
{
	bins->room_units[block] = (uint16_t)room_units;
	if (room_units == 0)
		return;
	bins->next[block] = bins->first[room_units];
	bins->first[room_units] = (uint8_t)(block + 1);
	bins->words[room_units / 64] |= UINT64_C(1) << (room_units % 64);
}

/* The fullest block that still has room for nr_units; false if there is none. */
static bool bin_take(struct bins *bins, uint32_t nr_units, uint32_t *block_out,
		     uint32_t *room_units_out)
{
	uint64_t mask = ~UINT64_C(0) << (nr_units % 64);

	for (uint32_t word = nr_units / 64; word < TS_ARRAY_LEN(bins->words); word++) {
		uint64_t bits = bins->words[word] & mask;

		mask = ~UINT64_C(0);
		if (!bits)
			continue;
		uint32_t room = word * 64 + (uint32_t)__builtin_ctzll(bits);
		*block_out = bins->first[room] - 1u;
		*room_units_out = room;
		bins->first[room] = bins->next[*block_out];
		if (!bins->first[room])
			bins->words[word] &= ~(UINT64_C(1) << (room % 64));
		return true;
	}
	return false;
}

static int compare_length(const void *a, const void *b, void *context)
{
	const struct ts_put *items = context;
	uint16_t left = *(const uint16_t *)a, right = *(const uint16_t *)b;

	if (items[left].len_bytes != items[right].len_bytes)
		return items[left].len_bytes > items[right].len_bytes ? -1 : 1;
	return left < right ? -1 : left > right;
}

void ts_file_pack_order(struct ts_file_writer *writer, const struct ts_put *items,
			unsigned nr_items, unsigned *nr_left_out)
{
	unsigned nr_left = 0;

	for (unsigned i = 0; i < nr_items; i++)
		if (items[i].status == 0)
			writer->order[nr_left++] = (uint16_t)i;
	qsort_r(writer->order, nr_left, sizeof(writer->order[0]), compare_length, (void *)items);
	*nr_left_out = nr_left;
}

struct packing {
	struct ts_file *file;
	struct ts_file_chunk *chunk;
	uint32_t block_units;       /* units in a block */
	uint32_t room_blocks;
	uint32_t nr_blocks;         /* used so far */
	uint32_t end_units;         /* behind the last long record */
	struct bins bins;
};

/* Holes must not carry to the disk what an earlier batch left in the buffer. */
static void clear_block(const struct packing *p, uint32_t block)
{
	memset(p->chunk->buffer + (size_t)block * TS_FILE_BLOCK_BYTES, 0, TS_FILE_BLOCK_BYTES);
}

/* Finds room for a record; returns its start in units from the start of the chunk. */
static bool place_long(struct packing *p, uint32_t nr_units, uint32_t *at_out)
{
	uint32_t end = p->end_units + nr_units;

	if (end > p->room_blocks * p->block_units)
		return false;
	*at_out = p->end_units;
	p->end_units = end;
	p->nr_blocks = (end + p->block_units - 1) / p->block_units;
	clear_block(p, p->nr_blocks - 1);
	return true;
}

static bool place_short(struct packing *p, uint32_t nr_units, uint32_t *at_out)
{
	uint32_t block, room;

	if (!bin_take(&p->bins, nr_units, &block, &room)) {
		if (p->nr_blocks == p->room_blocks)
			return false;
		block = p->nr_blocks++;
		room = p->block_units;
		clear_block(p, block);
	}
	*at_out = (block + 1) * p->block_units - room;
	bin_add(&p->bins, block, room - nr_units);
	return true;
}

static void copy_record(const struct packing *p, const struct ts_put *item, uint32_t at_units)
{
	uint8_t *to = p->chunk->buffer + ((size_t)at_units << p->file->unit_shift);
	struct ts_file_head head = {
		.magic = p->file->super.record_magic,
		.sequence = atomic_load_explicit(
			&p->file->segments[p->chunk->segment].sequence, memory_order_relaxed),
		.key = (uint32_t)item->key,
		.len_bytes = item->len_bytes,
	};

	memcpy(to, &head, sizeof(head));
	if (item->len_bytes)
		memcpy(to + sizeof(head), item->data, item->len_bytes);
	uint32_t end = TS_FILE_HEAD_BYTES + item->len_bytes;
	uint32_t whole = ts_file_units(p->file, item->len_bytes) << p->file->unit_shift;
	memset(to + end, 0, whole - end);
}

uint32_t ts_file_pack(struct ts_file *file, struct ts_file_writer *writer,
		      struct ts_file_chunk *chunk, const struct ts_put *items, unsigned *nr_left,
		      uint32_t room_blocks)
{
	struct packing p = {
		.file = file, .chunk = chunk, .room_blocks = room_blocks,
		.block_units = TS_FILE_BLOCK_BYTES >> file->unit_shift,
	};
	uint32_t base = (uint32_t)(((uint64_t)chunk->segment * TS_FILE_SEGMENT_BYTES +
		(uint64_t)chunk->first_block * TS_FILE_BLOCK_BYTES) >> file->unit_shift);
	bool is_long_done = false;
	unsigned nr_kept = 0;

	for (unsigned i = 0; i < *nr_left; i++) {
		const struct ts_put *item = &items[writer->order[i]];
		uint32_t nr_units = ts_file_units(file, item->len_bytes), at = 0;
		bool is_long = item->len_bytes + TS_FILE_HEAD_BYTES > TS_FILE_BLOCK_BYTES;

		if (!is_long && !is_long_done) {
			is_long_done = true;
			if (p.end_units % p.block_units)
				bin_add(&p.bins, p.nr_blocks - 1,
					p.block_units - p.end_units % p.block_units);
		}
		if (!(is_long ? place_long(&p, nr_units, &at) : place_short(&p, nr_units, &at))) {
			writer->order[nr_kept++] = writer->order[i];
			continue;
		}
		copy_record(&p, item, at);
		writer->spots[writer->order[i]] = (struct ts_file_spot){
			.place = base + at, .nr_units = (uint16_t)nr_units,
			.round = (uint16_t)writer->nr_rounds,
		};
	}
	*nr_left = nr_kept;
	/* What the last block has left could be won by packing again, with more to choose from. */
	writer->pad_units = p.nr_blocks ? p.bins.room_units[p.nr_blocks - 1] : 0;
	return p.nr_blocks;
}
