/* SPDX-License-Identifier: Apache-2.0
 *
 * state.c — the state folder: opening, what the last process left, tiers (state.h).
 *
 * What is trusted: maps are as the last process left them, since nothing but the host's end can
 * take a store to them back.  What is not: that the folder, the tiers' files and the
 * configuration belong together.  That is checked, and said.
 */
#include "engine/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/image.h"
#include "os/sys.h"

#define HEAD_MAGIC "TSSTATE"

/* One of ours: no other is ever removed. */
static bool name_is_ours(const char *name)
{
	static const char *const starts[] = { "region-", "image-", "tier-" };

	for (size_t i = 0; i < TS_ARRAY_LEN(starts); i++)
		if (!strncmp(name, starts[i], strlen(starts[i])))
			return true;
	return !strcmp(name, "engine") || !strcmp(name, "frames");
}

static int path_of(const struct ts_statedir *state, const char *name, char *path, size_t path_bytes)
{
	int len = snprintf(path, path_bytes, "%s/%s", state->dir, name);

	return len < (int)path_bytes ? 0 :
	       ts_fail(TS_ECONFIG, "state folder %s: the path is too long", state->dir);
}

/* ---- The folder ------------------------------------------------------------------------- */

static int lock_folder(struct ts_statedir *state)
{
	struct stat info;

	if (mkdir(state->dir, 0700) && errno != EEXIST)
		return ts_fail(-errno, "state folder %s: mkdir: %m; the folder above it must exist",
			       state->dir);
	state->dir_fd = open(state->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state->dir_fd < 0)
		return ts_fail(-errno, "state folder %s: open: %m", state->dir);
	if (fstat(state->dir_fd, &info))
		return ts_fail(-errno, "state folder %s: stat: %m", state->dir);
	if (info.st_uid != geteuid() || fchmod(state->dir_fd, 0700))
		return ts_fail(TS_EPERMISSION, "state folder %s: it must belong to this user, and "
			       "to nobody else", state->dir);
	if (flock(state->dir_fd, LOCK_EX | LOCK_NB))
		return ts_fail(errno == EWOULDBLOCK ? TS_ELOCKED : -errno, "state folder %s: in "
			       "use by another engine; each needs a folder of its own", state->dir);
	return 0;
}

