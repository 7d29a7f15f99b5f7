/* SPDX-License-Identifier: Apache-2.0
 *
 * tierstore.h — what a VMM needs to know.  (The author of a store wants store.h, too.)
 *
 * tierstore moves the cold pages of running guest memory to a ladder of stores and serves them
 * back when the guest touches them.  An engine owns tiers and threads; regions of guest memory
 * are attached to it.  Three verbs do the work, called by hand or by a cycle: deactivate (ask
 * the kernel to notice touches from now on), scan (which pages were not touched since), evict
 * (move cold pages out).  Serving is automatic.
 *
 * Caveats first
 *  - While a region is attached its evicted pages exist in the tiers alone.  If the process dies,
 *    so does the guest, unless it is another process's and persistent (state_dir).  Detach before
 *    you close the engine; closing detaches what is left.
 *  - Memory that the library may touch is the region itself.  It must stay mapped with the same
 *    protection, and no other userfaultfd may be registered on it.
 *  - fork(): a region is excluded from children until it is detached (MADV_DONTFORK).  A child
 *    that touches guest memory gets SIGSEGV; threads, exec and posix_spawn are not affected.
 *  - Anonymous memory: madvise(MADV_DONTNEED, MADV_REMOVE), munmap and mremap of guest memory are
 *    seen and honoured, but must not be called from a signal handler that interrupts this library.
 *  - memfd memory: fallocate(PUNCH_HOLE) and MADV_REMOVE tell nobody.  A balloon must call
 *    ts_region_discard(), best before it, or evicted pages come back with their old contents
 *    instead of zeros.  Other mappings of the same memfd (vhost-user) are neither tracked nor
 *    guarded: a write through one of them to a page that is being evicted can be lost.
 *  - hugetlb memory (a memfd of 2 MiB pages, Linux 7.3.4) comes and goes by whole huge pages, which
 *    return to the host's pool.  If the pool is empty when one is needed, whoever touches it waits
 *    until there is one, and ts_region_detach() does, too; a page of one that can't be read back
 *    costs all 2 MiB.  Address, length, memfd_offset and what is discarded are multiples of 2 MiB.
 *  - Pinned pages (VFIO, RDMA) must not lie in a region, and nor must anything that this library is
 *    handed: structs, buffers, a store's memory.
 *  - Reads of guest memory by the kernel (a read(2) into it) wait for the fault like any access.
 *
 * Errors.  Functions return 0 or a count; or -errno, or a TS_E* code, all negative.  The calling
 * thread's ts_last_error() then names the call, the object and the remedy.
 *
 * Threads.  Every function may be called from any thread, but for one rule: nothing is called
 * with an object that another thread is closing or detaching.  "blocks" below means: may wait
 * for storage.  Besides its page's store a fault waits for two things at the most: a lock that is
 * held for one system call on guest memory (by ts_region_discard() for up to 16 MiB of pages), and
 * the list of regions in the moment in which one is attached or detached.
 *
 * Structs that go in or out start with `size`, which the caller sets to sizeof (as compiled).
 * New members come at the end; a zeroed member means its default.  A program that was compiled with
 * an older or a newer header than the library's works: nothing beyond its size is read or written,
 * and results that this library does not know are zero.  Symbols carry versions (TIERSTORE_0.1).
 */
#ifndef TIERSTORE_H
#define TIERSTORE_H

#ifndef TS_CDEF
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#define TS_API __attribute__((visibility("default")))
#else
#define TS_API
#endif
#endif

/* ---- Errors ----------------------------------------------------------------------------- */

