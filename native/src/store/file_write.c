/* SPDX-License-Identifier: Apache-2.0
 *
 * file_write.c — put: pack a batch into chunks, keep several writes in flight, wait for all of
 * them, and only then let the index know.  What could not be written was never visible; its
 * segment is sealed, and the next batch tries another one. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "store/file.h"
#include "util/hook.h"

/* ---- Writers ----------------------------------------------------------------------------- */

int ts_file_writer_create(struct ts_file *file, struct ts_file_writer **writer_out)
{
	struct ts_file_writer *writer = calloc(1, sizeof(*writer));
	size_t memory_bytes = (size_t)TS_FILE_WRITE_DEPTH * TS_FILE_CHUNK_BYTES;
	int ret = -ENOMEM;

	if (!writer)
		return ts_fail(ret, "%s: out of memory", file->path);
	writer->segment = TS_FILE_NONE;
	writer->order = calloc(file->batch_max, sizeof(writer->order[0]));
	writer->spots = calloc(file->batch_max, sizeof(writer->spots[0]));
	writer->rounds = calloc(file->batch_max, sizeof(writer->rounds[0]));
	writer->memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (writer->memory == MAP_FAILED)
		writer->memory = NULL;
	if (!writer->order || !writer->spots || !writer->rounds || !writer->memory)
		ret = ts_fail(ret, "%s: out of memory", file->path);
	else
		ret = ts_file_ring_open(file, 2 * TS_FILE_WRITE_DEPTH, &writer->ring,
					&writer->has_file);
	writer->has_ring = ret == 0;
	atomic_fetch_add(&file->memory_bytes, memory_bytes);
	if (ret) {
		ts_file_writer_destroy(file, writer);
		return ret;
	}
	writer->has_buffers = ts_file_ring_register(&writer->ring, writer->memory, memory_bytes);
	for (unsigned i = 0; i < TS_FILE_WRITE_DEPTH; i++)
		writer->chunks[i].buffer = writer->memory + (size_t)i * TS_FILE_CHUNK_BYTES;
	*writer_out = writer;
	return 0;
}

void ts_file_writer_destroy(struct ts_file *file, struct ts_file_writer *writer)
{
	size_t memory_bytes = (size_t)TS_FILE_WRITE_DEPTH * TS_FILE_CHUNK_BYTES;

	if (!writer)
		return;
	if (writer->has_ring)
		io_uring_queue_exit(&writer->ring);
	if (writer->memory)
		munmap(writer->memory, memory_bytes);
	atomic_fetch_sub(&file->memory_bytes, memory_bytes);
	free(writer->order);
	free(writer->spots);
	free(writer->rounds);
	free(writer);
}

/* An idle writer, a new one, or the next that becomes idle. */
static struct ts_file_writer *writer_take(struct ts_file *file)
{
	TS_SCOPED_LOCK(&file->pool_lock);
	for (;;) {
		for (unsigned i = 0; i < file->nr_writers; i++) {
			if (file->writers[i]->is_busy)
				continue;
			file->writers[i]->is_busy = true;
			return file->writers[i];
		}
		if (file->nr_writers < file->nr_writers_max &&
		    !ts_file_writer_create(file, &file->writers[file->nr_writers])) {
			file->nr_writers++;
			continue;
		}
		/* There is one from open() on, so this ends. */
		pthread_cond_wait(&file->pool_changed, &file->pool_lock);
	}
}

static void writer_give(struct ts_file *file, struct ts_file_writer *writer)
{
	TS_SCOPED_LOCK(&file->pool_lock);
	writer->is_busy = false;
	pthread_cond_signal(&file->pool_changed);
}

/* ---- One write --------------------------------------------------------------------------- */

static int chunk_submit(struct ts_file *file, struct ts_file_writer *writer,
			struct ts_file_chunk *chunk)
{
	struct io_uring_sqe *sqe = ts_file_ring_sqe(&writer->ring);
	uint8_t *from = chunk->buffer + chunk->done_bytes;
	unsigned len_bytes = chunk->nr_blocks * TS_FILE_BLOCK_BYTES - chunk->done_bytes;
	uint64_t offset = (uint64_t)chunk->segment * TS_FILE_SEGMENT_BYTES +
			  (uint64_t)chunk->first_block * TS_FILE_BLOCK_BYTES + chunk->done_bytes;
	int fd = writer->has_file ? 0 : file->fd;

