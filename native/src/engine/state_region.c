/* SPDX-License-Identifier: Apache-2.0
 *
 * state_region.c — the files that persistent regions' words lie in (state.h).
 *
 * A file is made before a page leaves, and removed after the last has come back.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/state.h"
#include "os/sys.h"

#define REGION_MAGIC "TSREGION"
#define MARK_NAME "user.tierstore"

/* Who has evicted pages of a memfd. */
struct mark {
	uint8_t uuid[16];
	uint32_t region_id;
};

int ts_state_region_path(const struct ts_statedir *state, uint32_t id, char *path,
			 size_t path_bytes)
{
	int len = snprintf(path, path_bytes, "%s/region-%08x", state->dir, id);

	return len < (int)path_bytes ? 0 :
	       ts_fail(TS_ECONFIG, "state folder %s: the path is too long", state->dir);
}

static size_t file_bytes(uint32_t nr_pages_max)
{
	return TS_STATE_HEAD_BYTES + (size_t)nr_pages_max * sizeof(ts_word);
}

/* ---- Heads ------------------------------------------------------------------------------ */

static struct ts_state_region *slot_of(void *base, unsigned i)
{
	return (struct ts_state_region *)((char *)base + (size_t)i * TS_STATE_HEAD_BYTES / 2);
}

static bool slot_is_valid(const struct ts_state_region *slot)
{
	return !memcmp(slot->magic, REGION_MAGIC, sizeof(slot->magic)) &&
	       slot->checksum == XXH3_64bits(slot, offsetof(struct ts_state_region, checksum));
}

/* The head that counts, or NULL. */
static const struct ts_state_region *current_head(void *base)
{
	const struct ts_state_region *a = slot_of(base, 0), *b = slot_of(base, 1);

	if (!slot_is_valid(a) || !slot_is_valid(b))
		return slot_is_valid(a) ? a : slot_is_valid(b) ? b : NULL;
	return (int32_t)(a->number - b->number) > 0 ? a : b;
}

static void write_head(void *base, const struct ts_state_region *head)
{
	struct ts_state_region next = *head;
	const struct ts_state_region *old = current_head(base);

	memcpy(next.magic, REGION_MAGIC, sizeof(next.magic));
	next.version = TS_STATE_VERSION;
	next.number = old ? old->number + 1 : 1;
	next.checksum = XXH3_64bits(&next, offsetof(struct ts_state_region, checksum));
	memcpy(slot_of(base, next.number % 2), &next, sizeof(next));
}

/* ---- After a death: counting ------------------------------------------------------------ */

static void count_words(struct ts_engine *engine, ts_word_slot *words,
			struct ts_state_orphan *orphan)
{
	uint64_t nr_bad = 0;

	for (uint32_t page = 0; page < orphan->region.nr_pages; page++) {
		ts_word word = ts_word_load(&words[page]);
		uint32_t frame = ts_state_frame_of(word);
		if (frame && !ts_frames_recount_page(&engine->frames, frame, TS_TIER_MAX))
			nr_bad++;
		orphan->nr_away += ts_word_is(word, TS_AWAY);
	}
	if (nr_bad)
		snprintf(orphan->why, sizeof(orphan->why), "%llu of its pages name frames that "
			 "there are not", (unsigned long long)nr_bad);
}