enum {
	TS_EFULL = -10001,        /* the store or tier has no room */
	TS_ENOTFOUND = -10002,    /* no frame under this key */
	TS_ECORRUPT = -10003,     /* contents do not match their checksum or format */
	TS_EWRONGFILE = -10004,   /* the path holds something that is not ours */
	TS_ELOCKED = -10005,      /* another process uses the path */
	TS_EVERSION = -10006,     /* written by, or compiled for, another version */
	TS_EUNSUPPORTED = -10007, /* this kernel or build can't do that */
	TS_EOVERLAP = -10008,     /* overlaps an attached region */
	TS_EREGISTERED = -10009,  /* another userfaultfd is registered there */
	TS_EALIGN = -10010,       /* not aligned to the page size */
	TS_EBACKING = -10011,     /* memory of a kind that can't be served */
	TS_ECONFIG = -10012,      /* an option has a value that makes no sense */
	TS_EPERMISSION = -10013,  /* a privilege is missing */
	TS_ELIMIT = -10014,       /* one of the library's own bounds */
	TS_ESTATE = -10015,       /* not now: wrong order of calls */
	TS_EBUSY = -10016,        /* some pages could not be moved; the rest was (not in use) */
};

/* A static text for any negative result, TS_E* or -errno.  Never NULL. */
TS_API const char *ts_strerror(int error);

/* What went wrong in the last failed call of this thread, in words for a person: the call, the
 * object, the remedy.  Valid until the thread's next failing call.  "" if nothing failed. */
TS_API const char *ts_last_error(void);

/* For the authors of stores: sets ts_last_error() of this thread; returns @error. */
TS_API int ts_set_error(int error, const char *text);

/* "0.1.0". */
TS_API const char *ts_version(void);

/* ---- What this kernel offers ------------------------------------------------------------ */

struct ts_probe {
	size_t size;
	uint64_t uffd_features;      /* UFFDIO_API's answer; 0 if no userfaultfd can be had */
	int32_t uffd_error;          /* why not: 0, -EPERM, -ENOSYS ... */
	uint8_t uffd_dev;            /* opened through /dev/userfaultfd (else the system call) */
	uint8_t has_missing_shmem, has_wp, has_wp_shmem, has_wp_async, has_wp_unpopulated;
	uint8_t has_move, has_poison, has_sigbus, has_thread_id;
	uint8_t has_event_remove, has_event_unmap, has_event_remap;
	uint8_t has_minor_shmem;
	uint8_t has_pagemap_scan;    /* PAGEMAP_SCAN works on this process */
	uint8_t has_rwp;             /* RWP: API bit, registration and scan category all answered */
	uint8_t has_io_uring;
	int32_t io_uring_error;
	uint8_t has_thp_anon;        /* transparent huge pages can occur in anonymous memory */
	uint8_t has_thp_shmem;
	char kernel_release[65];
	uint8_t has_rwp_shmem;       /* RWP of memfd memory, with sync windows */
	uint8_t has_rwp_hugetlb;     /* the same of memfds of 2 MiB pages (hugetlbfs) */
};

/* Asks the kernel; nothing stays open.  Fills the whole struct even when little is there. */
TS_API int ts_probe(struct ts_probe *probe_out);

/* ---- Engine ----------------------------------------------------------------------------- */

struct ts_engine;
struct ts_region;
struct ts_store_ops;

/* A log line for a person; control threads only, never the fault path.  May be called with locks
 * of the engine held: it must not call this library. */
typedef void (*ts_log_fn)(void *user, int level, const char *text);

enum { TS_LOG_ERROR = 0, TS_LOG_WARNING = 1, TS_LOG_INFO = 2, TS_LOG_DEBUG = 3 };

/* Where the fault threads run. */
enum ts_placement {
	TS_PLACEMENT_AUTO = 0,  /* pinned to a CPU while the faults come from a thread that is
				 * pinned to it, else free; polls for at most 50 us before it
				 * sleeps, while faults come one soon after the other */
	TS_PLACEMENT_FIXED = 1, /* pinned to fault_cpus, in turn */
};

struct ts_engine_options {
	size_t size;
	uint32_t nr_fault_threads;   /* at most 16; 0: one for each CPU (fixed: of fault_cpus), at
				      * most 4 (16).  As many of them wait as have work. */
	uint32_t placement;          /* enum ts_placement */
	uint64_t fault_cpus;         /* bit mask for TS_PLACEMENT_FIXED */
	uint32_t spin_us;            /* an idle fault thread polls at least this long before it
				      * sleeps; at most 1000 */
	uint32_t nr_evict_threads;   /* at most 16; 0: one for each CPU, at most 4 */
	uint64_t staging_bytes;      /* address space for anonymous pages on their way out; at most
				      * 128 GiB; 0: 1 GiB */
	uint32_t get_timeout_ms;     /* reserved; must be 0 */
	ts_log_fn log;               /* NULL: silent */
	void *log_user;
	/* A folder of the engine's own: what persistent regions have evicted outlives this process
	 * however it ends, though not the host, and the next engine that is opened with this
	 * folder and the same tiers goes on from there.  Best on a tmpfs, such as below /run: 4
	 * bytes a page and 10 a frame.  All tiers must be able to (store.h: TS_STORE_CAN_RESUME;
	 * file and lmdb are, ram is not).  NULL: nothing outlives the process. */
	const char *state_dir;
};

