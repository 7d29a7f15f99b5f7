/* SPDX-License-Identifier: Apache-2.0
 *
 * file_read.c — get and reap: one read of whole blocks for each frame, straight into the
 * caller's buffer, and a look at the record's head before anybody sees the bytes.  This is the
 * way of a fault: no allocation, no lock, no log.
 *
 * A get that comes while another read is under way is queued, and handed to the kernel with its
 * like by the next reap: one system call and one interrupt of the device's host for all of them.
 * Nobody waits for such a read for want of a reap, because the one under way ends in one. */
#include <errno.h>
#include <string.h>

#include "store/file.h"
#include "util/hook.h"

struct reader {
	struct ts_reader base;
	struct io_uring ring;
	bool has_file;
	uint8_t *arena;             /* registered; NULL: none */
	size_t arena_bytes;
	unsigned nr_pending;        /* of requests: queued, under way, refused */
	unsigned nr_queued, nr_refused;
	struct queued {
		struct io_uring_sqe *sqe;
		struct ts_get *request;
	} *queued;                  /* [reader_depth] */
	/* By the kernel when they were handed to it; to be reported by this reap. */
	struct ts_get **refused;    /* [reader_depth] */
	int refusal;
	uint32_t around_bytes;      /* a power of two, or 0 */
};

/* ts_get.store_priv while a request is pending, and until its buffer is used again */
enum { PRIV_PLACE, PRIV_SIZE, PRIV_DONE, PRIV_RETRIES };

/* PRIV_SIZE: units of the record, blocks that are read before and after its own. */
static uint64_t pack_size(uint16_t nr_units, uint32_t nr_before, uint32_t nr_after)
{
	return nr_units | (uint64_t)nr_before << 16 | (uint64_t)nr_after << 32;
}

static uint16_t nr_units_of(const struct ts_get *request)
{
	return (uint16_t)request->store_priv[PRIV_SIZE];
}

static uint32_t before_bytes(const struct ts_get *request)
{
	return (uint16_t)(request->store_priv[PRIV_SIZE] >> 16) * (uint32_t)TS_FILE_BLOCK_BYTES;
}

static uint32_t after_bytes(const struct ts_get *request)
{
	return (uint16_t)(request->store_priv[PRIV_SIZE] >> 32) * (uint32_t)TS_FILE_BLOCK_BYTES;
}

static struct ts_file *file_of(struct reader *reader)
{
	return TS_CONTAINER(reader->base.store, struct ts_file, base);
}

/* ---- Readers ----------------------------------------------------------------------------- */

static void free_reader(struct reader *reader)
{
	free(reader->queued);
	free(reader->refused);
	free(reader);
}

int ts_file_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);
	struct reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return ts_fail(-ENOMEM, "%s: out of memory for a reader", file->path);
	reader->base.store = store;
	reader->queued = calloc(file->reader_depth, sizeof(*reader->queued));
	reader->refused = calloc(file->reader_depth, sizeof(struct ts_get *));
	if (!reader->queued || !reader->refused) {
		free_reader(reader);
		return ts_fail(-ENOMEM, "%s: out of memory for a reader", file->path);
	}
	/* Twice: a request that was refused leaves an entry behind (file_ring.c). */
	int ret = ts_file_ring_open(file, 2 * file->reader_depth, &reader->ring,
				    &reader->has_file);
	if (ret) {
		free_reader(reader);
		return ret;
	}
	*reader_out = &reader->base;
	return 0;
}

int ts_file_reader_arena(struct ts_reader *base, void *memory, size_t len_bytes)
{
	struct reader *reader = TS_CONTAINER(base, struct reader, base);

	/* Refused where locked memory is scarce; reads then pin their pages one by one. */
	if (ts_file_ring_register(&reader->ring, memory, len_bytes)) {
		reader->arena = memory;
		reader->arena_bytes = len_bytes;
	}
	return 0;
}

void ts_file_reader_close(struct ts_reader *base)
{
	struct reader *reader = TS_CONTAINER(base, struct reader, base);

	if (!base)
		return;
	io_uring_queue_exit(&reader->ring);
	free_reader(reader);
}