/* One file: 1 if it counts, 0 if it is one that was never finished. */
static int load_region(struct ts_engine *engine, uint32_t id)
{
	struct ts_statedir *state = engine->state;
	struct ts_state_orphan *orphan = &state->orphans[state->nr_orphans];
	struct ts_mapfile map;
	char path[4096];

	int rc = ts_state_region_path(state, id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_open(path, TS_STATE_HEAD_BYTES, &map);
	if (rc)
		return rc;
	const struct ts_state_region *head = current_head(map.base);
	if (!head || head->id != id ||
	    memcmp(head->uuid, state->head->uuid, sizeof(head->uuid)) ||
	    map.len_bytes < file_bytes(head->nr_pages)) {
		/* Written before the region is served; a process that dies before that leaves a
		 * guest none of whose pages is away. */
		ts_mapfile_close(&map);
		return unlink(path) ? ts_fail(-errno, "unlink %s: %m", path) : 0;
	}
	*orphan = (struct ts_state_orphan){ .region = *head };
	count_words(engine, (ts_word_slot *)((char *)map.base + TS_STATE_HEAD_BYTES), orphan);
	ts_mapfile_close(&map);
	return 1;
}

int ts_state_load_regions(struct ts_engine *engine)
{
	struct ts_statedir *state = engine->state;
	int fd = openat(state->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int rc = 0;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return ts_fail(-ENOMEM, "state folder %s: can't be read", state->dir);
	}
	for (struct dirent *entry; rc >= 0 && (entry = readdir(dir));) {
		unsigned id;
		int end = 0;
		if (sscanf(entry->d_name, "region-%8x%n", &id, &end) != 1 || entry->d_name[end])
			continue;
		if (state->nr_orphans == TS_STATE_ORPHAN_MAX)
			rc = ts_fail(TS_ELIMIT, "state folder %s: more than %d regions", state->dir,
				     TS_STATE_ORPHAN_MAX);
		else
			rc = load_region(engine, id);
		state->nr_orphans += rc > 0;
	}
	closedir(dir);
	return TS_MIN(rc, 0);
}

/* ---- Claiming --------------------------------------------------------------------------- */

struct ts_state_orphan *ts_state_find_orphan(struct ts_statedir *state, const char *name)
{
	for (unsigned i = 0; i < state->nr_orphans; i++)
		if (!strcmp(state->orphans[i].region.name, name))
			return &state->orphans[i];
	return NULL;
}

void ts_state_remove_orphan(struct ts_statedir *state, struct ts_state_orphan *orphan)
{
	*orphan = state->orphans[--state->nr_orphans];
}

static bool range_is_same(const struct ts_state_range *a, const struct ts_state_range *b)
{
	return !memcmp(a, b, sizeof(*a));
}

/* The same ranges, in any order, and others that were added meanwhile: they get the order that the
 * pages are numbered in. */
static bool order_ranges(const struct ts_state_region *old, struct ts_state_claim *claim)
{
	if (claim->nr_ranges < old->nr_ranges || claim->nr_pages > old->nr_pages_max)
		return false;
	for (unsigned i = 0; i < old->nr_ranges; i++) {
		unsigned k = i;
		while (k < claim->nr_ranges &&
		       !range_is_same(&claim->ranges[k], &old->ranges[i]))
			k++;
		if (k == claim->nr_ranges)
			return false;
		struct ts_state_range found = claim->ranges[k];
		claim->ranges[k] = claim->ranges[i];
		claim->ranges[i] = found;
	}
	return true;
}

static uint64_t count_lost(const struct ts_engine *engine, ts_word_slot *words, uint32_t nr_pages)
{
	uint64_t nr_lost = 0;

	for (uint32_t page = 0; page < nr_pages; page++) {
		uint32_t frame = ts_state_frame_of(ts_word_load(&words[page]));
		nr_lost += frame && ts_state_is_lost(engine->state, frame);
	}
	return nr_lost;
}

static int check_claim(const struct ts_state_orphan *orphan, struct ts_state_claim *claim,
		       const char *name)
{
	if (orphan->why[0])
		return ts_fail(TS_ECORRUPT, "%s: what is left of it can't be trusted: %s.  Its "
			       "guest can't go on; end it, and forget the region", name,
			       orphan->why);
	if (memcmp(orphan->region.identity, claim->identity, sizeof(orphan->region.identity)))
		return ts_fail(TS_ESTATE, "%s: evicted pages of another guest are kept under this "
			       "name.  Use another name, or forget that one", name);
	if (!order_ranges(&orphan->region, claim))
		return ts_fail(TS_ESTATE, "%s: its ranges are not those it had when its pages were "
			       "evicted (%u ranges, %u pages)", name, orphan->region.nr_ranges,
			       orphan->region.nr_pages);
	return 0;
}

static int open_words(struct ts_engine *engine, struct ts_region *region,
		      struct ts_state_orphan *orphan, struct ts_state_claim *claim)
{
	char path[4096];

	int rc = check_claim(orphan, claim, region->name);
	if (!rc)
		rc = ts_state_region_path(engine->state, orphan->region.id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_open(path, file_bytes(orphan->region.nr_pages_max),
				     &region->state);
	if (rc)
		return rc;
	region->words = (ts_word_slot *)((char *)region->state.base + TS_STATE_HEAD_BYTES);
	uint64_t nr_lost = count_lost(engine, region->words, orphan->region.nr_pages);
	if (nr_lost) {
		ts_mapfile_close(&region->state);
		region->words = NULL;
		return ts_fail(TS_ECORRUPT, "%s: %llu of its evicted pages are in no store "
			       "any more.  Its guest can't go on; end it, and forget the region",
			       region->name, (unsigned long long)nr_lost);
	}
	region->id = orphan->region.id;
	region->image_id = orphan->region.image_id;
	claim->nr_pages_max = orphan->region.nr_pages_max;
	claim->nr_resumed = orphan->region.nr_pages;
	claim->is_resumed = true;
	ts_state_remove_orphan(engine->state, orphan);
	return 0;
}

static int create_words(struct ts_engine *engine, struct ts_region *region,
			struct ts_state_claim *claim)
{
	struct ts_statedir *state = engine->state;
	struct ts_state_region head = {
		.id = region->id, .nr_pages = claim->nr_pages,
		.nr_pages_max = claim->nr_pages_max, .nr_ranges = claim->nr_ranges,
		.image_id = claim->image_id,
	};
	char path[4096];

	int rc = ts_state_region_path(state, region->id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_create(path, file_bytes(claim->nr_pages_max), &region->state);
	if (rc)
		return rc;
	rc = ts_mapfile_reserve(&region->state, 0, file_bytes(claim->nr_pages));
	if (rc) {
		ts_mapfile_close(&region->state);
		unlink(path);
		return ts_fail(rc, "%s: no room for its page table: %s: %s", region->name, path,
			       ts_strerror(rc));
	}
	atomic_store(&state->head->next_region_id, engine->next_region_id);
	region->words = (ts_word_slot *)((char *)region->state.base + TS_STATE_HEAD_BYTES);
	for (uint32_t page = 0; page < claim->nr_pages; page++)
		atomic_store_explicit(&region->words[page], ts_word_make(TS_ZERO, 0, 0),
				      memory_order_relaxed);
	snprintf(head.name, sizeof(head.name), "%s", region->name);
	memcpy(head.identity, claim->identity, sizeof(head.identity));
	memcpy(head.uuid, state->head->uuid, sizeof(head.uuid));
	memcpy(head.ranges, claim->ranges, claim->nr_ranges * sizeof(head.ranges[0]));
	write_head(region->state.base, &head);
	return 0;
}

int ts_state_region_claim(struct ts_engine *engine, struct ts_region *region,
			  struct ts_state_claim *claim)
{
	struct ts_state_orphan *orphan = ts_state_find_orphan(engine->state, region->name);

	claim->is_resumed = false;
	for (unsigned r = 0; r < TS_REGION_MAX; r++)
		if (engine->regions[r] && engine->regions[r]->state.base &&
		    !strcmp(engine->regions[r]->name, region->name))
			return ts_fail(TS_ESTATE, "%s: a persistent region of this name is "
				       "attached", region->name);
	return orphan ? open_words(engine, region, orphan, claim) :
	       create_words(engine, region, claim);
}

int ts_state_region_grow(struct ts_engine *engine, struct ts_region *region,
			 const struct ts_state_range *range, uint32_t nr_pages)
{
	struct ts_state_region head = *current_head(region->state.base);

	(void)engine;
	if (head.nr_ranges == TS_EXTENT_MAX || nr_pages > head.nr_pages_max)
		return ts_fail(TS_ELIMIT, "%s: no room for more ranges", region->name);
	int rc = ts_mapfile_reserve(&region->state, 0, file_bytes(nr_pages));
	if (rc)
		return ts_fail(rc, "%s: no room for a larger page table: %s", region->name,
			       ts_strerror(rc));
	head.ranges[head.nr_ranges++] = *range;
	head.nr_pages = nr_pages;
	write_head(region->state.base, &head);
	return 0;
}

void ts_state_region_shrink(struct ts_region *region)
{
	struct ts_state_region head = *current_head(region->state.base);

	head.nr_pages -= (uint32_t)(head.ranges[--head.nr_ranges].len_bytes >> TS_PAGE_SHIFT);
	write_head(region->state.base, &head);
}

/* ---- Marks ------------------------------------------------------------------------------ */

static struct mark mark_of(const struct ts_region *region)
{
	struct mark mark = { .region_id = region->id };

	memcpy(mark.uuid, region->engine->state->head->uuid, sizeof(mark.uuid));
	return mark;
}

/* 1: ours; 0: none; negative: another's. */
static int read_mark(const struct ts_region *region, int memfd)
{
	struct mark mark = { .region_id = 0 };
	ssize_t got = fgetxattr(memfd, MARK_NAME, &mark, sizeof(mark));

	if (got < 0 && errno != ERANGE)
		return 0;  /* none, or a kind of memory that can have none */
	if (region->state.base && got == (ssize_t)sizeof(mark)) {
		struct mark ours = mark_of(region);
		if (!memcmp(&mark, &ours, sizeof(mark)))
			return 1;
	}
	return TS_ESTATE;
}

static int refuse_mark(const struct ts_region *region)
{
	return ts_fail(TS_ESTATE, "%s: pages of this memory were evicted by an engine with another "
		       "state folder, or under another name: without that they would read as "
		       "zeros", region->name);
}

static uint64_t count_away(const struct ts_region *region)
{
	uint64_t nr_away = 0;

	for (uint32_t page = 0; page < region->nr_pages; page++)
		nr_away += ts_word_is(ts_word_load(&region->words[page]), TS_AWAY);
	return nr_away;
}

static int set_mark(const struct ts_region *region, int memfd, bool is_resumed)
{
	struct mark mark = mark_of(region);

	/* Memory that can't have one, such as huge pages', goes without. */
	if (fsetxattr(memfd, MARK_NAME, &mark, sizeof(mark), XATTR_CREATE) || !is_resumed ||
	    !count_away(region))
		return 0;
	(void)fremovexattr(memfd, MARK_NAME);
	return ts_fail(TS_ESTATE, "%s: this is not the memory that its pages were evicted from",
		       region->name);
}

int ts_state_check_marks(const struct ts_region *region, bool is_resumed)
{
	unsigned nr_backings = atomic_load(&region->nr_backings);
	int rc = 0;

	for (unsigned i = 0; i < nr_backings; i++)
		if (read_mark(region, region->backings[i].fd) < 0)
			return refuse_mark(region);
	for (unsigned i = 0; region->state.base && !rc && i < nr_backings; i++)
		if (!read_mark(region, region->backings[i].fd))
			rc = set_mark(region, region->backings[i].fd, is_resumed);
	return rc;
}

static void remove_marks(const struct ts_region *region)
{
	unsigned nr_backings = atomic_load(&region->nr_backings);

	for (unsigned i = 0; i < nr_backings; i++)
		if (read_mark(region, region->backings[i].fd) > 0)
			(void)fremovexattr(region->backings[i].fd, MARK_NAME);
}

/* ---- Letting go ------------------------------------------------------------------------- */

void ts_state_region_drop(struct ts_engine *engine, struct ts_region *region)
{
	char path[4096];

	if (!region->state.base)
		return;
	/* Last the file: while it is there its words count. */
	remove_marks(region);
	if (ts_state_region_path(engine->state, region->id, path, sizeof(path)) || unlink(path))
		ts_log(engine, TS_LOG_WARNING, "%s: its page table can't be removed: %s",
		       region->name, strerror(errno));
}

void ts_state_region_undo(struct ts_engine *engine, struct ts_region *region)
{
	bool is_away = false;

	if (!region->state.base)
		return;
	for (uint32_t page = 0; page < current_head(region->state.base)->nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		is_away |= !ts_word_is(word, TS_RESIDENT) && word != ts_word_make(TS_ZERO, 0, 0);
	}
	if (is_away)
		ts_state_region_leave(engine, region);
	else
		ts_state_region_drop(engine, region);
}

void ts_state_region_leave(struct ts_engine *engine, struct ts_region *region)
{
	struct ts_statedir *state = engine->state;

	if (region->state.base && state->nr_orphans < TS_STATE_ORPHAN_MAX)
		state->orphans[state->nr_orphans++] = (struct ts_state_orphan){
			.region = *current_head(region->state.base) };
}