/* Opens an engine without tiers, regions or running threads.  options == NULL: defaults. */
TS_API int ts_engine_open(const struct ts_engine_options *options, struct ts_engine **engine_out);

/* Detaches all regions (as ts_region_detach does; persistent ones of other processes are left as
 * they are, for the next engine of the same state_dir), stops all threads, closes all tiers.
 * Blocks.
 * If a page can't be brought back (its tier is unreadable), the page is poisoned, reported
 * through the log, and the close goes on.  NULL is accepted. */
TS_API void ts_engine_close(struct ts_engine *engine);

/* Starts the fault, evict and keeper threads.  After the tiers were added, before regions. */
TS_API int ts_engine_start(struct ts_engine *engine);

/* ---- Tiers ------------------------------------------------------------------------------ */

enum ts_codec { TS_CODEC_RAW = 0, TS_CODEC_LZ4 = 1, TS_CODEC_ZSTD = 2 };

struct ts_tier_options {
	size_t size;
	const char *name;           /* required; 1 to 31 characters, unique in the engine */
	const char *store;          /* "ram", "file", "lmdb"; or any text with store_ops */
	const struct ts_store_ops *store_ops; /* a store of your own (store.h), or NULL */
	void *store_user;           /* handed to its open() */
	const char *store_options;  /* "key=value,..." for the store */
	const char *wrap;           /* wrappers around the store (store.h), or NULL */
	const char *path;
	uint64_t size_bytes;        /* required */
	uint32_t codec;             /* enum ts_codec */
	int32_t level;              /* lz4: acceleration, 1 .. 64; zstd: -50 .. 19; 0: 1 and 3 */
	uint32_t range_bytes;       /* 4 KiB .. 256 KiB, a power of two; 0: 4 KiB */
	uint32_t demote_after_ms;   /* frames older than this move down; 0: by fill only */
	uint8_t demote_above_pct;   /* fuller than this: oldest frames move down; 0: 90 */
	uint8_t admit_ratio_pct;    /* takes from a guest only frames of at most this share of their
				     * raw size, the others go to the next tier (what comes down
				     * the ladder is taken as it is); 0: 100 (all) */
	uint8_t no_keep;            /* do not keep the copy of a page that was read back */
};

/* Opens a store and puts it at the end of the ladder.  Before ts_engine_start().  At most 8 tiers.
 * Returns the tier's number (>= 0) or an error. */
TS_API int ts_engine_add_tier(struct ts_engine *engine, const struct ts_tier_options *options);

/* Gives a zstd tier a dictionary (ZDICT format) for frames encoded from now on.  The library
 * keeps a copy, stores it in the tier for the offline tools, and stops using it by itself where it
 * gains nothing.  At most 128 KiB, and at most 16 of them in an engine's life.  Blocks.
 * Returns the dictionary's id (> 0). */
TS_API int ts_tier_set_dictionary(struct ts_engine *engine, unsigned tier, const void *data,
				  size_t len_bytes);

/* ---- Regions ---------------------------------------------------------------------------- */

enum ts_memory { TS_MEMORY_ANON = 0, TS_MEMORY_MEMFD = 1 };

enum ts_tracker {
	TS_TRACKER_AUTO = 0,
	TS_TRACKER_ZAP = 1, /* memfd: unmap, see what gets mapped again; sees reads and writes */
	TS_TRACKER_WP = 2, /* anon: sees writes only, so pages pass a probation before they leave */
	TS_TRACKER_RWP = 3,  /* Linux 7.3 or later: sees reads and writes */
};