int ts_file_reader_fd(struct ts_reader *base)
{
	return TS_CONTAINER(base, struct reader, base)->ring.ring_fd;
}

/* ---- One request ------------------------------------------------------------------------- */

/* Where the frame's blocks start, and how many bytes they have; those around them included. */
static uint64_t blocks_of(const struct ts_file *file, const struct ts_get *request,
			  uint32_t *len_bytes_out)
{
	uint64_t start = ts_file_offset(file, (uint32_t)request->store_priv[PRIV_PLACE]);
	uint64_t end = start + ((uint64_t)nr_units_of(request) << file->unit_shift);
	uint64_t first = start / TS_FILE_BLOCK_BYTES * TS_FILE_BLOCK_BYTES -
			 before_bytes(request);
	uint64_t last = (end + TS_FILE_BLOCK_BYTES - 1) / TS_FILE_BLOCK_BYTES *
			TS_FILE_BLOCK_BYTES + after_bytes(request);

	*len_bytes_out = (uint32_t)(last - first);
	return first;
}

/* The blocks around the frame's: an aligned stretch of the file, so that the frames in it have the
 * same; half of it, and so on, if the buffer has no room for more. */
static void widen(const struct reader *reader, const struct ts_file *file, struct ts_get *request)
{
	uint32_t len_bytes, around_bytes = reader->around_bytes;
	uint64_t first = blocks_of(file, request, &len_bytes);

	for (; around_bytes > TS_FILE_BLOCK_BYTES; around_bytes /= 2) {
		uint64_t from = first / around_bytes * around_bytes;
		uint64_t end = first + len_bytes, to = TS_MAX(from + around_bytes, end);
		if (to - from > request->cap_bytes)
			continue;
		request->store_priv[PRIV_SIZE] =
			pack_size(nr_units_of(request),
				  (uint32_t)(first - from) / TS_FILE_BLOCK_BYTES,
				  (uint32_t)(to - end) / TS_FILE_BLOCK_BYTES);
		return;
	}
}

static int submit(struct reader *reader, struct ts_get *request, bool may_queue)
{
	struct ts_file *file = file_of(reader);
	struct io_uring_sqe *sqe = ts_file_ring_sqe(&reader->ring);
	uint64_t done = request->store_priv[PRIV_DONE];
	uint32_t len_bytes;
	uint64_t offset = blocks_of(file, request, &len_bytes) + done;
	uint8_t *to = (uint8_t *)request->buf + done;
	int fd = reader->has_file ? 0 : file->fd;

	if (!sqe)
		return -EBUSY;
	len_bytes -= (uint32_t)done;
	if (reader->arena && to >= reader->arena &&
	    to + len_bytes <= reader->arena + reader->arena_bytes)
		io_uring_prep_read_fixed(sqe, fd, to, len_bytes, offset, 0);
	else
		io_uring_prep_read(sqe, fd, to, len_bytes, offset);
	if (reader->has_file)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, request);
	if (may_queue && reader->nr_pending > reader->nr_queued) {
		reader->queued[reader->nr_queued++] = (struct queued){ sqe, request };
		reader->nr_pending++;
		return 0;
	}
	int ret = ts_file_ring_submit(&reader->ring, sqe);
	reader->nr_pending += ret == 0;
	return ret;
}

/* Hands the queue to the kernel.  What it does not take is refused, and neutralised as in
 * file_ring.c. */
static void flush(struct reader *reader)
{
	if (!reader->nr_queued)
		return;
	reader->refusal = ts_file_ring_send(&reader->ring);
	unsigned nr_left = TS_MIN(io_uring_sq_ready(&reader->ring), reader->nr_queued);
	for (unsigned i = reader->nr_queued - nr_left; i < reader->nr_queued; i++) {
		io_uring_prep_nop(reader->queued[i].sqe);
		io_uring_sqe_set_data(reader->queued[i].sqe, NULL);
		reader->refused[reader->nr_refused++] = reader->queued[i].request;
	}
	reader->nr_queued = 0;
}

/* The request is over: lets go of the segment, sets the status. */
static void finish(struct ts_file *file, struct ts_get *request, int status)
{
	ts_file_unpin(file, ts_file_segment_of(file,
		(uint32_t)request->store_priv[PRIV_PLACE]));
	request->status = status;
	if (status)
		atomic_fetch_add(&file->nr_errors, 1);
}

