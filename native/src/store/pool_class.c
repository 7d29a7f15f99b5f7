/* SPDX-License-Identifier: Apache-2.0
 * pool_class.c — the pool's size classes, and the pages they take and give back. */
#include "store/pool_class.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "os/uapi.h"
#include "util/base.h"
#include "util/hook.h"
#include "util/limits.h"

enum {
	SMALL_STEP = 8,          /* classes up to SMALL_MAX are this far apart */
	SMALL_MAX = 512,         /* then 64 classes to each power of two */
	OCTAVE_SHIFT = 6,
	SMALL_LOG2 = 9,
	/* A class keeps 1/64 of its pages behind the last slot, so that a frame that goes and one
	 * that comes don't cost two system calls. */
	SPARE_SHIFT = 6,
};

unsigned ts_pool_class_of(uint32_t bytes)
{
	uint32_t last = bytes - 1;

	if (bytes <= SMALL_MAX)
		return last / SMALL_STEP;
	unsigned log2 = 31u - (unsigned)__builtin_clz(last);
	unsigned step = (last >> (log2 - OCTAVE_SHIFT)) - (1u << OCTAVE_SHIFT);
	return SMALL_MAX / SMALL_STEP + ((log2 - SMALL_LOG2) << OCTAVE_SHIFT) + step;
}

uint32_t ts_pool_class_bytes(unsigned class_index)
{
	if (class_index < SMALL_MAX / SMALL_STEP)
		return (class_index + 1) * SMALL_STEP;
	unsigned large = class_index - SMALL_MAX / SMALL_STEP;
	unsigned log2 = SMALL_LOG2 + (large >> OCTAVE_SHIFT);
	unsigned step = large & ((1u << OCTAVE_SHIFT) - 1);
	return ((1u << OCTAVE_SHIFT) + step + 1) << (log2 - OCTAVE_SHIFT);
}

bool ts_pool_budget_take(struct pool_budget *budget, uint64_t bytes)
{
	uint64_t used = atomic_load_explicit(&budget->used_bytes, memory_order_relaxed);

	do {
		if (bytes > budget->size_bytes - used)
			return false;
	} while (!atomic_compare_exchange_weak(&budget->used_bytes, &used, used + bytes));
	return true;
}

void ts_pool_budget_give(struct pool_budget *budget, uint64_t bytes)
{
	TS_ASSERT(atomic_fetch_sub(&budget->used_bytes, bytes) >= bytes);
}

void *ts_pool_map(size_t len_bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *addr;

	/* mlockall(MCL_FUTURE) would fill the whole range at once: unlock it before it may be
	 * written.  Huge pages would take 2 MiB where one frame is put.  A child has no use for
	 * frames, and copying them on write would double what they cost.  None of these is more
	 * than a precaution, so that kernels without one of them are no error. */
	if (TS_INJECT(TS_SITE_MMAP))
		return NULL;
	addr = mmap(NULL, len_bytes, PROT_NONE, flags, -1, 0);
	if (addr == MAP_FAILED)
		return NULL;
	(void)munlock(addr, len_bytes);
	(void)madvise(addr, len_bytes, MADV_NOHUGEPAGE);
	(void)madvise(addr, len_bytes, MADV_DONTFORK);
	if (mprotect(addr, len_bytes, PROT_READ | PROT_WRITE) < 0) {
		int error = errno;

		munmap(addr, len_bytes);
		errno = error;
		return NULL;
	}
	return addr;
}

bool ts_pool_discard(struct pool_budget *budget, void *addr, size_t len_bytes)
{
	if (TS_INJECT(TS_SITE_MADVISE) || madvise(addr, len_bytes, MADV_DONTNEED) < 0)
		return false;
	ts_pool_budget_give(budget, len_bytes);
	atomic_fetch_add_explicit(&budget->discarded_bytes, len_bytes, memory_order_relaxed);
	return true;
}

int ts_pool_class_init(struct pool_class *cls, unsigned class_index)
{
	int error = pthread_mutex_init(&cls->writer, NULL);

	if (error)
		return -error;
	cls->slot_bytes = ts_pool_class_bytes(class_index);
	return 0;
}