enum ts_serve {
	TS_SERVE_MESSAGE = 0,  /* fault threads answer; right for KVM, system calls, everything */
	TS_SERVE_IN_THREAD = 1,/* the faulting thread answers itself, in a SIGBUS handler that this
				* library installs.  Only for memory that nothing but user-mode code
				* touches: a system call on an evicted page fails with EFAULT, and
				* so does KVM_RUN.  The handler must stay installed, and no thread
				* that touches the region may block SIGBUS.  Anonymous memory
				* only, and some fifteen such regions an engine. */
};

enum ts_restore {
	TS_RESTORE_AUTO = 0,  /* the rest of a frame comes back, too, when one of the last few
			       * faults was nearby, or most that were not were the beginning of
			       * a walk; and pages from the same blocks of a disk,
			       * while such pages are soon asked for */
	TS_RESTORE_PAGE = 1,  /* the faulting page alone */
	TS_RESTORE_RANGE = 2, /* always the whole frame */
};

struct ts_region_options {
	size_t size;
	const char *name;          /* for messages; NULL: "region<N>" */
	void *addr;                /* required; page-aligned */
	uint64_t len_bytes;        /* required; a multiple of the page size; less than 512 GiB */
	int32_t memfd;             /* TS_MEMORY_MEMFD: the descriptor (duplicated); else ignored */
	uint32_t memory;           /* enum ts_memory */
	uint64_t memfd_offset;     /* of addr in the memfd */
	uint32_t tracker;          /* enum ts_tracker */
	uint32_t serve;            /* enum ts_serve */
	uint32_t restore;          /* enum ts_restore */
	uint32_t nr_shards;        /* userfaultfds that the region is spread over; 0: chosen */
	uint32_t probation_ms;     /* wp tracker; 0: 1000 */
	uint32_t guard_scans;      /* a page that came back is left alone for this many scans; at
				    * most 15; 0: 2 */
	uint8_t collapse;          /* ask for huge pages again once 2 MiB are all resident */
	uint8_t unused[7];         /* were padding, which a caller need not have zeroed */
	uint8_t is_persistent;     /* memfd, with ts_engine_options.state_dir: if this process dies,
				    * another one that has the memfd attaches it again under the
				    * same name, length and offset, and finds its evicted pages */
};

/* Attaches guest memory while the guest runs.  Its pages count as just touched.
 * Errors: TS_EALIGN, TS_EOVERLAP, TS_EREGISTERED, TS_EBACKING (file-backed, read-only, shared
 * without a memfd, hugetlb other than a memfd of 2 MiB pages, locked), TS_EUNSUPPORTED (this
 * kernel), TS_EPERMISSION. */
TS_API int ts_region_attach(struct ts_engine *engine, const struct ts_region_options *options,
			    struct ts_region **region_out);

/* Brings every page back and unregisters, while the guest runs on.  Blocks.  The region is gone
 * afterwards, also when this returns TS_ECORRUPT (some pages were poisoned). */
TS_API int ts_region_detach(struct ts_region *region);

/* ---- Memory of another process ------------------------------------------------------------
 *
 * A VMM may keep its guest memory to itself: it makes a userfaultfd, registers the memory, and
 * hands the descriptor over (and the memfd behind the memory, if there is one).  Such memory is
 * never touched through an address, only through the two descriptors.  One VM is one region: its
 * pages are numbered in the order of its ranges.  deactivate, scan, evict, prefetch, discard,
 * detach and the statistics work as for memory of our own; what the registration does not allow
 * says TS_EUNSUPPORTED, and ts_region_limits() says what the operator would change.
 *
 *   registered with              track    evict   serve
 *   MISSING                      -        -       yes
 *   MISSING, WP (synchronous)    writes   memfd   yes
 *   MISSING, WP, WP_ASYNC        writes   -       yes   (with pagemap_fd)
 *   MISSING, RWP, RWP_ASYNC      both     memfd   yes   (with pagemap_fd; Linux 7.3)
 *
 * A memfd under RWP needs UFFD_FEATURE_MINOR_SHMEM as well.  Under WP reads of guest memory are not
 * seen: a page that is only read is evicted, comes back by a fault, and is then left alone the
 * longer the more often this happens. */