	/* The ring has room for every chunk twice; what failed to go out may still sit in it. */
	if (!sqe)
		return -EBUSY;
	if (writer->has_buffers)
		io_uring_prep_write_fixed(sqe, fd, from, len_bytes, offset, 0);
	else
		io_uring_prep_write(sqe, fd, from, len_bytes, offset);
	if (writer->has_file)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, chunk);
	int ret = ts_file_ring_submit(&writer->ring, sqe);
	chunk->is_inflight = ret == 0;
	writer->nr_inflight += ret == 0;
	return ret;
}

static bool is_passing(int error)
{
	return error == -EINTR || error == -EAGAIN;
}

/* Takes one completion into account; writes the rest of a short write. */
static void chunk_complete(struct ts_file *file, struct ts_file_writer *writer,
			   struct ts_file_chunk *chunk, int result)
{
	uint32_t len_bytes = chunk->nr_blocks * TS_FILE_BLOCK_BYTES;

	int32_t *status = &writer->rounds[chunk->round].status;

	writer->nr_inflight--;
	chunk->is_inflight = false;
	if (result > 0) {
		chunk->done_bytes += (uint32_t)result / TS_FILE_BLOCK_BYTES * TS_FILE_BLOCK_BYTES;
		atomic_fetch_add(&file->device_bytes, (uint64_t)result);
	}
	if (chunk->done_bytes == len_bytes)
		return;
	if ((result > 0 || is_passing(result)) && chunk->nr_retries++ < TS_FILE_RETRY_MAX)
		*status = chunk_submit(file, writer, chunk);
	else
		*status = result < 0 ? result : -EIO;
}

/* Waits for at least one completion and handles all that there are. */
static void wait_some(struct ts_file *file, struct ts_file_writer *writer)
{
	struct io_uring_cqe *cqe;
	int ret = io_uring_wait_cqe(&writer->ring, &cqe);

	/* Only a signal can get in between: the ring is ours alone and has requests in flight. */
	TS_ASSERT(ret == 0 || ret == -EINTR || ret == -EAGAIN);
	while (ret == 0) {
		struct ts_file_chunk *chunk = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&writer->ring, cqe);
		if (chunk && TS_INJECT(TS_SITE_URING_RESULT))
			result = -errno;
		if (chunk)
			chunk_complete(file, writer, chunk, result);
		ret = io_uring_peek_cqe(&writer->ring, &cqe);
	}
}

/* ---- One batch --------------------------------------------------------------------------- */

/* A chunk whose last write is done. */
static unsigned slot_take(struct ts_file *file, struct ts_file_writer *writer)
{
	for (;;) {
		for (unsigned i = 0; i < TS_FILE_WRITE_DEPTH; i++)
			if (!writer->chunks[i].is_inflight)
				return i;
		wait_some(file, writer);
	}
}

static void seal(struct ts_file *file, struct ts_file_writer *writer, bool is_failed)
{
	struct ts_file_segment *segment = &file->segments[writer->segment];

	TS_SCOPED_LOCK(&file->lock);
	/* After a failure what is left of it is worth collecting; at its regular end it is not,
	 * or segments of large frames would be moved about for nothing. */
	if (is_failed)
		ts_file_segment_gain(file, writer->segment,
			(TS_FILE_SEGMENT_BLOCKS - segment->nr_blocks) *
			(uint32_t)(TS_FILE_BLOCK_BYTES >> file->unit_shift));
	ts_file_segment_seal(file, writer->segment);
	writer->segment = TS_FILE_NONE;
}

/* Makes sure that the writer has an open segment; collects garbage if that is what it takes. */
static int need_segment(struct ts_file *file, struct ts_file_writer *writer)
{
	int ret = 0;

	if (writer->segment != TS_FILE_NONE)
		return 0;
	for (unsigned i = 0; i < TS_FILE_RETRY_MAX; i++) {
		pthread_mutex_lock(&file->lock);
		ret = ts_file_segment_take(file, writer->may_use_reserve, &writer->segment);
		pthread_mutex_unlock(&file->lock);
		if (ret == 0) {
			writer->next_block = ts_file_first_block(writer->segment);
			return 0;
		}
		if (writer->may_use_reserve ||
		    ts_file_gc_step(file, file->segment_units / 8) <= 0)
			break;
	}
	return ret;
}

