/* SPDX-License-Identifier: Apache-2.0
 *
 * staging.h — where anonymous pages wait on their way out: segments of 2 MiB that UFFDIO_MOVE moves
 * guest pages to.
 *
 * Address space only: the pages in it are the guest's own, moved.  The area has a userfaultfd of
 * its own, because MOVE wants a registered destination, with UFFD_FEATURE_SIGBUS, so that a read of
 * an empty slot by mistake fails instead of waiting for a fault thread that does not exist (while a
 * segment is lent nobody reads a slot that may be empty); and it
 * is excluded from children, since a page that a child shares can't be moved.
 */
#ifndef TS_MEMORY_STAGING_H
#define TS_MEMORY_STAGING_H

#include <pthread.h>
#include <stdint.h>

struct ts_staging {
	int uffd;
	uint8_t *base;
	uint32_t nr_segments;
	uint32_t nr_free;      /* guarded by lock */
	uint32_t *free_list;   /* guarded by lock */
	pthread_mutex_t lock;  /* Evictors; innermost. */
};

/* Without MOVE (kernels before 6.8) nr_segments is 0 and no anonymous region can be attached. */
int ts_staging_init(struct ts_staging *staging, uint64_t size_bytes);
void ts_staging_finish(struct ts_staging *staging);
/* A free segment's number, or TS_ELIMIT. */
int64_t ts_staging_acquire(struct ts_staging *staging);
/* For the time of moving pages to it the segment is registered with the userfaultfd of the memory
 * that they come from, on which MOVE is then issued: so it is refused, in one step with the move,
 * while that memory's mappings change.  0 or -errno. */
int ts_staging_lend(struct ts_staging *staging, uint32_t segment, int uffd);
void ts_staging_lend_end(struct ts_staging *staging, uint32_t segment, int uffd);
/* Empties the segment and takes it back. */
void ts_staging_release(struct ts_staging *staging, uint32_t segment);

static inline uint8_t *ts_staging_slot(const struct ts_staging *staging, uint32_t slot)
{
	return staging->base + ((uint64_t)slot << 12);
}

#endif