/* All blocks are there: is this the record that the index spoke of? */
static int check_record(const struct ts_file *file, struct ts_get *request)
{
	uint32_t place = (uint32_t)request->store_priv[PRIV_PLACE];
	uint32_t at = before_bytes(request) +
		      (uint32_t)(ts_file_offset(file, place) % TS_FILE_BLOCK_BYTES);
	const struct ts_file_segment *segment = &file->segments[ts_file_segment_of(file, place)];
	struct ts_file_head head;

	memcpy(&head, (uint8_t *)request->buf + at, sizeof(head));
	if (head.magic != file->super.record_magic || head.key != request->key ||
	    head.sequence != atomic_load_explicit(&segment->sequence, memory_order_relaxed) ||
	    head.len_bytes > file->frame_max_bytes ||
	    ts_file_units(file, head.len_bytes) != nr_units_of(request))
		return TS_ECORRUPT;
	request->off_bytes = at + TS_FILE_HEAD_BYTES;
	request->len_bytes = head.len_bytes;
	return 0;
}

/* What lies around the record could not be read, perhaps: a bad sector there must not cost a page
 * whose own blocks are good.  From now on it is a read of those alone. */
static bool narrow(struct ts_get *request)
{
	bool was_wide = before_bytes(request) || after_bytes(request);

	request->store_priv[PRIV_SIZE] = pack_size(nr_units_of(request), 0, 0);
	if (was_wide)
		request->store_priv[PRIV_DONE] = 0;
	return was_wide;
}

/* Takes one completion; true when the request is over, false when the rest is on its way. */
static bool complete(struct reader *reader, struct ts_get *request, int result)
{
	struct ts_file *file = file_of(reader);
	uint32_t len_bytes;
	int status;

	reader->nr_pending--;
	blocks_of(file, request, &len_bytes);
	if (result > 0)
		request->store_priv[PRIV_DONE] += (uint64_t)result / TS_FILE_BLOCK_BYTES *
						  TS_FILE_BLOCK_BYTES;
	/* What lies behind it need not be there: a file may end. */
	if (request->store_priv[PRIV_DONE] >= len_bytes - after_bytes(request)) {
		status = check_record(file, request);
	} else if (((result > 0 || result == -EINTR || result == -EAGAIN) &&
		    request->store_priv[PRIV_RETRIES]++ < TS_FILE_RETRY_MAX) ||
		   narrow(request)) {
		status = submit(reader, request, false);
		if (status == 0)
			return false;
	} else {
		status = result < 0 ? result : -EIO;
	}
	finish(file, request, status);
	return true;
}

/* ---- get --------------------------------------------------------------------------------- */

int ts_file_get(struct ts_reader *base, struct ts_get *request)
{
	struct reader *reader = TS_CONTAINER(base, struct reader, base);
	struct ts_file *file = file_of(reader);
	uint32_t place, len_bytes;
	uint16_t nr_units;

	if (request->key > file->key_max ||
	    !ts_file_index_pin(file, request->key, &place, &nr_units)) {
		request->status = TS_ENOTFOUND;
		return 0;
	}
	request->store_priv[PRIV_PLACE] = place;
	request->store_priv[PRIV_SIZE] = pack_size(nr_units, 0, 0);
	request->store_priv[PRIV_DONE] = 0;
	request->store_priv[PRIV_RETRIES] = 0;
	widen(reader, file, request);
	blocks_of(file, request, &len_bytes);
	int ret = len_bytes > request->cap_bytes ? -ENOBUFS : submit(reader, request, true);
	if (ret == 0)
		return 1;
	finish(file, request, ret);
	return 0;
}

/* ---- What else a read has brought -------------------------------------------------------- */

/* A block is written once until its segment begins anew, so a record that the index names at its
 * place, in the same use of the segment, is the one.  (Only one that was being written while we
 * read may be torn, and its checksum says so.)  The sequence is looked at after the index: if the
 * segment has begun anew before that, it tells. */