/* How the VMM registered: a mask. */
enum {
	TS_MODE_MISSING = 1,
	TS_MODE_WP = 2,
	TS_MODE_WP_ASYNC = 4,
	TS_MODE_RWP = 8,
	TS_MODE_RWP_ASYNC = 16,
};

struct ts_remote_range {
	size_t size;
	uint64_t addr;             /* in the other process; page-aligned */
	uint64_t len_bytes;        /* a multiple of the page size */
	uint64_t backing_offset;   /* of addr in backing_fd (or in the image, if anonymous) */
	int32_t backing_fd;        /* the memfd (duplicated); -1: private anonymous memory */
};

struct ts_adopt_options {
	size_t size;
	const char *name;          /* for messages; NULL: "region<N>" */
	int32_t uffd;              /* the VMM's (duplicated); it is made non-blocking */
	int32_t pagemap_fd;        /* /proc/PID/pagemap of the VMM (duplicated); -1: none */
	uint32_t modes;            /* TS_MODE_* */
	uint32_t nr_ranges;        /* 1 .. 16; all with a memfd, or all without */
	const struct ts_remote_range *ranges;
	uint64_t len_max_bytes;    /* room for ts_region_add_range(); 0: none */
	uint32_t tracker;          /* enum ts_tracker; only auto */
	uint32_t restore;          /* enum ts_restore */
	uint32_t guard_scans;      /* as in ts_region_options */
	const char *image;         /* pages begin as those of this image; NULL: as they are */
	uint8_t is_persistent;     /* evicted pages outlive this process */
	uint8_t identity[32];      /* persistent: must match when this name is adopted again */
	uint32_t share_weight;     /* of its fair share of each tier, against other regions that
				    * have one; 0: it has none, and only the age of frames counts */
};

/* Takes over the faults of another process's memory, while its guest runs.  Pages that are there
 * count as just touched.  The VMM must have registered all ranges, with one userfaultfd, and must
 * answer no fault itself.
 * Errors: TS_ECONFIG (not a userfaultfd; ranges that make no sense), TS_EALIGN, TS_EOVERLAP,
 * TS_EREGISTERED (this userfaultfd is adopted already, or another has the range), TS_EBACKING (a
 * range is not registered with it; the descriptor is no memfd, or too small, or not what its
 * process maps there, which is looked up if there is a pagemap_fd), TS_ESTATE (the
 * process is gone), TS_ELIMIT, TS_EUNSUPPORTED. */
TS_API int ts_region_adopt(struct ts_engine *engine, const struct ts_adopt_options *options,
			   struct ts_region **region_out);

/* Memory was added to the VM (hot-plug) and registered with the same userfaultfd: its pages follow
 * the region's last one.  Faults there have waited until now. */
TS_API int ts_region_add_range(struct ts_region *region, const struct ts_remote_range *range);

enum { TS_CAN_SERVE = 1, TS_CAN_TRACK = 2, TS_CAN_EVICT = 4 };

/* What can be done with a region, TS_CAN_*: everything with those of ts_region_attach(). */
TS_API uint32_t ts_region_abilities(struct ts_region *region);
/* What can't, why, and what would have to change, for a person; "" if nothing.  Valid as long as
 * the region. */
TS_API const char *ts_region_limits(struct ts_region *region);

/* The other process is gone: frees what is stored of its memory and brings nothing back.  (A
 * process that is still there waits at its next missing page until somebody else serves it.)
 * ts_region_detach() is the way to leave a VM that lives: everything comes back, and the guest runs
 * on in plain RAM.  Blocks.  The region is gone afterwards.  TS_ECONFIG: not an adopted region. */
TS_API int ts_region_drop(struct ts_region *region);

/* ---- Images ------------------------------------------------------------------------------
 *
 * A VM that is restored from a snapshot begins with the memory that the snapshot has.  Imported,
 * the snapshot's memory lies in the tiers, compressed, once for all VMs that are restored from it;
 * a region that is adopted with .image finds its pages there, as they are touched.  With a
 * state_dir an image outlives the process. */