/* Packs and submits one chunk.  Returns how the caller goes on: 0, or why it must stop. */
static int write_round(struct ts_file *file, struct ts_file_writer *writer,
		       const struct ts_put *items, unsigned *nr_left)
{
	unsigned slot = slot_take(file, writer);
	struct ts_file_chunk *chunk = &writer->chunks[slot];
	int ret = need_segment(file, writer);

	if (ret)
		return ret;
	*chunk = (struct ts_file_chunk){ .buffer = chunk->buffer, .segment = writer->segment,
					 .first_block = writer->next_block,
					 .round = writer->nr_rounds };
	chunk->nr_blocks = ts_file_pack(file, writer, chunk, items, nr_left,
		TS_MIN(TS_FILE_SEGMENT_BLOCKS - writer->next_block, TS_FILE_CHUNK_BLOCKS + 0u));
	if (chunk->nr_blocks == 0) {
		seal(file, writer, false);
		return 0;
	}
	pthread_mutex_lock(&file->lock);
	ts_file_segment_write_begin(file, chunk->segment, chunk->nr_blocks);
	pthread_mutex_unlock(&file->lock);
	writer->next_block += chunk->nr_blocks;
	writer->rounds[writer->nr_rounds++] = (struct ts_file_round){
		.segment = chunk->segment, .nr_blocks = chunk->nr_blocks };
	writer->rounds[chunk->round].status = chunk_submit(file, writer, chunk);
	return 0;
}

/* Lets the index know of one item.  Caller holds lock. */
static void publish_item(struct ts_file *file, const struct ts_file_writer *writer,
			 struct ts_put *item, unsigned number, const uint32_t *from)
{
	const struct ts_file_spot *spot = &writer->spots[number];

	if (spot->nr_units == 0)
		return;
	item->status = writer->rounds[spot->round].status;
	if (item->status) {
		atomic_fetch_add(&file->nr_errors, 1);
	} else if (!from) {
		ts_file_index_set(file, item->key, spot->place, spot->nr_units);
		file->written_bytes += item->len_bytes;
	} else if (ts_file_index_move(file, item->key, from[number], spot->place,
				      spot->nr_units)) {
		file->moved_bytes += item->len_bytes;
	} else {
		/* Deleted or replaced while it was being moved. */
		ts_file_segment_gain(file, ts_file_segment_of(file, spot->place), spot->nr_units);
	}
}

/* All writes are done: publishes what was written, and gives up the segments that failed. */
static void publish(struct ts_file *file, struct ts_file_writer *writer, struct ts_put *items,
		    const uint32_t *from, unsigned nr_items)
{
	uint32_t block_units = TS_FILE_BLOCK_BYTES >> file->unit_shift;
	bool is_failed = false;

	pthread_mutex_lock(&file->lock);
	for (unsigned i = 0; i < nr_items; i++)
		publish_item(file, writer, &items[i], i, from);
	for (unsigned i = 0; i < writer->nr_rounds; i++) {
		const struct ts_file_round *round = &writer->rounds[i];

		if (round->status)
			ts_file_segment_gain(file, round->segment, round->nr_blocks * block_units);
		else if (i + 1 == writer->nr_rounds)
			ts_file_segment_gain(file, round->segment, writer->pad_units);
		is_failed |= round->status && round->segment == writer->segment;
		ts_file_segment_write_end(file, round->segment);
	}
	pthread_mutex_unlock(&file->lock);
	if (is_failed)
		seal(file, writer, true);
	else if (writer->next_block == TS_FILE_SEGMENT_BLOCKS && writer->segment != TS_FILE_NONE)
		seal(file, writer, false);
}

int ts_file_write_batch(struct ts_file *file, struct ts_file_writer *writer, struct ts_put *items,
			const uint32_t *from, unsigned nr_items)
{
	unsigned nr_left;
	int ret = 0;

	TS_ASSERT(nr_items <= file->batch_max && writer->nr_inflight == 0);
	memset(writer->spots, 0, nr_items * sizeof(writer->spots[0]));
	writer->nr_rounds = 0;
	for (unsigned i = 0; i < nr_items; i++)
		items[i].status = items[i].key > file->key_max ||
				  items[i].len_bytes > file->frame_max_bytes ? TS_ELIMIT :
				  ts_file_state_reserve(file, items[i].key);
	ts_file_pack_order(writer, items, nr_items, &nr_left);
	while (ret == 0 && nr_left > 0)
		ret = write_round(file, writer, items, &nr_left);
	for (unsigned i = 0; i < nr_left; i++)
		items[writer->order[i]].status = ret;
	while (writer->nr_inflight > 0)
		wait_some(file, writer);
	publish(file, writer, items, from, nr_items);
	return 0;
}

int ts_file_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);
	struct ts_file_writer *writer = writer_take(file);
	int ret = ts_file_write_batch(file, writer, items, NULL, nr_items);

	writer_give(file, writer);
	return ret;
}
