/* SPDX-License-Identifier: Apache-2.0
 *
 * file.h — the inside of the store "file", shared by file*.c and by nobody else.
 *
 * A put packs frames into blocks of 4 KiB, writes them to the end of an open segment, waits, and
 * then publishes their places in the index; nothing on disk is ever changed in place while the
 * store is open.  A segment whose records are all dead is free; garbage collection makes segments
 * empty by moving the live rest.  A get takes no lock: it reads the index, pins the segment, looks
 * at the index again, and a pinned segment is neither reused nor discarded.
 *
 * Locks, in the order in which they may be taken:
 *   pool_lock   the idle writers; not held across I/O
 *   gc_lock     one collection at a time; held across I/O
 *   lock        index changes, segment states, totals; microseconds, never across I/O
 */
#ifndef TS_STORE_FILE_H
#define TS_STORE_FILE_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <tierstore/store.h>

#include "os/mapfile.h"
#include "store/file_format.h"
#include "util/base.h"
#include "util/limits.h"

enum {
	/* One write: 512 KiB is where a sequential O_DIRECT write stops gaining. */
	TS_FILE_CHUNK_BLOCKS = 128,
	TS_FILE_CHUNK_BYTES = TS_FILE_CHUNK_BLOCKS * TS_FILE_BLOCK_BYTES,
	TS_FILE_WRITE_DEPTH = 4,    /* writes that one put() has in flight */
	TS_FILE_WRITER_MAX = 4,     /* put() calls that write at one time */
	TS_FILE_SEGMENTS_PER_WRITER = 16, /* small stores get fewer: each holds a segment open */
	TS_FILE_SEGMENTS_MIN = 4,
	TS_FILE_GC_RESERVE = 2,     /* segments that only garbage collection may take */
	TS_FILE_GC_SCAN_MAX = 65536,/* segments looked at for one victim */
	TS_FILE_DISCARD_MAX = 64,   /* segments given back in one step */
	TS_FILE_RETRY_MAX = 16,     /* resubmissions of one short or interrupted transfer */
	TS_FILE_GROUP_KEYS = 4096,  /* keys whose index memory is counted together */
	TS_FILE_GROUP_BYTES = TS_FILE_GROUP_KEYS * (4 + 2),
};
#define TS_FILE_NONE UINT32_MAX

static_assert(TS_FRAME_BYTES_MAX + TS_FILE_HEAD_BYTES + TS_FILE_BLOCK_BYTES <= TS_FILE_CHUNK_BYTES,
	      "any frame fits into one write");
static_assert((TS_FRAME_BYTES_MAX + 2 * TS_FILE_HEAD_BYTES) / TS_FILE_UNIT_BYTES_MIN <= UINT16_MAX,
	      "the index counts units in 16 bits");

enum ts_file_state {
	TS_FILE_FREE = 0,       /* on a free list, or never used */
	TS_FILE_OPEN = 1,       /* a writer appends to it */
	TS_FILE_SEALED = 2,
};

struct ts_file_segment {
	_Atomic uint32_t sequence;
	_Atomic uint32_t nr_pins;   /* reads in flight */
	uint32_t live_units;
	uint32_t gain_units;        /* what moving the live records away would win */
	uint32_t next;              /* in a free list */
	uint16_t nr_blocks;         /* written, or reserved for writing */
	uint16_t nr_writing;        /* writes whose records are not yet in the index */
	uint8_t state;              /* enum ts_file_state */
	uint8_t is_stuck;           /* has live records that can't be read: no victim */
};

/* One write in flight. */
struct ts_file_chunk {
	uint8_t *buffer;
	uint32_t segment, first_block, nr_blocks;
	uint32_t done_bytes;
	uint32_t nr_retries;
	uint32_t round;             /* index into ts_file_writer.rounds */
	bool is_inflight;
};

/* What became of one chunk of a batch; the chunk itself is used again before the batch ends. */
struct ts_file_round {
	uint32_t segment, nr_blocks;
	int32_t status;
};

/* Where an item of a batch went. */
struct ts_file_spot {
	uint32_t place;             /* in units from the start of the file */
	uint16_t nr_units;
	uint16_t round;             /* index into ts_file_writer.rounds */
};

/* What one put() needs; at most one thread uses it at a time. */
struct ts_file_writer {
	struct io_uring ring;
	bool has_ring, has_buffers, has_file;
	bool is_busy;
	bool may_use_reserve;       /* the collector's */
	uint8_t *memory;            /* TS_FILE_WRITE_DEPTH chunks */
	uint32_t segment;           /* open, or TS_FILE_NONE */
	uint32_t next_block;
	uint32_t pad_units;         /* left in the last block of the last pack */
	struct ts_file_chunk chunks[TS_FILE_WRITE_DEPTH];
	unsigned nr_inflight;
	/* scratch for one batch; batch_max entries each */
	uint16_t *order;            /* unplaced items, longest first */
	struct ts_file_spot *spots;
	struct ts_file_round *rounds;
	unsigned nr_rounds;
};