static unsigned segment_of(uint32_t slot)
{
	return 31u - (unsigned)__builtin_clz((slot >> POOL_SEGMENT_SHIFT) + 1);
}

static uint32_t segment_first(unsigned segment)
{
	return ((1u << segment) - 1) << POOL_SEGMENT_SHIFT;
}

/* Pages of the segment that its first nr_slots slots reach into. */
static uint64_t pages_of(const struct pool_class *cls, uint32_t nr_slots)
{
	return ((uint64_t)nr_slots * cls->slot_bytes + TS_PAGE_BYTES - 1) >> TS_PAGE_SHIFT;
}

static size_t segment_bytes(const struct pool_class *cls, unsigned segment)
{
	return pages_of(cls, 1u << (segment + POOL_SEGMENT_SHIFT)) << TS_PAGE_SHIFT;
}

void ts_pool_class_finish(struct pool_class *cls)
{
	for (unsigned i = 0; i < POOL_SEGMENTS_MAX; i++)
		if (cls->segments[i])
			munmap(cls->segments[i], segment_bytes(cls, i));
	pthread_mutex_destroy(&cls->writer);
}

char *ts_pool_class_slot(const struct pool_class *cls, uint32_t slot)
{
	unsigned segment = segment_of(slot);

	return cls->segments[segment] + (size_t)(slot - segment_first(segment)) * cls->slot_bytes;
}

int ts_pool_class_hold(struct pool_class *cls, struct pool_budget *budget)
{
	unsigned segment = segment_of(cls->nr_slots);
	uint64_t pages, more;

	if (segment >= POOL_SEGMENTS_MAX)
		return TS_EFULL;
	pages = pages_of(cls, cls->nr_slots - segment_first(segment) + 1);
	if (pages <= cls->held_pages[segment])
		return 0;
	more = pages - cls->held_pages[segment];
	if (!ts_pool_budget_take(budget, more << TS_PAGE_SHIFT))
		return TS_EFULL;
	if (!cls->segments[segment]) {
		cls->segments[segment] = ts_pool_map(segment_bytes(cls, segment));
		if (!cls->segments[segment]) {
			ts_pool_budget_give(budget, more << TS_PAGE_SHIFT);
			return -ENOMEM;
		}
	}
	/* One call instead of a fault for each page; where it fails the faults come. */
	if (more > 1)
		(void)madvise(cls->segments[segment] +
				      ((size_t)cls->held_pages[segment] << TS_PAGE_SHIFT),
			      more << TS_PAGE_SHIFT, MADV_POPULATE_WRITE);
	cls->held_pages[segment] = (uint32_t)pages;
	return 0;
}

void ts_pool_class_shrink(struct pool_class *cls, struct pool_budget *budget, bool all)
{
	uint64_t spare = all ? 0 : pages_of(cls, cls->nr_slots) >> SPARE_SHIFT;
	unsigned last = segment_of(cls->nr_slots);

	unsigned top = all ? POOL_SEGMENTS_MAX - 1u : TS_MIN(last + 1, POOL_SEGMENTS_MAX - 1u);

	/* Above the last segment in use at most one still has pages, the one just left; unless
	 * the kernel has refused to take them, which the next trim makes good. */
	for (unsigned i = top + 1; i-- > 0 && i + 1 >= last;) {
		uint32_t first = segment_first(i);
		uint32_t nr_slots = cls->nr_slots > first ? cls->nr_slots - first : 0;
		uint64_t in_use = pages_of(cls, TS_MIN(nr_slots, 1u << (i + POOL_SEGMENT_SHIFT)));
		uint64_t held = cls->held_pages[i];

		if (held > in_use + spare &&
		    ts_pool_discard(budget, cls->segments[i] + (in_use << TS_PAGE_SHIFT),
				 (held - in_use) << TS_PAGE_SHIFT))
			cls->held_pages[i] = (uint32_t)in_use;
	}
}