/* Called now and then, with how much of the file is done; returns nonzero to give up (-EINTR). */
typedef int (*ts_progress_fn)(void *user, uint64_t done_bytes, uint64_t len_bytes);

/* Reads a snapshot's memory file (page n of the image at n * 4096) and puts it into the tiers, the
 * lowest first.  After ts_engine_start().  Blocks.  TS_ESTATE: there is one of that name; TS_EFULL:
 * it does not fit, and nothing of it stays. */
TS_API int ts_image_import(struct ts_engine *engine, const char *name, int fd, uint64_t len_bytes,
			   ts_progress_fn progress, void *user);

struct ts_image_info {
	size_t size;
	char name[64];
	uint64_t len_bytes;
	uint64_t nr_stored, nr_filled;  /* pages in frames; of one value that is not zero */
	uint32_t nr_regions;            /* that began as this image, and are still there */
};
/* Fills up to nr_max infos (infos[0].size is set by the caller); returns how many images there
 * are. */
TS_API int ts_image_list(struct ts_engine *engine, struct ts_image_info *infos, unsigned nr_max);
/* TS_ENOTFOUND; TS_EBUSY: a region that began as this image is still there. */
TS_API int ts_image_remove(struct ts_engine *engine, const char *name);

/* The pages (numbers in the region) that faulted and were away, in the order of their first fault,
 * at most nr_max; returns how many.  Recorded for regions that began as an image, up to 4 million:
 * brought back in this order (ts_region_prefetch) the next VM of the image need not wait for
 * them. */
TS_API int64_t ts_region_working_set(struct ts_region *region, uint32_t *pages, uint64_t nr_max);

/* ---- What an earlier process has left ----------------------------------------------------
 *
 * Regions in the state folder that nobody has attached again. */
struct ts_orphan_info {
	size_t size;
	char name[64];
	uint64_t len_bytes, nr_away;
	uint8_t identity[32];
};
/* As ts_image_list(). */
TS_API int ts_orphan_list(struct ts_engine *engine, struct ts_orphan_info *infos, unsigned nr_max);
/* Its guest is gone: frees what is stored of it.  TS_ENOTFOUND.  A guest that is still there can't
 * be attached again. */
TS_API int ts_orphan_forget(struct ts_engine *engine, const char *name);

/* ---- The three verbs -------------------------------------------------------------------- */

/* From now on the kernel notices touches.  Pages touched since the last scan lose that memory. */
TS_API int ts_region_deactivate(struct ts_region *region);

/* Ages every resident page: one older if not touched since the last deactivate, else 0. */
struct ts_scan_result {
	size_t size;
	uint64_t nr_resident, nr_touched, nr_cold;
	uint64_t nr_by_age[64];    /* resident pages by age in scans; [63]: 63 or more */
	uint64_t nr_guarded;       /* came back not long ago; not counted in nr_by_age[1..] */
};
TS_API int ts_region_scan(struct ts_region *region, struct ts_scan_result *result);

struct ts_evict_options {
	size_t size;
	uint64_t bytes_max;        /* stop after this much; 0: nothing is evicted */
	uint32_t age_min;          /* in scans; 0 evicts touched pages as well */
	uint32_t no_probation; /* wp tracker: encode at once (tests, shutdown, restore points) */
};
struct ts_evict_result {
	size_t size;
	uint64_t nr_claimed;       /* pages that were taken */
	uint64_t nr_evicted;       /* of those: gone to a tier, or found to be filled */
	uint64_t nr_filled;        /* of those: stored nowhere */
	uint64_t nr_reused;        /* of those: their kept copy was still right */
	uint64_t nr_probation;     /* waiting; the evict threads store them when it is over */
	uint64_t nr_cancelled;     /* touched meanwhile */
	uint64_t nr_failed;        /* stayed in RAM: no room, or an error */
};
/* Takes the oldest pages first.  Blocks.  Several threads may call it. */
TS_API int ts_region_evict(struct ts_region *region, const struct ts_evict_options *options,
			   struct ts_evict_result *result);

/* Brings pages back ahead of need.  Blocks.  Returns 0, TS_ECORRUPT when pages were poisoned, or
 * -ENOMEM: no huge page is free (hugetlb). */