static bool is_current(struct ts_file *file, const struct ts_file_head *head, uint32_t place)
{
	const struct ts_file_segment *segment = &file->segments[ts_file_segment_of(file, place)];

	return head->key <= file->key_max && head->len_bytes <= file->frame_max_bytes &&
	       atomic_load(&file->places[head->key]) == place &&
	       atomic_load(&file->sizes[head->key]) == ts_file_units(file, head->len_bytes) &&
	       atomic_load(&segment->sequence) == head->sequence;
}

void ts_file_reader_around(struct ts_reader *base, uint32_t len_bytes)
{
	TS_CONTAINER(base, struct reader, base)->around_bytes = len_bytes;
}

int ts_file_mates(struct ts_reader *base, const struct ts_get *request,
		  struct ts_store_mate *mates, unsigned mates_max)
{
	struct ts_file *file = file_of(TS_CONTAINER(base, struct reader, base));
	struct ts_file_head own, head;
	uint32_t len_bytes, at = 0, head_at;
	uint64_t first = blocks_of(file, request, &len_bytes);
	unsigned nr = 0;

	len_bytes = (uint32_t)request->store_priv[PRIV_DONE];
	memcpy(&own, (uint8_t *)request->buf + request->off_bytes - sizeof(own), sizeof(own));
	while (nr < mates_max && ts_file_walk(file, request->buf, len_bytes, own.sequence, &at,
					      &head, &head_at)) {
		uint32_t place = (uint32_t)((first + head_at) >> file->unit_shift);

		if (head.key == request->key || !is_current(file, &head, place))
			continue;
		mates[nr++] = (struct ts_store_mate){
			.key = head.key, .off_bytes = head_at + TS_FILE_HEAD_BYTES,
			.len_bytes = head.len_bytes,
		};
	}
	return (int)nr;
}

/* ---- reap -------------------------------------------------------------------------------- */

/* The next completion, or NULL when there is none yet. */
static struct io_uring_cqe *next_cqe(struct reader *reader)
{
	struct io_uring_cqe *cqe = NULL;

	return io_uring_peek_cqe(&reader->ring, &cqe) == 0 ? cqe : NULL;
}

static struct io_uring_cqe *wait_cqe(struct reader *reader, int wait_ms)
{
	ts_mono_ns start = ts_now_ns();
	int64_t left_ns = (int64_t)wait_ms * 1000000;
	struct io_uring_cqe *cqe = NULL;
	int ret;

	do {
		struct __kernel_timespec left = {
			.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000,
		};

		ret = wait_ms < 0 ? io_uring_wait_cqe(&reader->ring, &cqe) :
				    io_uring_wait_cqe_timeout(&reader->ring, &cqe, &left);
		if (wait_ms > 0)
			left_ns = (int64_t)wait_ms * 1000000 - (int64_t)(ts_now_ns() - start);
	} while (ret == -EINTR && (wait_ms < 0 || left_ns > 0));
	return ret == 0 ? cqe : NULL;
}

int ts_file_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max, int wait_ms)
{
	struct reader *reader = TS_CONTAINER(base, struct reader, base);
	unsigned nr_done = 0;

	flush(reader);
	for (; reader->nr_refused && nr_done < done_max; reader->nr_pending--) {
		done[nr_done] = reader->refused[--reader->nr_refused];
		finish(file_of(reader), done[nr_done++], reader->refusal);
	}
	while (nr_done < done_max) {
		struct io_uring_cqe *cqe = next_cqe(reader);

		/* Completions of neutralised entries carry NULL and end no wait. */
		if (!cqe && nr_done == 0 && wait_ms != 0 && reader->nr_pending > 0) {
			cqe = wait_cqe(reader, wait_ms);
			if (cqe && io_uring_cqe_get_data(cqe) && wait_ms > 0)
				wait_ms = 0;
		}
		if (!cqe)
			break;
		struct ts_get *request = io_uring_cqe_get_data(cqe);
		int result = cqe->res;
		io_uring_cqe_seen(&reader->ring, cqe);
		if (!request)
			continue;
		if (TS_INJECT(TS_SITE_URING_RESULT))
			result = -errno;
		if (complete(reader, request, result))
			done[nr_done++] = request;
	}
	return (int)nr_done;
}