struct ts_file {
	struct ts_store base;
	/* constant after open */
	char *path;
	int fd;
	bool is_device, is_direct, is_kept, is_created, is_locked;
	uint32_t depth;
	uint32_t unit_bytes, unit_shift;
	uint32_t segment_units, nr_segments;
	uint64_t capacity_bytes, key_max;
	uint32_t frame_max_bytes, batch_max, reader_depth;
	struct ts_file_super super;
	/* index: written under lock, read without */
	_Atomic uint32_t *places;   /* in units from the start of the file */
	_Atomic uint16_t *sizes;    /* in units, head included; 0: no frame */
	size_t index_map_bytes, segment_map_bytes;
	struct ts_mapfile state;    /* where both and the segments lie, if they are to outlive us */
	_Atomic uint8_t *reserved;  /* state: a group of keys has room in it */
	bool is_resumed;
	uint32_t held_flags;        /* of a superblock, in this boot */
	_Atomic uint32_t replacing; /* odd while a place and a size belong to different frames */

	pthread_mutex_t lock;
	struct ts_file_segment *segments; /* pins and sequence also without lock */
	uint64_t *touched;          /* a bit a group of keys */
	uint64_t nr_groups_touched;
	uint32_t nr_fresh;          /* segments from here on were never used */
	uint32_t clean_first, dirty_first; /* free: discarded; with old data in them */
	uint32_t nr_free, nr_dirty, nr_used;
	uint32_t sequence_next;
	uint32_t gc_cursor;
	uint64_t used_gain_units;   /* of all segments in use */
	uint64_t nr_frames, live_units;
	uint64_t written_bytes, moved_bytes, discarded_bytes;
	bool can_discard;
	_Atomic uint64_t device_bytes, nr_errors, memory_bytes;

	pthread_mutex_t pool_lock;
	pthread_cond_t pool_changed;
	struct ts_file_writer *writers[TS_FILE_WRITER_MAX];
	unsigned nr_writers, nr_writers_max;

	pthread_mutex_t gc_lock;
	struct ts_file_writer *gc_writer;
	uint8_t *gc_buffer;         /* one segment */
	struct ts_put *gc_items;
	uint32_t *gc_places;
};

static inline uint64_t ts_file_offset(const struct ts_file *file, uint32_t place)
{
	return (uint64_t)place << file->unit_shift;
}

static inline uint32_t ts_file_segment_of(const struct ts_file *file, uint32_t place)
{
	return (uint32_t)(ts_file_offset(file, place) / TS_FILE_SEGMENT_BYTES);
}

/* Units that a frame takes, head included. */
static inline uint32_t ts_file_units(const struct ts_file *file, uint32_t len_bytes)
{
	return (len_bytes + TS_FILE_HEAD_BYTES + file->unit_bytes - 1) >> file->unit_shift;
}

extern const struct ts_store_ops ts_store_file_ops;

/* ---- file_open.c: path, superblock, options ---------------------------------------------- */
int ts_file_open(const struct ts_store_config *config, struct ts_store **store_out);
void ts_file_close(struct ts_store *store);
int ts_file_super_write(struct ts_file *file, uint32_t flags);

/* ---- file_medium.c: what is behind a path, and blocking transfers of whole blocks -------- */
struct ts_file_options {
	bool is_kept, is_init;
	int direct;                 /* 1 on, 0 off, -1 auto */
	uint32_t depth;
};
int ts_file_options_parse(const char *text, struct ts_file_options *options_out);
int ts_file_medium_open(struct ts_file *file, const struct ts_store_config *config,
			const struct ts_file_options *options);
/* What was written is on the medium. */
int ts_file_sync(struct ts_file *file);
int ts_file_transfer(struct ts_file *file, bool is_write, void *buf, size_t len_bytes,
		     uint64_t offset);
/* Gives a range back to the medium; 0, or -errno. */
int ts_file_discard(struct ts_file *file, uint64_t offset, uint64_t len_bytes);

/* ---- file_segment.c: free lists, index, live counts.  Caller holds lock ------------------ */
int ts_file_segment_take(struct ts_file *file, bool may_use_reserve, uint32_t *segment_out);
void ts_file_segment_seal(struct ts_file *file, uint32_t segment);
void ts_file_segment_gain(struct ts_file *file, uint32_t segment, uint32_t nr_units);
/* Brackets a write: until its records are in the index the segment is not given up. */
void ts_file_segment_write_begin(struct ts_file *file, uint32_t segment, uint32_t nr_blocks);
void ts_file_segment_write_end(struct ts_file *file, uint32_t segment);
void ts_file_index_set(struct ts_file *file, uint64_t key, uint32_t place, uint16_t nr_units);
/* Moves a key from one place to another of the same length; false if it is elsewhere. */
bool ts_file_index_move(struct ts_file *file, uint64_t key, uint32_t from, uint32_t to,
			uint16_t nr_units);
