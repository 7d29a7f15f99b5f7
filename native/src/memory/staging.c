/* SPDX-License-Identifier: Apache-2.0
 * staging.c — segments for anonymous pages on their way out (staging.h). */
#include "memory/staging.h"

#include "memory/pageset.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "util/base.h"

enum { SEGMENT_BYTES = TS_CHUNK_PAGES << 12 };

static int map_area(struct ts_staging *staging, uint64_t size_bytes)
{
	/* Segments aligned like the guest's chunks let a 2 MiB MOVE keep a huge page whole. */
	uint8_t *area = ts_sys_alloc_pages(size_bytes + SEGMENT_BYTES);
	if (!area)
		return ts_fail(-ENOMEM, "staging area: mmap of %llu bytes: %m",
			       (unsigned long long)size_bytes);
	uintptr_t base = ((uintptr_t)area + SEGMENT_BYTES - 1) & ~((uintptr_t)SEGMENT_BYTES - 1);
	if (base > (uintptr_t)area)
		ts_sys_free_pages(area, base - (uintptr_t)area);
	uintptr_t end = (uintptr_t)area + size_bytes + SEGMENT_BYTES;
	if (end > base + size_bytes)
		ts_sys_free_pages((void *)(base + size_bytes), end - base - size_bytes);
	staging->base = (uint8_t *)base;
	return ts_sys_madvise(staging->base, size_bytes, MADV_DONTFORK);
}

int ts_staging_init(struct ts_staging *staging, uint64_t size_bytes)
{
	size_bytes = (size_bytes + SEGMENT_BYTES - 1) / SEGMENT_BYTES * SEGMENT_BYTES;
	*staging = (struct ts_staging){ .uffd = -1 };
	pthread_mutex_init(&staging->lock, NULL);
	int rc = ts_uffd_open(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	if (rc == TS_EUNSUPPORTED)
		return 0;
	if (rc < 0)
		return rc;
	staging->uffd = rc;
	rc = map_area(staging, size_bytes);
	if (!rc)
		rc = ts_uffd_register(staging->uffd, (uintptr_t)staging->base, size_bytes,
				      UFFDIO_REGISTER_MODE_MISSING);
	staging->nr_segments = (uint32_t)(size_bytes / SEGMENT_BYTES);
	if (!rc)
		staging->free_list = malloc(staging->nr_segments * sizeof(uint32_t));
	if (!staging->free_list) {
		ts_staging_finish(staging);
		return rc ? ts_fail(rc, "staging area: %s", ts_strerror(rc)) : -ENOMEM;
	}
	while (staging->nr_free < staging->nr_segments) {
		staging->free_list[staging->nr_free] = staging->nr_segments - 1 - staging->nr_free;
		staging->nr_free++;
	}
	return 0;
}

void ts_staging_finish(struct ts_staging *staging)
{
	TS_ASSERT(!staging->free_list || staging->nr_free == staging->nr_segments);
	if (staging->uffd >= 0)
		close(staging->uffd);
	ts_sys_free_pages(staging->base, (size_t)staging->nr_segments * SEGMENT_BYTES);
	free(staging->free_list);
	pthread_mutex_destroy(&staging->lock);
	*staging = (struct ts_staging){ .uffd = -1 };
}

int64_t ts_staging_acquire(struct ts_staging *staging)
{
	TS_SCOPED_LOCK(&staging->lock);
	return staging->nr_free ? (int64_t)staging->free_list[--staging->nr_free] : TS_ELIMIT;
}

static uint64_t segment_addr(const struct ts_staging *staging, uint32_t segment)
{
	return (uintptr_t)staging->base + (uint64_t)segment * SEGMENT_BYTES;
}

int ts_staging_lend(struct ts_staging *staging, uint32_t segment, int uffd)
{
	uint64_t addr = segment_addr(staging, segment);
	int rc = ts_uffd_unregister(staging->uffd, addr, SEGMENT_BYTES);

	if (!rc)
		rc = ts_uffd_register(uffd, addr, SEGMENT_BYTES, UFFDIO_REGISTER_MODE_MISSING);
	if (rc)
		(void)ts_uffd_register(staging->uffd, addr, SEGMENT_BYTES,
				       UFFDIO_REGISTER_MODE_MISSING);
	return rc;
}

/* What fails twice is left as it is: a segment that stays with the guest's userfaultfd is emptied
 * with an event that concerns no page, and can't be lent to another one before that is closed; one
 * that is registered nowhere can. */
void ts_staging_lend_end(struct ts_staging *staging, uint32_t segment, int uffd)
{
	uint64_t addr = segment_addr(staging, segment);

	if (ts_uffd_unregister(uffd, addr, SEGMENT_BYTES))
		(void)ts_uffd_unregister(uffd, addr, SEGMENT_BYTES);
	if (ts_uffd_register(staging->uffd, addr, SEGMENT_BYTES, UFFDIO_REGISTER_MODE_MISSING))
		(void)ts_uffd_register(staging->uffd, addr, SEGMENT_BYTES,
				       UFFDIO_REGISTER_MODE_MISSING);
}

void ts_staging_release(struct ts_staging *staging, uint32_t segment)
{
	uint8_t *addr = staging->base + (uint64_t)segment * SEGMENT_BYTES;
	int rc;

	/* The next MOVE needs the slots empty.  The kernel has no reason to refuse (nothing is
	 * locked or sealed here); an injected failure is retried. */
	do
		rc = ts_sys_madvise(addr, SEGMENT_BYTES, MADV_DONTNEED);
	while (rc == -EAGAIN || rc == -EINTR || rc == -ENOMEM || rc == -EIO);
	TS_ASSERT(rc == 0);
	TS_SCOPED_LOCK(&staging->lock);
	TS_ASSERT(staging->nr_free < staging->nr_segments);
	staging->free_list[staging->nr_free++] = segment;
}