TS_API int ts_region_prefetch(struct ts_region *region, uint64_t offset_bytes, uint64_t len_bytes);

/* Takes the stored copies of up to len_bytes of the region's memory out of the tiers, to make room
 * for others': copies that are kept of resident pages first, all of them; then pages that are away
 * come back, going on where the last call ended.  What can't come back now stays away.  Blocks, a
 * little at a time.  Returns the bytes of memory whose copies went, or an error. */
TS_API int64_t ts_region_give_back(struct ts_region *region, uint64_t len_bytes);

/* Serves one page in the calling thread: returns when the page at offset_bytes is there, no
 * matter whether it was away, is on its way, or never left.  For a VMM that learns of missing pages
 * by other means than a fault message: KVM_EXIT_MEMORY_FAULT, or EFAULT from KVM_RUN and system
 * calls, as with TS_SERVE_IN_THREAD; then it enters the guest again.  Also right before an access
 * that must not wait.  An evictor may take the page again the moment it is back: try again.
 * Blocks.  Takes no lock that a fault waits for; any number of threads, of which four are served at
 * a time.  flags: 0, or TS_ACCESS_WRITE when the page is about to be written (no copy is kept).
 * Not from a signal handler.  Errors: TS_ECORRUPT (the page is lost and poisoned, or was unmapped),
 * TS_ECONFIG (beyond the region), TS_ESTATE (being detached), -ENOMEM or TS_ELIMIT (no reader). */
enum { TS_ACCESS_WRITE = 1 };
TS_API int ts_region_serve(struct ts_region *region, uint64_t offset_bytes, uint32_t flags);

/* The guest gave these pages up (balloon): forgets what is stored; evicted pages read as zeros from
 * then on.  Resident ones are the caller's to punch: after it, or before it if nothing touches or
 * prefetches them (or pages that are stored with them) in between, which brings back what is still
 * stored. */
TS_API int ts_region_discard(struct ts_region *region, uint64_t offset_bytes, uint64_t len_bytes);

/* The cycle for a host without Python: every interval_ms scan, evict down to the budget, and
 * deactivate, for each region, on a thread of the engine. */
struct ts_cycle_options {
	size_t size;
	uint32_t interval_ms;          /* 0: 30000 */
	uint32_t age_min;              /* 0: 2 */
	uint64_t budget_bytes;         /* resident bytes a region may keep; 0: budget_pct */
	uint32_t budget_pct;           /* of the region; 0: 25 */
	uint64_t evict_bytes_per_s;    /* 0: no limit */
	uint64_t refaults_per_s_max;   /* above this rate nothing more is evicted; 0: no limit */
};
TS_API int ts_cycle_start(struct ts_engine *engine, const struct ts_cycle_options *options);
TS_API int ts_cycle_stop(struct ts_engine *engine);

/* ---- Training --------------------------------------------------------------------------- */

/* Copies up to nr_max resident pages that are at least age_min scans old, spread over the region,
 * to buf (nr_max * 4096 bytes).  They stay where they are.  Returns the count.  Blocks. */
TS_API int64_t ts_region_sample(struct ts_region *region, uint32_t age_min, void *buf,
				uint64_t nr_max);

/* ---- Statistics ------------------------------------------------------------------------- */

enum { TS_TIER_MAX = 8, TS_HIST_BUCKETS = 512, TS_STATS_VERSION = 1 };

/* A histogram of nanoseconds: bucket i < 16 holds the value i; above, 16 buckets to each power of
 * two.  ts_hist_bucket_ns(i) is a bucket's lower bound. */
struct ts_hist {
	uint64_t count, sum_ns, max_ns;
	uint64_t buckets[TS_HIST_BUCKETS];
};
TS_API uint64_t ts_hist_bucket_ns(unsigned bucket);
/* The value below which `share` (0..1) of the samples lie, in ns; 0 without samples. */
TS_API uint64_t ts_hist_percentile_ns(const struct ts_hist *hist, double share);

