/* SPDX-License-Identifier: Apache-2.0
 *
 * state_resolve.c — what a death has left of a region's words (state.h).
 *
 * What a word says when its owner is gone, and what becomes of it:
 *
 *   LEAVING              the guest still has the page: nothing is released before it is published
 *   AWAY, RELEASING      published; RAM that was not given back is the page: under RWP the guest
 *                        may have written to it since, for nothing but a window stops it
 *   COMING from a frame  if the guest has the page, it was installed; else AWAY
 *   COMING from a fill   the same; else ZERO
 *   COMING, others       the guest has the page, or a hole that it made
 *   COMING, REMOVED      given up
 *
 * No guard that is left over is written down: the caller lifts protections over the whole region,
 * and wakes everybody; whoever waits asks again.
 */
#include <string.h>

#include "engine/life.h"
#include "engine/share.h"
#include "engine/state.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uapi.h"
#include "track/track.h"

/* Has the guest the page? */
static bool is_present(struct ts_region *region, uint32_t page)
{
	struct ts_shard *shard = ts_region_shard(region, page);
	uint64_t offset = 0;
	uint32_t run;

	if (region->memfd >= 0) {
		int fd = ts_region_backing(region, page, &offset, &run);
		return lseek(fd, (off_t)offset, SEEK_DATA) == (off_t)offset;
	}
	uint64_t addr = ts_shard_addr(shard, page, NULL);
	return addr && ts_pagemap_is_filled(region->pagemap_fd, addr);
}

/* All zeros, or not to be read. */
static bool is_clear(int fd, uint64_t offset)
{
	static const uint8_t zeros[TS_PAGE_BYTES];
	uint8_t data[TS_PAGE_BYTES];

	return ts_sys_pread_all(fd, data, sizeof(data), (off_t)offset) ||
	       !memcmp(data, zeros, sizeof(data));
}

/* A punch clears what it can't drop (a part of a huge page that somebody holds), and the evictor
 * that died may not have come to writing it back.  Under RWP it can also be the guest that has
 * cleared it since, who then has it in the page table. */
static bool is_cleared_by_us(struct ts_region *region, uint32_t page, int fd, uint64_t offset)
{
	uint64_t addr = ts_shard_addr(ts_region_shard(region, page), page, NULL);
	uint64_t modes = region->is_remote ? region->uffd_modes : region->tracker->uffd_modes;
	bool is_guarded = !(modes & UFFDIO_REGISTER_MODE_RWP);

	if (!is_guarded && (!region->is_remote || region->pagemap_fd < 0))
		return false;
	return is_clear(fd, offset) &&
	       (is_guarded || !addr || !ts_pagemap_is_filled(region->pagemap_fd, addr));
}

/* Published, and perhaps not yet given back.  What the page cache has is the page, if anybody could
 * write to it, and as good as the frame, if not: it stays with the guest. */
static ts_word finish_release(struct ts_region *region, uint32_t page, ts_word word)
{
	ts_word away = word & ~(ts_word)TS_WORD_RELEASING;
	uint64_t offset = 0;
	uint32_t run;

	if (region->memfd < 0 || !is_present(region, page))
		return away;
	int fd = ts_region_backing(region, page, &offset, &run);
	if (!is_cleared_by_us(region, page, fd, offset) ||
	    ts_sys_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			     TS_PAGE_BYTES))
		return ts_word_make(TS_RESIDENT, 0, 0);
	return away;
}

static ts_word resolve_coming(struct ts_region *region, uint32_t page, ts_word word)
{
	uint32_t payload = ts_word_payload(word);

	if (word & TS_WORD_REMOVED)
		return ts_word_make(TS_ZERO, 0, 0);
	if ((word & TS_WORD_STAGED) || !payload || is_present(region, page))
		return ts_word_make(TS_RESIDENT, 0, 0);
	if (payload >= (uint32_t)TS_COMING_FILL)
		return ts_word_make(TS_ZERO, 0, payload - (uint32_t)TS_COMING_FILL);
	return ts_word_make(TS_AWAY, 0, payload);
}

static ts_word resolve(struct ts_region *region, uint32_t page, ts_word word)
{
	switch (ts_word_state(word)) {
	case TS_RESIDENT:
	case TS_LEAVING:
		return ts_word_make(TS_RESIDENT, 0, 0);
	case TS_AWAY:
	case TS_ZERO:
		return word & TS_WORD_RELEASING ? finish_release(region, page, word) : word;
	case TS_COMING:
		return resolve_coming(region, page, word);
	case TS_GONE:
	case TS_STATE_COUNT:
		break;
	}
	return ts_word_make(TS_GONE, 0, 0);
}

int ts_state_region_resolve(struct ts_engine *engine, struct ts_region *region)
{
	uint64_t nr_changed = 0;

	for (uint32_t page = 0; page < region->nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		ts_word to = resolve(region, page, word);
		if (to == word)
			continue;
		atomic_store(&region->words[page], to);
		if (ts_state_frame_of(word) && !ts_state_frame_of(to))
			ts_frames_drop_page(&engine->frames, ts_state_frame_of(word));
		nr_changed += !ts_word_is(word, TS_RESIDENT);
	}
	region->slot = ts_life_free_slot(engine);
	if (region->slot < TS_REGION_MAX)
		ts_share_note_resumed(engine, region);
	ts_log(engine, TS_LOG_INFO, "%s: taken over; %llu pages were on their way", region->name,
	       (unsigned long long)nr_changed);
	return 0;
}
