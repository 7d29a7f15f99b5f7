/* SPDX-License-Identifier: Apache-2.0
 *
 * store.h — what the author of a store needs to know.  (A VMM wants tierstore.h.)
 *
 * A store keeps frames: opaque strings of bytes under integer keys.  It knows nothing of
 * guests, pages or compression.  The engine owns the keys: they are small dense integers,
 * reused after a delete has returned.  A tier is one configured, opened store.
 *
 * Caveats first
 *  - What you acknowledge you must be able to give back.  put() with status 0 is a promise:
 *    the engine drops the guest's page on the strength of it.
 *  - Never answer a get() with other bytes than were put.  If in doubt: TS_ECORRUPT.
 *  - get() runs between a guest's fault and its answer.  It must not allocate, log, or take a
 *    lock that is held across I/O.  A store that can't promise that sets
 *    TS_STORE_BLOCKING_GET, and the engine gives it a thread of its own.
 *  - Durability across a host crash is not asked for (the guest is gone then, too); but what a
 *    crash left behind must be recognised and reclaimed at the next open, and a file that is
 *    not ours must never be overwritten (TS_EWRONGFILE).
 *  - Whoever wants the frames to outlive the process (guests of other processes do) says so with
 *    config.state_path; a store that can do it sets TS_STORE_CAN_RESUME, the others are refused.
 *
 * Life of a store, and the threads that call it
 *
 *     open ──> reader_open (one for each fault thread, the keeper, tools)
 *      │            │
 *      │            ├── get ──(0)──> done         one thread a reader
 *      │            │     └──(1)──> reap          same thread as its get
 *      │            └── reader_close              no get of this reader is pending
 *      ├── put / del / maintain / stat            any thread but a fault thread, concurrently
 *     close                                       after all readers are closed
 *
 * Every function returns 0 (or a count) on success, negative on failure: -errno or TS_E*.
 * A failure never leaves half a frame visible: a get sees the old bytes, the new, or
 * TS_ENOTFOUND, and after a failed put of a new key TS_ENOTFOUND.
 */
#ifndef TIERSTORE_STORE_H
#define TIERSTORE_STORE_H