enum ts_stage {
	TS_STAGE_FAULT = 0,   /* message read .. page installed and waiter woken */
	TS_STAGE_GET = 1,     /* store.get .. frame in memory */
	TS_STAGE_DECODE = 2,  /* decode and verify */
	TS_STAGE_INSTALL = 3, /* UFFDIO_COPY of the faulting page */
	TS_STAGE_REST = 4,    /* the rest of the frame */
	TS_STAGE_TAKE = 5,    /* a batch: pages out of the guest */
	TS_STAGE_ENCODE = 6,  /* a frame */
	TS_STAGE_PUT = 7,     /* a batch: store.put */
	TS_STAGE_RELEASE = 8, /* a batch: RAM given back */
	TS_STAGE_WINDOW = 9,  /* memfd: guard set .. guard cleared; rwp: a sync window */
	TS_STAGE_COUNT = 10,
};

enum ts_failure {
	TS_FAIL_PUT = 0,       /* a store refused a frame for another reason than room */
	TS_FAIL_FULL = 1,      /* pages that found no room in any tier */
	TS_FAIL_GET = 2,       /* a store could not give a frame back */
	TS_FAIL_CORRUPT = 3,   /* checksum or format */
	TS_FAIL_POISONED = 4,  /* pages poisoned because of either */
	TS_FAIL_TAKE = 5,      /* pages that could not be taken (pinned, shared, busy) */
	TS_FAIL_INSTALL = 6,   /* UFFDIO_COPY failed for good */
	TS_FAIL_RELEASE = 7,   /* RAM could not be given back */
	TS_FAIL_COUNT = 8,
};

struct ts_tier_stats {
	char name[32];
	char store[32];
	uint64_t capacity_bytes, used_bytes, memory_bytes, index_bytes;
	uint64_t nr_frames, nr_pages;     /* frames held; pages that are away in them */
	uint64_t raw_bytes,
		stored_bytes; /* of the frames held; stored without the store's overhead */
	uint64_t written_bytes, device_bytes, moved_bytes, discarded_bytes;
	uint64_t nr_faults;               /* faults served from here */
	uint64_t nr_admitted, nr_demoted_in, nr_demoted_out;
	uint64_t nr_errors;
	uint32_t codec;
	int32_t level;
	uint32_t range_bytes;
	uint32_t dict_id;                 /* in use; 0: none */
	uint8_t is_failed;                /* admits nothing, but for a try every 30 s; goes on
					   * serving what it holds */
	uint8_t is_full;
};

struct ts_stats {
	size_t size;
	uint32_t version;                 /* TS_STATS_VERSION */
	uint32_t nr_tiers, nr_regions, page_bytes;
	uint64_t uptime_ns;
	/* pages by state, all regions */
	uint64_t nr_resident, nr_leaving, nr_away, nr_coming, nr_zero, nr_filled, nr_gone, nr_kept;
	/* totals since start */
	uint64_t nr_faults, nr_faults_zero, nr_faults_staged, nr_faults_guard, nr_stale;
	uint64_t nr_refaults;             /* faults on frames less than a minute old */
	uint64_t nr_restored;             /* pages that came with a faulting neighbour */
	uint64_t nr_prefetched;
	uint64_t nr_evicted, nr_reused, nr_cancelled, nr_removed;
	uint64_t failures[TS_FAIL_COUNT];
	uint64_t engine_bytes;            /* RAM of page words, ages, kept hashes, frame table */
	uint64_t buffer_bytes;            /* RAM of fixed buffers, of readers and evict threads */
	struct ts_tier_stats tiers[TS_TIER_MAX];
	struct ts_hist stages[TS_STAGE_COUNT];
	/* By tier: what the region's frames take, or all regions', to a hundredth; without the
	 * store's overhead, and without images.  Of regions with a share_weight; else 0. */
	uint64_t held_bytes[TS_TIER_MAX];
};

/* A consistent-enough snapshot: each number is exact at some moment during the call.  Large
 * (over 40 KiB): not for a small stack.  region == NULL: the whole engine; else the pages by state
 * and the totals are the region's. */
TS_API int ts_stats_get(struct ts_engine *engine, struct ts_region *region, struct ts_stats *stats);

#ifndef TS_CDEF
#ifdef __cplusplus
}
#endif
#endif
#endif
