/* SPDX-License-Identifier: Apache-2.0
 *
 * state.h — what outlives the process that serves other processes' memory: the state folder.
 *
 * The frame table, the fills and the words of persistent regions lie in shared maps; the changes
 * are those that are made anyway, at no cost.  After a death the next process counts the frames'
 * references anew from the words (state.c), takes over the stores, and, when a region comes back
 * with its memory, resolves the words whose owners died (state_region.c).
 *
 * Files in the folder, which is locked while it is in use (FORMAT.md):
 *   engine          head, tiers, fills      frames         the frame table
 *   region-N        a region's words        tier-N.index   the file store's (file_state.c)
 *   image-N         an image's words (image.h)
 */
#ifndef TS_ENGINE_STATE_H
#define TS_ENGINE_STATE_H

#include "core/engine.h"
#include "os/sys.h"

enum {
	TS_STATE_VERSION = 1,
	TS_STATE_HEAD_BYTES = 4096,   /* of a region's file: the words follow */
	TS_STATE_ORPHAN_MAX = 4096,   /* regions that nobody has come back for */
};

/* A tier as it was when frames went there. */
struct ts_state_tier {
	char name[32], store[32];     /* "": no such tier */
	uint64_t path_hash;
	uint32_t range_pages, frame_max_bytes;
	uint64_t checksum;            /* XXH3-64 of what is before it; else: of unknown sizes */
};

struct ts_state_head {
	char magic[8];
	uint32_t version, nr_frame_ids;
	char boot[TS_BOOT_ID_BYTES];
	uint8_t uuid[16];
	uint64_t tick_start_ns;       /* CLOCK_MONOTONIC, from which frames' ages count */
	uint64_t checksum;            /* XXH3-64 of what is before it; the rest changes */
	_Atomic uint32_t next_region_id;
	uint32_t reserved;
	struct ts_state_tier tiers[TS_TIER_MAX];
	struct ts_fill_table fills;
};

struct ts_state_range {
	uint64_t addr, len_bytes, backing_offset;
	uint64_t is_memfd;
};

/* The head of a region's file is written twice, in turn: the valid one with the higher number
 * counts. */
struct ts_state_region {
	char magic[8];
	uint32_t version, number;
	uint32_t id, nr_pages, nr_pages_max;
	uint32_t image_id;            /* whose words it began with; 0: none */
	uint32_t nr_ranges, reserved;
	char name[64];
	uint8_t identity[32];
	uint8_t uuid[16];             /* of the engine's head */
	struct ts_state_range ranges[TS_EXTENT_MAX];
	uint64_t checksum;
};
static_assert(sizeof(struct ts_state_region) <= TS_STATE_HEAD_BYTES / 2, "two to a block");

/* A region in the folder that is not attached. */
struct ts_state_orphan {
	struct ts_state_region region;
	uint64_t nr_away;
	char why[128];                /* it can't be trusted; "": it can */
};

struct ts_statedir {
	char *dir;
	int dir_fd;                   /* flock()ed */
	bool was_there;               /* an earlier process's, taken over */
	struct ts_mapfile head_map, frames_map;
	struct ts_state_head *head;
	struct ts_state_orphan *orphans;
	unsigned nr_orphans;
	uint64_t *lost_map;           /* a bit a frame: words name it, its store has it not */
};

/* ---- state.c ---------------------------------------------------------------------------- */

/* Makes the folder, or takes it over; frames and fills of the engine lie in it then. */
int ts_state_open(struct ts_engine *engine, const char *dir);
/* Everything stays in place.  Accepts an engine without one. */
void ts_state_close(struct ts_engine *engine);
/* What a tier's store is to be opened with. */
int ts_state_tier_begin(struct ts_engine *engine, const struct ts_tier_options *options,
			char *path, size_t path_bytes, struct ts_tier_state *state_out);
/* It is open: what no word names is deleted, what is missing noted; or it is written down. */
int ts_state_tier_end(struct ts_engine *engine, struct ts_tier *tier,
		      const struct ts_tier_options *options, bool is_resume);
/* Are all tiers there that frames may lie in? */
int ts_state_check_tiers(struct ts_engine *engine);
static inline bool ts_state_is_lost(const struct ts_statedir *state, uint32_t frame)
{
	return state->lost_map[frame / 64] >> (frame % 64) & 1;
}

/* ---- state_dict.c ----------------------------------------------------------------------- */

int ts_state_load_dict(struct ts_engine *engine, struct ts_tier *tier, uint32_t dict_id);

/* The frame that a word holds on to, or 0.  Copies that were kept are let go. */
static inline uint32_t ts_state_frame_of(ts_word word)
{
	uint32_t payload = ts_word_payload(word);

	if (ts_word_is(word, TS_AWAY))
		return payload;
	if (ts_word_is(word, TS_COMING) && !(word & TS_WORD_STAGED) &&
	    payload < (uint32_t)TS_COMING_FILL)
		return payload;
	return 0;
}

/* ---- state_region.c --------------------------------------------------------------------- */

/* Looks through the folder: counts every word's frame, and fills orphans. */
int ts_state_load_regions(struct ts_engine *engine);
int ts_state_region_path(const struct ts_statedir *state, uint32_t id, char *path,
			 size_t path_bytes);
/* NULL: there is none of that name. */
struct ts_state_orphan *ts_state_find_orphan(struct ts_statedir *state, const char *name);
void ts_state_remove_orphan(struct ts_statedir *state, struct ts_state_orphan *orphan);

/* A region is about to be attached under region->name: finds what an earlier process left of it,
 * which must be the same memory (TS_ESTATE, TS_ECORRUPT), or makes a new file.  Gives region its
 * words and, if it was there, its id; ranges get the order that its pages are numbered in. */
struct ts_state_claim {
	const uint8_t *identity;      /* 32 bytes */
	struct ts_state_range *ranges;
	unsigned nr_ranges;
	uint32_t nr_pages, nr_pages_max;
	uint32_t image_id;            /* of the image that a new region begins as */
	bool is_resumed;              /* out */
	uint32_t nr_resumed;          /* out: pages of ranges that were there; more ranges may come
				       * after them */
};
int ts_state_region_claim(struct ts_engine *engine, struct ts_region *region,
			  struct ts_state_claim *claim);
/* state_resolve.c.  After that, when the region's memory can be looked at, before anybody else sees
 * it: words whose
 * owners died become what they are. */
int ts_state_region_resolve(struct ts_engine *engine, struct ts_region *region);
/* More memory at the end (nr_pages is the new count).  Before the words are used. */
int ts_state_region_grow(struct ts_engine *engine, struct ts_region *region,
			 const struct ts_state_range *range, uint32_t nr_pages);
/* The last range after all not. */
void ts_state_region_shrink(struct ts_region *region);
/* Nothing of it is away any more, or nobody wants it: the file goes. */
void ts_state_region_drop(struct ts_engine *engine, struct ts_region *region);
/* The attach has failed: what an earlier process has left stays, what is new goes. */
void ts_state_region_undo(struct ts_engine *engine, struct ts_region *region);
/* Not now: another process will come for it. */
void ts_state_region_leave(struct ts_engine *engine, struct ts_region *region);

/* Memory whose pages are away under one state folder must not be attached under another one, or
 * none: evicted pages would read as zeros.  So each memfd itself carries a mark.  For every region
 * with backings, once it is claimed if it is persistent: TS_ESTATE if one of them has another's
 * mark, or a resumed one lacks ours. */
int ts_state_check_marks(const struct ts_region *region, bool is_resumed);

#endif
