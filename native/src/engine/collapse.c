/* SPDX-License-Identifier: Apache-2.0
 *
 * collapse.c — MADV_COLLAPSE, and once more where the kernel was busy (collapse.h).
 *
 * EAGAIN means that somebody in the kernel holds one of the 512 pages this moment: compaction, or
 * DAMON, which samples physical memory all the time where it is the default (Linux 7.3 of Debian).
 * Refused now, the chunk stays in small pages for good: the protection that follows keeps the
 * kernel from it until all 512 have been touched again.  So it is asked again, after pauses that
 * let the holder run; not for ever, for who has pinned a page for a device holds it, too.
 */
#include "engine/collapse.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "os/sys.h"
#include "os/uapi.h"

enum { AGAIN_MAX = 64, ROUNDS = 5, PAUSE_NS = 1000000 };

static bool is_due(struct ts_region *region, uint32_t first)
{
	for (uint32_t page = first; page < first + TS_CHUNK_PAGES; page++)
		if (!ts_word_is(ts_word_load(&region->words[page]), TS_RESIDENT) ||
		    ts_heat_age(ts_heat_load(&region->heat[page])) != 0)
			return false;
	return true;
}

/* True: ask again. */
static bool is_busy(struct ts_region *region, uint32_t first)
{
	const uint64_t len_bytes = (uint64_t)TS_CHUNK_PAGES << TS_PAGE_SHIFT;
	struct ts_shard *shard = ts_region_shard(region, first);
	uint32_t run = 0;

	if (!is_due(region, first))
		return false;
	ts_gate_share(&shard->gate);
	uint64_t addr = ts_shard_addr(shard, first, &run);
	ts_gate_unshare(&shard->gate);
	return run >= TS_CHUNK_PAGES && addr % len_bytes == 0 &&
	       ts_sys_madvise((void *)(uintptr_t)addr, len_bytes, MADV_COLLAPSE) == -EAGAIN;
}

void ts_collapse_region(struct ts_region *region)
{
	struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint32_t again[AGAIN_MAX];
	unsigned nr_again = 0;

	for (uint32_t first = 0; first + TS_CHUNK_PAGES <= region->nr_pages;
	     first += TS_CHUNK_PAGES)
		if (is_busy(region, first) && nr_again < AGAIN_MAX)
			again[nr_again++] = first;
	for (unsigned round = 0; nr_again && round < ROUNDS; round++) {
		unsigned nr_left = 0;
		nanosleep(&pause, NULL);
		pause.tv_nsec *= 2;
		for (unsigned i = 0; i < nr_again; i++)
			if (is_busy(region, again[i]))
				again[nr_left++] = again[i];
		nr_again = nr_left;
	}
}