#ifndef TS_CDEF
#include <stddef.h>
#include <stdint.h>
#include <tierstore/tierstore.h>
#ifdef __cplusplus
extern "C" {
#endif
#endif

/* The base of every store.  An implementation embeds it as its first member; open() sets
 * .ops and the rest belongs to the implementation. */
struct ts_store {
	const struct ts_store_ops *ops;
};

/* The base of every reader, embedded likewise; reader_open() sets .store. */
struct ts_reader {
	struct ts_store *store;
};

/* What open() is given.  Pointers are borrowed for the call; copy what you keep. */
struct ts_store_config {
	size_t size;          /* of this struct, as the caller knows it */
	const char *name;     /* the tier's name, for messages */
	const char *path;     /* file, folder or device; NULL if the configuration has none */
	uint64_t size_bytes;  /* capacity: all bytes that the store may use, metadata included */
	uint32_t frame_max_bytes; /* no put is longer than this */
	uint64_t key_max;     /* no key is larger than this */
	uint32_t batch_max;   /* no put() or del() has more items than this */
	uint32_t reader_max;  /* no more readers than this at one time */
	uint32_t depth_max;   /* no reader has more gets in flight than this */
	const char *options;  /* "key=value,key=value": what is special to this store, or "" */
	void *user;           /* ts_tier_options.store_user */
	/* Not NULL: what put() has acknowledged outlives the process, however it ends (not the
	 * host), and close() leaves everything in place.  The store may add files of its own whose
	 * names begin with this path, in a folder that is private.  TS_STORE_CAN_RESUME only. */
	const char *state_path;
	uint8_t is_resume;    /* with state_path: take over what is there, all of it; TS_ESTATE if
			       * it is not there.  0: start empty; what another state_path has
			       * left is refused (TS_EWRONGFILE) */
};

/* One frame to store. */
struct ts_put {
	uint64_t key;
	const void *data;     /* borrowed until put() returns */
	uint32_t len_bytes;
	int32_t status;       /* out: 0, or why this item was not stored */
};

/* One frame to fetch.  The caller owns the struct and the buffer, and leaves both in place
 * until the request has completed.  buf is page-aligned, cap_bytes a multiple of 4096 with
 * room for frame_max_bytes plus two blocks, so that a store may read whole blocks into it:
 * the frame then starts at buf + off_bytes. */
struct ts_get {
	uint64_t key;
	void *buf;
	uint32_t cap_bytes;
	uint32_t off_bytes;   /* out: where in buf the frame starts */
	uint32_t len_bytes;   /* out: its length */
	int32_t status;       /* out: 0, TS_ENOTFOUND, TS_ECORRUPT, -EIO ... */
	void *user;           /* the caller's; untouched */
	uint64_t store_priv[4]; /* the store's, while the request is pending */
};

/* A frame that the read for another one has brought along. */
struct ts_store_mate {
	uint64_t key;
	uint32_t off_bytes;   /* in the buffer of the request */
	uint32_t len_bytes;
};

/* How full, how busy, how well.  All byte counts are current values, not totals, unless they
 * say so.  size_bytes is set by the caller. */
struct ts_store_stat {
	size_t size;
	uint64_t capacity_bytes;
	uint64_t nr_frames;
	uint64_t frame_bytes;    /* the frames' own bytes */
	uint64_t used_bytes;     /* all that they cost, metadata, padding and holes included */
	uint64_t memory_bytes;   /* of used_bytes or besides them: the RAM this store occupies */
	uint64_t index_bytes;    /* RAM for the map from key to place alone */
	uint64_t written_bytes;  /* total written by put, before amplification */
	uint64_t device_bytes;   /* total written to the medium: / written_bytes = amplification */
	uint64_t moved_bytes;    /* total moved by compaction or garbage collection */
	uint64_t discarded_bytes;/* total given back to the medium or the host */
	uint64_t nr_errors;      /* total of failed puts and gets, but TS_ENOTFOUND and TS_EFULL */
};

enum {
	TS_STORE_BLOCKING_GET = 1,  /* get() may block: call it from a thread of its own */
	TS_STORE_PERSISTENT = 2,    /* what was put outlives close() */
	TS_STORE_CAN_RESUME = 4,    /* config.state_path is understood, and there is list() */
};

/* Told of a key; negative stops the listing. */
typedef int (*ts_key_fn)(void *user, uint64_t key);

/* A store's functions.  `size` first, then what every store has, then what it may leave NULL.
 * New members are added at the end only. */
struct ts_store_ops {
	size_t size;
	const char *name;
	uint32_t flags;

	/* Required.  Control thread.  May block, may allocate.  On failure sets a text with
	 * ts_set_error() that names the path and the remedy, and leaves nothing behind. */
	int (*open)(const struct ts_store_config *config, struct ts_store **store_out);

	/* Required.  Control thread; NULL is accepted.  Frees all; never fails visibly. */
	void (*close)(struct ts_store *store);

	/* Required.  Any thread but a fault thread, concurrently.  May block.  Stores every item
	 * it can and gives each its status; TS_EFULL: no room (the caller looks further down
	 * the ladder).  Replaces what the key held, atomically.  Returns 0 when every item has
	 * a status of its own; negative when nothing was stored. */
	int (*put)(struct ts_store *store, struct ts_put *items, unsigned nr_items);

	/* Required.  Any thread but a fault thread.  Idempotent: an unknown key is no error. */
	int (*del)(struct ts_store *store, const uint64_t *keys, unsigned nr_keys);

	/* Required.  Control thread.  Allocates all that get() and reap() will need. */
	int (*reader_open)(struct ts_store *store, struct ts_reader **reader_out);
	void (*reader_close)(struct ts_reader *reader);

	/* Required.  The reader's own thread.  Returns 0 when the request has completed, with
	 * request->status set (also for failures); 1 when reap() will report it. */
	int (*get)(struct ts_reader *reader, struct ts_get *request);

	/* Required if get() ever returns 1.  The reader's own thread.  Fills done[] with up to
	 * done_max completed requests and returns how many.  Waits up to wait_ms for the first
	 * one (0: not at all, -1: without limit).  Never forgets a request: one that failed is
	 * reported with its status. */
	int (*reap)(struct ts_reader *reader, struct ts_get **done, unsigned done_max, int wait_ms);

	/* Optional.  Control thread, once, right after reader_open().  Every buffer of this
	 * reader's gets will lie in [base, base + len_bytes), page-aligned, which stays mapped
	 * until reader_close(): a store may register it with the kernel. */
	int (*reader_arena)(struct ts_reader *reader, void *base, size_t len_bytes);

	/* Optional (NULL: always completes at once).  A descriptor that polls readable while
	 * reap() has something to report; valid until reader_close(). */
	int (*reader_fd)(struct ts_reader *reader);

	/* Optional.  Keeper thread.  One bounded step (about 1 MiB of moving) of compaction,
	 * garbage collection or discarding.  Returns 1 when there is more to do now, 0 when
	 * there is not. */
	int (*maintain)(struct ts_store *store);

	/* Required.  Any thread but a fault thread; cheap enough to be called every second. */
	int (*stat)(struct ts_store *store, struct ts_store_stat *stat);

	/* Required with TS_STORE_CAN_RESUME.  Control thread, while nothing else calls the store.
	 * Calls fn for every key that is held, in any order; fn does not call the store. */
	int (*list)(struct ts_store *store, ts_key_fn fn, void *user);

	/* Optional.  The reader's own thread, for a request that reap() has reported with status 0
	 * and whose buffer is as it was then.  Names up to mates_max other frames that the same
	 * read has brought into the buffer, and returns how many.  Each is what a get() of its key
	 * would have given at some moment of this call, but for one that was being put while it
	 * was read, which may be torn: the caller knows a frame's checksum.  Neither blocks nor
	 * allocates. */
	int (*mates)(struct ts_reader *reader, const struct ts_get *request,
		     struct ts_store_mate *mates, unsigned mates_max);

	/* Optional, with mates.  The reader's own thread.  The gets that follow may read an aligned
	 * stretch of so many bytes (a power of two of 4096 or more) around their frame, for the
	 * sake of its mates, where that has room in their buffers.  0, as it is to begin with: no
	 * more than they must. */
	void (*reader_around)(struct ts_reader *reader, uint32_t len_bytes);

	/* Optional.  The reader's own thread.  The next get is likely to be of this key: what the
	 * store keeps of it in RAM may be brought nearer to the CPU.  Waits for nothing. */
	void (*reader_expect)(struct ts_reader *reader, uint64_t key);
};

/* Built-in stores by name ("ram", "file", "lmdb"), or NULL.  The result is static. */
TS_API const struct ts_store_ops *ts_store_find(const char *name);

/* The forwarder.  Nothing but these functions calls a store's ops: they check what store.h
 * promises (bounds, states, that a failure is a negative code), on every store alike.
 *
 * ts_store_open() also stacks wrappers: `wrap` is "" or a list such as "verify,stats" or
 * "delay:get=5ms,fault:put=0.01,seed=7", outermost first.  ops == NULL looks `kind` up among the
 * built-in stores. */
TS_API int ts_store_open(const char *kind, const struct ts_store_ops *ops, const char *wrap,
			 const struct ts_store_config *config, struct ts_store **store_out);
TS_API void ts_store_close(struct ts_store *store);
TS_API int ts_store_put(struct ts_store *store, struct ts_put *items, unsigned nr_items);
TS_API int ts_store_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys);
TS_API int ts_store_reader_open(struct ts_store *store, struct ts_reader **reader_out);
TS_API int ts_store_reader_arena(struct ts_reader *reader, void *base, size_t len_bytes);
TS_API void ts_store_reader_close(struct ts_reader *reader);
TS_API int ts_store_get(struct ts_reader *reader, struct ts_get *request);
TS_API int ts_store_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max,
			 int wait_ms);