/* Removes our files, for good: they are of another boot, whose guests are gone. */
static int empty_folder(struct ts_statedir *state)
{
	int fd = openat(state->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int rc = 0;

	if (!dir) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	for (struct dirent *entry; (entry = readdir(dir));)
		if (name_is_ours(entry->d_name) && unlinkat(state->dir_fd, entry->d_name, 0))
			rc = -errno;
	closedir(dir);
	return rc;
}

/* ---- The engine's head ------------------------------------------------------------------ */

static uint64_t head_checksum(const struct ts_state_head *head)
{
	return XXH3_64bits(head, offsetof(struct ts_state_head, checksum));
}

static int create_head(struct ts_statedir *state, uint64_t now_ns)
{
	char path[4096];
	struct ts_state_head *head;

	int rc = path_of(state, "frames", path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_create(path, ts_frames_map_bytes((uint32_t)TS_FRAME_ID_MAX + 1),
				       &state->frames_map);
	if (!rc)
		rc = path_of(state, "engine", path, sizeof(path));
	/* Last: a folder without it is an empty one. */
	if (!rc)
		rc = ts_mapfile_create(path, sizeof(*head), &state->head_map);
	if (!rc)
		rc = ts_mapfile_reserve(&state->head_map, 0, sizeof(*head));
	if (rc)
		return rc;
	head = state->head = state->head_map.base;
	head->version = TS_STATE_VERSION;
	head->nr_frame_ids = (uint32_t)TS_FRAME_ID_MAX + 1;
	head->tick_start_ns = now_ns;
	rc = ts_sys_boot_id(head->boot);
	if (!rc && getrandom(head->uuid, sizeof(head->uuid), 0) != sizeof(head->uuid))
		rc = ts_fail(-EIO, "getrandom: %m");
	memcpy(head->magic, HEAD_MAGIC, sizeof(head->magic));
	head->checksum = head_checksum(head);
	return rc;
}

/* 1: counts; 0: of another boot, or a process died while it made it: start over. */
static int check_head(const struct ts_statedir *state)
{
	const struct ts_state_head *head = state->head;
	char boot[TS_BOOT_ID_BYTES];
	static const struct ts_state_head blank;

	if (!memcmp(head, &blank, offsetof(struct ts_state_head, tiers)) || !head->checksum)
		return 0;
	if (memcmp(head->magic, HEAD_MAGIC, sizeof(head->magic)) ||
	    head->checksum != head_checksum(head))
		return ts_fail(TS_ECORRUPT, "state folder %s: damaged; what guests have evicted "
			       "can't be found any more: end them, then remove the folder",
			       state->dir);
	if (head->version != TS_STATE_VERSION ||
	    head->nr_frame_ids != (uint32_t)TS_FRAME_ID_MAX + 1)
		return ts_fail(TS_EVERSION, "state folder %s: written by another version (%u, this "
			       "is %d): detach its guests with that one", state->dir,
			       head->version, TS_STATE_VERSION);
	int rc = ts_sys_boot_id(boot);
	return rc ? rc : !memcmp(boot, head->boot, sizeof(boot));
}

/* 1: taken over; 0: there is none. */
static int open_head(struct ts_statedir *state)
{
	char path[4096];

	int rc = path_of(state, "engine", path, sizeof(path));
	if (rc)
		return rc;
	rc = ts_mapfile_open(path, sizeof(*state->head), &state->head_map);
	if (rc == -ENOENT)
		return 0;
	if (rc)
		return rc;
	state->head = state->head_map.base;
	rc = check_head(state);
	if (rc <= 0) {
		ts_mapfile_close(&state->head_map);
		return rc;
	}
	rc = path_of(state, "frames", path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_open(path, ts_frames_map_bytes(state->head->nr_frame_ids),
				     &state->frames_map);
	if (rc)
		return ts_fail(TS_ECORRUPT, "state folder %s: the table of frames is gone: end its "
			       "guests, then remove the folder", state->dir);
	return 1;
}

/* ---- Open and close --------------------------------------------------------------------- */

/* A frame that words name: its tier holds it. */
static void count_frame(void *user, uint32_t id, uint32_t entry)
{
	struct ts_engine *engine = user;

	(void)id;
	ts_tier_count_frame(&engine->tiers[ts_frame_tier(entry)], 1, ts_frame_nr_pages(entry));
}

static int take_over(struct ts_engine *engine)
{
	ts_frames_recount_begin(&engine->frames);
	int rc = ts_images_load(engine);
	if (!rc)
		rc = ts_state_load_regions(engine);
	ts_frames_recount_end(&engine->frames, count_frame, engine);
	engine->next_region_id = atomic_load(&engine->state->head->next_region_id);
	return rc;
}

static int open_folder(struct ts_engine *engine, struct ts_statedir *state)
{
	int rc = lock_folder(state);

	if (!rc)
		rc = open_head(state);
	state->was_there = rc > 0;
	if (!rc)
		rc = empty_folder(state);
	if (!rc)
		rc = create_head(state, ts_now_ns());
	if (rc < 0)
		return rc;
	state->lost_map = ts_sys_alloc_pages(((size_t)TS_FRAME_ID_MAX + 64) / 64 * 8);
	state->orphans = calloc(TS_STATE_ORPHAN_MAX, sizeof(*state->orphans));
	if (!state->lost_map || !state->orphans)
		return ts_fail(-ENOMEM, "state folder %s: out of memory", state->dir);
	rc = ts_frames_init(&engine->frames, state->head->nr_frame_ids, &state->frames_map);
	if (rc)
		return ts_fail(rc, "engine: out of memory");
	engine->tick_start_ns = state->head->tick_start_ns;
	return state->was_there ? take_over(engine) : 0;
}

int ts_state_open(struct ts_engine *engine, const char *dir)
{
	struct ts_statedir *state = calloc(1, sizeof(*state));

	if (!state)
		return ts_fail(-ENOMEM, "engine: out of memory");
	engine->state = state;
	state->dir_fd = state->head_map.fd = state->frames_map.fd = -1;
	state->dir = strdup(dir);
	int rc = state->dir ? open_folder(engine, state) : ts_fail(-ENOMEM, "out of memory");
	if (rc)
		ts_state_close(engine);
	return rc;
}

void ts_state_close(struct ts_engine *engine)
{
	struct ts_statedir *state = engine->state;

	if (!state)
		return;
	ts_frames_finish(&engine->frames);
	ts_mapfile_close(&state->head_map);
	ts_mapfile_close(&state->frames_map);
	ts_sys_free_pages(state->lost_map, ((size_t)TS_FRAME_ID_MAX + 64) / 64 * 8);
	if (state->dir_fd >= 0)
		close(state->dir_fd);
	free(state->orphans);
	free(state->dir);
	free(state);
	engine->state = NULL;
}

/* ---- Tiers ------------------------------------------------------------------------------ */

static uint64_t tier_checksum(const struct ts_state_tier *tier)
{
	return XXH3_64bits(tier, offsetof(struct ts_state_tier, checksum));
}

/* The name is written last of all, and what it says does not change any more. */
static bool tier_is_there(const struct ts_state_tier *tier)
{
	return tier->name[0];
}

/* How large the frames may be that lie there.  A process that died while it wrote that down has
 * left another checksum: then nobody knows, and they may be as large as any. */
static void frame_sizes(const struct ts_state_tier *tier, uint32_t *range_pages,
			uint32_t *frame_max_bytes)
{
	bool is_known = tier->checksum == tier_checksum(tier);

	*range_pages = is_known ? tier->range_pages : (uint32_t)TS_FRAME_PAGES_MAX;
	*frame_max_bytes = is_known ? tier->frame_max_bytes : (uint32_t)TS_FRAME_BYTES_MAX;
}

static void write_tier(struct ts_state_tier *record, const struct ts_state_tier *now)
{
	bool is_new = !tier_is_there(record);

	if (is_new) {
		memcpy(record->name + 1, now->name + 1, sizeof(now->name) - 1);
		memcpy(record->store, now->store, sizeof(now->store));
		record->path_hash = now->path_hash;
	}
	record->range_pages = now->range_pages;
	record->frame_max_bytes = now->frame_max_bytes;
	record->checksum = now->checksum;
	atomic_thread_fence(memory_order_seq_cst);
	record->name[0] = now->name[0];
}

static uint64_t path_hash(const char *path)
{
	return path ? XXH3_64bits(path, strlen(path)) : 0;
}

static int check_tier(const struct ts_statedir *state, const struct ts_state_tier *old,
		      const struct ts_tier_options *options)
{
	const char *what = NULL;

	if (strcmp(old->name, options->name))
		what = "name";
	else if (strcmp(old->store, options->store ? options->store : ""))
		what = "store";
	else if (old->path_hash != path_hash(options->path))
		what = "path";
	if (what)
		return ts_fail(TS_ESTATE, "tier %s: the state folder %s was written with tier %s "
			       "in this place, and its %s is not the same: frames of guests lie "
			       "there.  Put it back, or end the guests and remove the folder",
			       options->name, state->dir, old->name, what);
	return 0;
}

int ts_state_tier_begin(struct ts_engine *engine, const struct ts_tier_options *options,
			char *path, size_t path_bytes, struct ts_tier_state *state_out)
{
	const struct ts_statedir *state = engine->state;
	const struct ts_state_tier *old = &state->head->tiers[engine->nr_tiers];
	char name[32];

	snprintf(name, sizeof(name), "tier-%u", engine->nr_tiers);
	int rc = path_of(state, name, path, path_bytes);
	*state_out = (struct ts_tier_state){ .path = path, .is_resume = tier_is_there(old) };
	if (rc || !state_out->is_resume)
		return rc;
	frame_sizes(old, &state_out->range_pages, &state_out->frame_max_bytes);
	return options->name ? check_tier(state, old, options) : 0;
}

/* ---- What a store holds, against what words name ---------------------------------------- */

struct inventory {
	struct ts_engine *engine;
	unsigned tier;
	uint64_t *seen_map;           /* a bit a frame */
	uint64_t *extra;              /* keys that nobody names */
	size_t nr_extra, extra_max;
	uint32_t dicts[TS_DICT_MAX];  /* ids of those that lie there */
	unsigned nr_dicts;
};

static int add_extra(struct inventory *inventory, uint64_t key)
{
	if (inventory->nr_extra == inventory->extra_max) {
		size_t max = TS_MAX(inventory->extra_max * 2, (size_t)1024);
		uint64_t *extra = realloc(inventory->extra, max * sizeof(*extra));
		if (!extra)
			return -ENOMEM;
		inventory->extra = extra;
		inventory->extra_max = max;
	}
	inventory->extra[inventory->nr_extra++] = key;
	return 0;
}

static int see_key(void *user, uint64_t key)
{
	struct inventory *inventory = user;
	uint32_t id = (uint32_t)key;

	if (key > (uint64_t)TS_KEY_DICT && key <= (uint64_t)TS_KEY_DICT + TS_DICT_MAX) {
		inventory->dicts[inventory->nr_dicts++] = (uint32_t)(key - TS_KEY_DICT);
		return 0;
	}
	uint32_t entry = key && key <= (uint64_t)TS_FRAME_ID_MAX ?
			 ts_frames_load(&inventory->engine->frames, id) : 0;
	if (!ts_frame_is_used(entry) || ts_frame_tier(entry) != inventory->tier)
		return add_extra(inventory, key);
	inventory->seen_map[id / 64] |= UINT64_C(1) << (id % 64);
	return 0;
}

static int delete_extra(struct inventory *inventory)
{
	struct ts_store *store = inventory->engine->tiers[inventory->tier].store;
	int rc = 0;

	for (size_t i = 0; !rc && i < inventory->nr_extra; i += TS_STORE_BATCH_MAX)
		rc = ts_store_del(store, inventory->extra + i,
				  (unsigned)TS_MIN(inventory->nr_extra - i,
						   (size_t)TS_STORE_BATCH_MAX));
	return rc;
}

static uint64_t note_lost(struct inventory *inventory)
{
	struct ts_frames *frames = &inventory->engine->frames;
	uint32_t end = atomic_load(&frames->id_end);
	uint64_t nr_lost = 0;

	for (uint32_t id = 1; id < end; id++) {
		uint32_t entry = ts_frames_load(frames, id);
		if (!ts_frame_is_used(entry) || ts_frame_tier(entry) != inventory->tier ||
		    inventory->seen_map[id / 64] >> (id % 64) & 1)
			continue;
		inventory->engine->state->lost_map[id / 64] |= UINT64_C(1) << (id % 64);
		nr_lost++;
	}
	return nr_lost;
}

/* Frames may need the dictionaries that lie beside them. */
static int load_dicts(struct inventory *inventory)
{
	struct ts_tier *tier = &inventory->engine->tiers[inventory->tier];
	int rc = 0;

	for (unsigned i = 0; !rc && i < inventory->nr_dicts; i++)
		rc = ts_state_load_dict(inventory->engine, tier, inventory->dicts[i]);
	return rc;
}

static int take_inventory(struct ts_engine *engine, struct ts_tier *tier)
{
	size_t map_bytes = ((size_t)TS_FRAME_ID_MAX + 64) / 64 * 8;
	struct inventory inventory = { .engine = engine, .tier = tier->index };

	inventory.seen_map = ts_sys_alloc_pages(map_bytes);
	int rc = inventory.seen_map ? ts_store_list(tier->store, see_key, &inventory) : -ENOMEM;
	if (!rc)
		rc = delete_extra(&inventory);
	if (!rc)
		rc = load_dicts(&inventory);
	uint64_t nr_lost = rc ? 0 : note_lost(&inventory);
	ts_sys_free_pages(inventory.seen_map, map_bytes);
	free(inventory.extra);
	if (nr_lost)
		ts_log(engine, TS_LOG_ERROR, "tier %s: %llu frames that guests need are not in its "
		       "store any more; those guests will be refused", tier->name,
		       (unsigned long long)nr_lost);
	return rc && !ts_last_error()[0] ?
	       ts_fail(rc, "tier %s: %s", tier->name, ts_strerror(rc)) : rc;
}

int ts_state_tier_end(struct ts_engine *engine, struct ts_tier *tier,
		      const struct ts_tier_options *options, bool is_resume)
{
	struct ts_state_tier *record = &engine->state->head->tiers[tier->index];

	ts_set_error(0, "");
	int rc = is_resume ? take_inventory(engine, tier) : 0;
	if (rc)
		return rc;
	/* Of all frames that may lie there, those of processes before the last one, too. */
	uint32_t range_pages = 0, frame_max_bytes;
	if (is_resume)
		frame_sizes(record, &range_pages, &frame_max_bytes);
	struct ts_state_tier now = {
		.path_hash = path_hash(options->path),
		.range_pages = TS_MAX(tier->range_pages, range_pages),
		.frame_max_bytes = tier->frame_max_bytes,
	};
	memcpy(now.name, tier->name, sizeof(now.name));
	snprintf(now.store, sizeof(now.store), "%s", options->store ? options->store : "");
	now.checksum = tier_checksum(&now);
	write_tier(record, &now);
	return 0;
}

int ts_state_check_tiers(struct ts_engine *engine)
{
	const struct ts_statedir *state = engine->state;

	for (unsigned t = engine->nr_tiers; t < TS_TIER_MAX; t++)
		if (tier_is_there(&state->head->tiers[t]))
			return ts_fail(TS_ESTATE, "the state folder %s was written with one more "
				       "tier, %s: frames of guests may lie there.  Put it back, or "
				       "end the guests and remove the folder", state->dir,
				       state->head->tiers[t].name);
	return 0;
}
