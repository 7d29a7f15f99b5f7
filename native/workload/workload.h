/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.h — a guest that checks itself: native threads that read and write a region and
 * compare every page that they touch with what must be there.
 *
 * Part of the Python extension (the demo, the soak), not of libtierstore.  It knows nothing of the
 * engine: it sees memory, as a guest does, so what it finds is not coloured by what it tests.
 *
 * What a page holds is known twice.  A side table outside of the region has a hash, a version and
 * a lock a page (16 bytes), enough to check each touch whole; and the contents follow from the
 * source file, the seed and the version, so that the final comparison needs no hash at all.
 */
#ifndef TS_WORKLOAD_WORKLOAD_H
#define TS_WORKLOAD_WORKLOAD_H

#ifndef TS_CDEF
#include <stddef.h>
#include <stdint.h>
#include <tierstore/tierstore.h>
#endif

struct ts_workload;

struct ts_workload_options {
	size_t size;               /* sizeof this struct */
	void *addr;                /* the region: page-aligned, mapped read-write */
	uint64_t len_bytes;
	int32_t source_fd;         /* what fills it; stays open and unchanged until destroy */
	uint64_t source_bytes;     /* its length; the region repeats it if that is shorter */
	uint32_t nr_threads;
	uint32_t write_pct;        /* touches that also write */
	uint32_t zero_pct;         /* pages that start as zeros, in runs */
	uint32_t hot_pct;          /* the window that most touches fall into, of the region */
	uint32_t touches_per_s;    /* of all threads, in the window; 0: as fast as it goes */
	uint32_t cold_per_s;       /* touches anywhere in the region, besides those */
	uint32_t drift_per_s;      /* pages by which the window moves on */
	uint64_t seed;             /* of contents and pattern */
};

struct ts_workload_stats {
	size_t size;
	uint64_t nr_touches;       /* pages touched; each was checked as a whole */
	uint64_t nr_writes;
	uint64_t nr_mismatches;    /* touches that found other bytes than expected */
	uint64_t nr_lost;          /* touches that ended in SIGBUS: the page was poisoned */
	uint64_t nr_faults;        /* touches that waited for a fault, by the kernel's count */
	uint64_t first_bad_page;   /* UINT64_MAX: none */
	struct ts_hist fault;      /* how long those waited, as seen by the guest */
};

/* Allocates the side table.  Installs, once a process, a SIGBUS handler that lets a worker survive
 * a poisoned page and hands every other SIGBUS on.  Create before attaching the region. */
int ts_workload_create(const struct ts_workload_options *options, struct ts_workload **out);

/* Fills the region; before any thread runs.  Blocks for the time of reading the source. */
int ts_workload_fill(struct ts_workload *workload);

int ts_workload_start(struct ts_workload *workload);
/* Asks the threads to end and waits for them.  May be called again. */
void ts_workload_stop(struct ts_workload *workload);

/* Any time, any thread. */
int ts_workload_stats(struct ts_workload *workload, struct ts_workload_stats *stats);

/* Compares the pages [first, first + nr) byte by byte with what they must hold, while no worker
 * runs.  Returns how many differ or can't be read, or -errno. */
int64_t ts_workload_compare(struct ts_workload *workload, uint64_t first, uint64_t nr);

/* Stops and frees; the region stays.  NULL is accepted. */
void ts_workload_destroy(struct ts_workload *workload);

/* memcpy for Python: cffi calls it without the interpreter's lock, so that a fault on either side
 * can be served by a store that is itself written in Python.  Returns -EFAULT, with part of the
 * bytes copied, if a page of @src or @dst turned out to be poisoned. */
int ts_workload_copy(void *dst, const void *src, uint64_t len_bytes);

#endif