/* TS_EUNSUPPORTED: every get of this reader completes at once. */
TS_API int ts_store_reader_fd(struct ts_reader *reader);
TS_API int ts_store_maintain(struct ts_store *store);
TS_API int ts_store_stat_get(struct ts_store *store, struct ts_store_stat *stat);
/* TS_EUNSUPPORTED: this store can't. */
TS_API int ts_store_list(struct ts_store *store, ts_key_fn fn, void *user);

/* ---- Wrappers ---------------------------------------------------------------------------
 *
 * What `wrap` may name.  They are stores around stores, for any of them, and mostly for tests:
 *
 *   stats    counts and times every call
 *   delay    get=, put=, del= a duration ("20us", "5ms"): every such call takes this much longer.
 *            Delayed gets complete through reap(), so that they don't hold each other up.
 *   fault    get=, put=, del= a probability (0 .. 1) with which a frame's call fails; seed=N;
 *            nth=N: the Nth from now on, of those kinds whose probability is not 0, and no other;
 *            error= EIO (default), ENOSPC, full, notfound, or what a get alone can suffer: corrupt
 *            (one bit flipped), short (the last byte missing)
 *   verify   remembers a checksum of every put and holds every get to it: TS_ECORRUPT
 *   thread   n=: threads for a store whose get() blocks; without being named such a store gets one
 *
 * The functions find the outermost wrapper of the kind in the stack; TS_ENOTFOUND: there is none.
 * They may be called from any thread but a fault thread, at any time. */

/* What "stats" has counted since open.  size is set by the caller. */
struct ts_store_wrap_stat {
	size_t size;
	uint64_t nr_puts, put_bytes;     /* frames stored */
	uint64_t nr_put_failures;        /* frames not stored, for want of room or otherwise */
	uint64_t nr_gets, get_bytes;     /* frames given back */
	uint64_t nr_get_failures;
	uint64_t nr_dels, nr_del_failures; /* keys */
	struct ts_hist put_ns, get_ns, del_ns; /* calls; a get: from get() to its completion */
};
TS_API int ts_store_wrap_stats(struct ts_store *store, struct ts_store_wrap_stat *stat);

/* What "fault" does from now on; it means the same as the options above. */
struct ts_store_fault {
	size_t size;
	double get_share, put_share, del_share;
	uint64_t seed;                   /* 0: 1 */
	uint64_t nth;                    /* 0: by probability */
	int32_t error;                   /* what fails fails with this; 0: -EIO */
	uint8_t is_corrupt, is_short;    /* gets: instead of failing */
};
TS_API int ts_store_fault_set(struct ts_store *store, const struct ts_store_fault *fault);
/* How many calls it has failed or spoilt since open. */
TS_API int ts_store_fault_count(struct ts_store *store, uint64_t *nr_out);

#ifndef TS_CDEF
#ifdef __cplusplus
}
#endif
#endif
#endif