void ts_file_index_drop(struct ts_file *file, uint64_t key);
/* For a store that is resumed: counts a frame that is in the index already. */
void ts_file_index_count(struct ts_file *file, uint64_t key, uint32_t place, uint16_t nr_units);
/* The same, after all frames: the segment is in use, or free. */
void ts_file_segment_resume(struct ts_file *file, uint32_t segment);
/* For a store that is loaded: segment holds current records. */
void ts_file_segment_adopt(struct ts_file *file, uint32_t segment, uint32_t sequence);
/* No lock needed.  False: no such frame.  Else the segment is pinned. */
bool ts_file_index_pin(struct ts_file *file, uint64_t key, uint32_t *place_out,
		       uint16_t *nr_units_out);
void ts_file_unpin(struct ts_file *file, uint32_t segment);

/* ---- file_pack.c: which frame goes where ------------------------------------------------- */
/* Places as many of the unplaced items (writer->order[0 .. *nr_left)) as fit into room_blocks,
 * copies them to chunk->buffer, and takes them off the list.  Returns the blocks used. */
uint32_t ts_file_pack(struct ts_file *file, struct ts_file_writer *writer,
		      struct ts_file_chunk *chunk, const struct ts_put *items, unsigned *nr_left,
		      uint32_t room_blocks);
void ts_file_pack_order(struct ts_file_writer *writer, const struct ts_put *items,
			unsigned nr_items, unsigned *nr_left_out);

/* ---- file_write.c ------------------------------------------------------------------------- */
int ts_file_writer_create(struct ts_file *file, struct ts_file_writer **writer_out);
void ts_file_writer_destroy(struct ts_file *file, struct ts_file_writer *writer);
/* from: for a collection, the place each item is moved from; NULL for a put. */
int ts_file_write_batch(struct ts_file *file, struct ts_file_writer *writer, struct ts_put *items,
			const uint32_t *from, unsigned nr_items);
int ts_file_put(struct ts_store *store, struct ts_put *items, unsigned nr_items);

/* ---- file_ring.c -------------------------------------------------------------------------- */
/* A ring with the store's descriptor and one stretch of memory registered where the kernel
 * allows (the flags say).  Failure sets a text with the remedy. */
int ts_file_ring_open(struct ts_file *file, unsigned nr_entries, struct io_uring *ring_out,
		      bool *has_file_out);
bool ts_file_ring_register(struct io_uring *ring, void *base, size_t len_bytes);
/* Room for a request, or NULL. */
struct io_uring_sqe *ts_file_ring_sqe(struct io_uring *ring);
/* Hands the request over; a negative error means that it will not complete. */
int ts_file_ring_submit(struct io_uring *ring, struct io_uring_sqe *sqe);
/* Hands over all that is in the ring; after an error io_uring_sq_ready() of them are left in it. */
int ts_file_ring_send(struct io_uring *ring);

/* ---- file_read.c -------------------------------------------------------------------------- */
int ts_file_reader_open(struct ts_store *store, struct ts_reader **reader_out);
int ts_file_reader_arena(struct ts_reader *reader, void *base, size_t len_bytes);
void ts_file_reader_close(struct ts_reader *reader);
int ts_file_get(struct ts_reader *reader, struct ts_get *request);
int ts_file_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max, int wait_ms);
int ts_file_reader_fd(struct ts_reader *reader);
void ts_file_reader_around(struct ts_reader *reader, uint32_t len_bytes);
int ts_file_mates(struct ts_reader *reader, const struct ts_get *request,
		  struct ts_store_mate *mates, unsigned mates_max);

/* ---- file_gc.c ---------------------------------------------------------------------------- */
/* Empties the segment that wins most, if that is at least gain_min_units.  1: did; 0: nothing
 * to win; negative: failed. */
int ts_file_gc_step(struct ts_file *file, uint32_t gain_min_units);
int ts_file_maintain(struct ts_store *store);

/* ---- file_walk.c: reading segments as a stranger would, for keep=1 and for collections ---- */
/* Finds the next record of a segment image at or after *at_bytes (relative to the segment).
 * False at the end.  *at_bytes then is behind the record. */
bool ts_file_walk(const struct ts_file *file, const uint8_t *image, uint32_t len_bytes,
		  uint32_t sequence, uint32_t *at_bytes, struct ts_file_head *head_out,
		  uint32_t *head_at_out);
int ts_file_load(struct ts_file *file);
int ts_file_keep(struct ts_file *file);

/* ---- file_state.c: the index in a shared map, for a store that outlives its process ------- */
int ts_file_state_open(struct ts_file *file, const struct ts_store_config *config);
void ts_file_state_close(struct ts_file *file);
/* The store has got its superblock: from now on the map is that store's. */
void ts_file_state_bind(struct ts_file *file);
bool ts_file_state_is_of(const struct ts_file *file, const struct ts_file_super *super);
/* Before a put: makes sure of room in the map for this key. */
int ts_file_state_reserve(struct ts_file *file, uint64_t key);
/* Calls fn for every key that may be there. */
int ts_file_state_each(struct ts_file *file, int (*fn)(struct ts_file *file, uint64_t key));
int ts_file_resume(struct ts_file *file);

#endif
