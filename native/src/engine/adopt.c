/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt.c — memory of another process comes under the engine's care, and leaves it again
 * (tierstore.h).
 *
 * What the kernel gives us: all ioctls of a userfaultfd act on the memory of the process that made
 * it, whoever calls; reading its messages needs nothing else; pages behind a shared mapping can be
 * read and punched out through the memfd.  MOVE and MADV_DONTNEED can't reach another process, so
 * private anonymous memory can be served and nothing else.
 * What that means here: the addresses in the extents are another process's.  Nothing but the ioctls
 * of its userfaultfd may ever get them: no load, no madvise(), no process_vm_readv().
 * What can go wrong: the other process may die, unregister, or change the open file's flags at any
 * moment, or have told us something else than the kernel.  Then ioctls say ESRCH or ENOENT; pages
 * become GONE, evictions are given back, and the region lies there until it is dropped.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/adopt.h"
#include "engine/life.h"
#include "engine/state.h"
#include "engine/tool.h"
#include "os/handed.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "track/track.h"

enum { GUARD_SCANS = 2 };

/* ---- What was handed over --------------------------------------------------------------- */

static int check_is_new(struct ts_engine *engine, const struct ts_region *adopted)
{
	for (unsigned r = 0; r < TS_REGION_MAX; r++) {
		struct ts_region *region = engine->regions[r];
		if (region && region->is_remote &&
		    ts_handed_is_same(region->shards[0].uffd, adopted->shards[0].uffd))
			return ts_fail(TS_EREGISTERED, "%s: this userfaultfd is adopted already, "
				       "as %s", adopted->name, region->name);
	}
	return 0;
}

static int take_uffd(struct ts_region *region, int uffd, uint64_t *features)
{
	int rc = ts_handed_features(uffd, features);

	if (rc)
		return ts_fail(rc == -EINVAL ? TS_ECONFIG : rc, "%s: descriptor %d is %s",
			       region->name, uffd, rc == -EBADF ? "not open" :
			       "not a userfaultfd, or UFFDIO_API was never called on it");
	if (*features & UFFD_FEATURE_SIGBUS)
		return ts_fail(TS_EUNSUPPORTED, "%s: the userfaultfd has UFFD_FEATURE_SIGBUS, "
			       "which sends signals in place of messages", region->name);
	region->shards[0].uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 3);
	if (region->shards[0].uffd < 0)
		return ts_fail(-errno, "%s: dup of the userfaultfd: %m", region->name);
	rc = ts_handed_unblock(region->shards[0].uffd);
	return rc ? ts_fail(rc, "%s: O_NONBLOCK: %s", region->name, ts_strerror(rc)) : 0;
}

static void note_nothing(void *user, uint64_t addr, uint64_t len_bytes)
{
	(void)user;
	(void)addr;
	(void)len_bytes;
}

/* A page table that can't be scanned (older kernel, not permitted) is as good as none. */
static int take_pagemap(struct ts_region *region, int fd, uint64_t addr)
{
	static const struct ts_scan_filter any = { .anyof = PAGE_IS_PRESENT };

	if (fd < 0)
		return 0;
	if (!ts_handed_is_pagemap(fd))
		return ts_fail(TS_ECONFIG, "%s: pagemap_fd %d is not /proc/PID/pagemap",
			       region->name, fd);
	if (ts_pagemap_scan(fd, addr, TS_PAGE_BYTES, &any, note_nothing, NULL))
		return 0;
	region->pagemap_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return region->pagemap_fd < 0 ?
	       ts_fail(-errno, "%s: dup of the pagemap: %m", region->name) : 0;
}

static bool is_punchable(const struct ts_remote_range *range)
{
	return ts_handed_backing(range->backing_fd, 0) == TS_BACKING_FULL;
}

/* ---- Adopt ------------------------------------------------------------------------------ */

static struct ts_region *create(struct ts_engine *engine, const struct ts_adopt_options *options,
				const char *name)
{
	struct ts_region *region = calloc(1, sizeof(*region));

	if (!region)
		return NULL;
	region->engine = engine;
	region->id = ++engine->next_region_id;
	region->is_remote = true;
	region->memfd = region->pagemap_fd = -1;
	region->serve = TS_SERVE_MESSAGE;
	region->restore = (enum ts_restore)options->restore;
	region->guard_scans = options->guard_scans ? options->guard_scans : GUARD_SCANS;
	region->share_weight = options->share_weight;
	region->tracker = &ts_tracker_none_ops;
	snprintf(region->name, sizeof(region->name), "%s", name);
	region->nr_shards = 1;
	region->shards[0] = (struct ts_shard){ .region = region, .uffd = -1,
					       .window_lock = PTHREAD_MUTEX_INITIALIZER };
	return region;
}

/* Undoes add_pages(): nobody has seen pages that are not counted yet. */
static void remove_pages(struct ts_region *region, const struct ts_remote_range *range,
			 uint32_t first_page)
{
	if (range->backing_fd < 0)
		return;
	close(region->backings[atomic_fetch_sub(&region->nr_backings, 1) - 1].fd);
	region->memfd = first_page ? region->memfd : -1;
}

/* A range's pages get their place at the end of the region, and their descriptor; not yet an
 * address. */
static int add_pages(struct ts_region *region, const struct ts_remote_range *range,
		     uint32_t first_page)
{
	uint32_t nr_pages = (uint32_t)(range->len_bytes >> TS_PAGE_SHIFT);

	/* What an earlier process knew of them stands there. */
	bool is_known = first_page + nr_pages <= region->nr_resumed;
	for (uint32_t page = first_page; page < first_page + nr_pages && !is_known; page++)
		atomic_store_explicit(&region->words[page], ts_word_make(TS_ZERO, 0, 0),
				      memory_order_relaxed);
	if (range->backing_fd < 0)
		return region->pagemap_fd < 0 || is_known ? 0 :
		       ts_life_populate_anon(region, range->addr, first_page, nr_pages);
	int fd = fcntl(range->backing_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return ts_fail(-errno, "%s: dup of the memfd: %m", region->name);
	if (region->memfd < 0)
		region->memfd = fd;
	ts_region_add_backing(region, first_page, nr_pages, fd, range->backing_offset);
	int rc = is_known ? 0 : ts_life_populate_shared(region, first_page, nr_pages);
	if (rc)
		remove_pages(region, range, first_page);
	return rc;
}

static void add_extent(struct ts_region *region, const struct ts_remote_range *range,
		       uint32_t first_page)
{
	struct ts_shard *shard = &region->shards[0];
	uint32_t nr_pages = (uint32_t)(range->len_bytes >> TS_PAGE_SHIFT);

	ts_gate_close(&shard->gate);
	shard->extents[shard->nr_extents++] =
		(struct ts_extent){ range->addr, first_page, nr_pages };
	atomic_store(&region->nr_pages, first_page + nr_pages);
	ts_gate_reopen(&shard->gate);
}

/* What is written down before there are pages, and not if there are none in the end. */
static int add_new_pages(struct ts_region *region, const struct ts_remote_range *range,
			 bool is_served)
{
	uint32_t first_page = region->nr_pages;
	int rc = ts_adopt_grow(region, range);

	if (rc)
		return rc;
	rc = add_pages(region, range, first_page);
	if (!rc && is_served) {
		rc = ts_state_check_marks(region, false);
		if (rc)
			remove_pages(region, range, first_page);
	}
	if (rc)
		ts_adopt_shrink(region);
	return rc;
}

/* Checked, registered, populated, and at its place. */
static int add_range(struct ts_region *region, const struct ts_remote_range *range, bool is_served)
{
	uint32_t first_page = region->nr_pages;

	/* Ranges that came while nobody served are not written down yet. */
	bool is_new = is_served || (region->nr_resumed && first_page >= region->nr_resumed);
	int rc = ts_adopt_check_registered(region, range);
	if (!rc)
		rc = ts_adopt_check_mapping(range, region->pagemap_fd, region->name);
	if (!rc)
		rc = is_new ? add_new_pages(region, range, is_served) :
		     add_pages(region, range, first_page);
	if (rc > -10000 && rc < 0)
		ts_fail(rc, "%s: %s", region->name, ts_strerror(rc));
	if (!rc)
		add_extent(region, range, first_page);
	return rc;
}

/* All ranges, before anything is done with them. */
static int check_ranges(struct ts_region *region, const struct ts_remote_range *ranges,
			unsigned nr_ranges, uint64_t *len_bytes)
{
	struct ts_shard *shard = &region->shards[0];
	uint64_t max_bytes = (uint64_t)TS_FRAME_ID_MAX << TS_PAGE_SHIFT;
	int rc = 0;

	*len_bytes = 0;
	for (unsigned i = 0; i < nr_ranges && !rc; i++) {
		rc = ts_adopt_check_range(&ranges[i], region->name);
		if (!rc && (ranges[i].len_bytes > max_bytes ||
			    (*len_bytes += ranges[i].len_bytes) > max_bytes))
			rc = ts_fail(TS_ELIMIT, "%s: at most 512 GiB a region", region->name);
		region->memfd = i ? region->memfd : ranges[i].backing_fd;
		if (!rc)
			rc = ts_adopt_check_against(region, &ranges[i]);
		if (!rc)
			shard->extents[shard->nr_extents++] = (struct ts_extent){
				ranges[i].addr, 0, (uint32_t)(ranges[i].len_bytes >> TS_PAGE_SHIFT)
			};
	}
	shard->nr_extents = 0;
	region->memfd = -1;
	return rc;
}

static int init_tables(struct ts_region *region, uint64_t len_bytes, uint64_t len_max_bytes)
{
	uint32_t nr_pages_max = (uint32_t)(TS_MAX(len_bytes, len_max_bytes) >> TS_PAGE_SHIFT);

	if (region->state.base)
		nr_pages_max = region->nr_pages_max;

	region->pages_per_shard = (nr_pages_max + TS_CHUNK_PAGES - 1) / TS_CHUNK_PAGES *
				  TS_CHUNK_PAGES;
	int rc = ts_region_pages_init(region, 0, nr_pages_max, region->engine->secret);
	region->marks = rc ? NULL : ts_sys_alloc_pages((size_t)nr_pages_max / 8 + 8);
	return rc || !region->marks ?
	       ts_fail(-ENOMEM, "%s: no memory for its page table", region->name) : 0;
}

static int open_region(struct ts_engine *engine, struct ts_region *region,
		       const struct ts_adopt_options *options, struct ts_remote_range *ranges)
{
	uint32_t modes = options->modes;
	uint64_t features, len_bytes;
	bool can_punch = true;

	int rc = check_ranges(region, ranges, options->nr_ranges, &len_bytes);
	if (!rc)
		rc = take_uffd(region, options->uffd, &features);
	if (!rc)
		rc = check_is_new(engine, region);
	if (!rc)
		rc = ts_adopt_claim(engine, region, options, ranges, len_bytes);
	if (!rc)
		rc = init_tables(region, len_bytes, options->len_max_bytes);
	if (!rc)
		rc = take_pagemap(region, options->pagemap_fd, ranges[0].addr);
	if (rc)
		return rc;
	/* A manager before us may have died in a window, in which the kernel says that the
	 * userfaultfd is not asynchronous. */
	if (modes & TS_MODE_RWP && region->nr_resumed &&
	    !ts_uffd_set_sync(region->shards[0].uffd, false))
		features |= UFFD_FEATURE_RWP_ASYNC;
	modes = ts_adopt_true_modes(modes, features);
	region->uffd_modes =
		ts_adopt_uffd_modes(modes, features, ranges[0].backing_fd >= 0);
	for (unsigned i = 0; i < options->nr_ranges && !rc; i++) {
		rc = add_range(region, &ranges[i], false);
		can_punch &= ranges[i].backing_fd >= 0 && is_punchable(&ranges[i]);
	}
	region->memory = region->memfd >= 0 ? &ts_memory_memfd_ops : &ts_memory_anon_ops;
	ts_adopt_judge(region, modes, can_punch);
	return rc ? rc : ts_adopt_learn(engine, region);
}

static void wake_all(struct ts_region *region)
{
	struct ts_shard *shard = &region->shards[0];

	/* Whoever's message a manager before us has read sends another. */
	ts_gate_share(&shard->gate);
	for (unsigned i = 0; i < shard->nr_extents; i++)
		(void)ts_uffd_wake(shard->uffd, shard->extents[i].addr,
				   (uint64_t)shard->extents[i].nr_pages << TS_PAGE_SHIFT);
	ts_gate_unshare(&shard->gate);
}

static void copy_range(struct ts_remote_range *out, const void *in)
{
	size_t size;

	memcpy(&size, in, sizeof(size));
	*out = (struct ts_remote_range){ .backing_fd = -1 };
	memcpy(out, in, TS_MIN(size, sizeof(*out)));
}

int ts_region_adopt(struct ts_engine *engine, const struct ts_adopt_options *options,
		    struct ts_region **region_out)
{
	struct ts_adopt_options known = { .uffd = -1, .pagemap_fd = -1 };
	struct ts_remote_range ranges[TS_EXTENT_MAX];
	char name[64];

	if (options->size < sizeof(options->size))
		return ts_fail(TS_EVERSION, "ts_adopt_options.size is %zu: set it to sizeof the "
			       "struct", options->size);
	memcpy(&known, options, TS_MIN(options->size, sizeof(known)));
	TS_SCOPED_LOCK(&engine->control);
	if (known.name)
		snprintf(name, sizeof(name), "%s", known.name);
	else
		snprintf(name, sizeof(name), "region%u", engine->next_region_id + 1);
	int rc = ts_adopt_check_options(engine, &known, name);
	if (rc)
		return rc;
	for (unsigned i = 0; i < known.nr_ranges; i++)
		copy_range(&ranges[i], (const char *)known.ranges + i * known.ranges->size);
	struct ts_region *region = create(engine, &known, name);
	if (!region)
		return ts_fail(-ENOMEM, "%s: out of memory", name);
	rc = open_region(engine, region, &known, ranges);
	if (rc) {
		/* Its memory stays registered, as it was. */
		ts_state_region_undo(engine, region);
		ts_life_destroy(region);
		return rc;
	}
	rc = ts_life_serve(engine, region);
	if (rc) {
		ts_life_release(engine, region);
		ts_state_region_undo(engine, region);
		ts_life_destroy(region);
		return rc;
	}
	if (region->nr_resumed)
		ts_adopt_unprotect(region);
	wake_all(region);
	ts_log(engine, TS_LOG_INFO, "%s: adopted, %u pages, tracker %s, memory %s%s%s", name,
	       (unsigned)region->nr_pages, region->tracker->name, region->memory->name,
	       region->limits[0] ? "; " : "", region->limits);
	*region_out = region;
	return 0;
}

static int check_room(const struct ts_region *region, const struct ts_remote_range *range)
{
	uint32_t nr_left = region->nr_pages_max - region->nr_pages;

	if (range->len_bytes >> TS_PAGE_SHIFT > nr_left)
		return ts_fail(TS_ELIMIT, "%s: room for %u more pages only: adopt it with a larger "
			       "len_max_bytes", region->name, nr_left);
	if (atomic_load(&region->nr_backings) == TS_EXTENT_MAX)
		return ts_fail(TS_ELIMIT, "%s: at most %d ranges", region->name, TS_EXTENT_MAX);
	if (region->abilities & TS_CAN_EVICT && !is_punchable(range))
		return ts_fail(TS_EBACKING, "%s: the memfd of the added range can't be punched, "
			       "those of the others can", region->name);
	return 0;
}

int ts_region_add_range(struct ts_region *region, const struct ts_remote_range *range)
{
	struct ts_remote_range known;

	if (!region->is_remote)
		return ts_fail(TS_ECONFIG, "%s: not an adopted region", region->name);
	if (range->size < sizeof(size_t))
		return ts_fail(TS_EVERSION, "ts_remote_range.size is %zu: set it to sizeof the "
			       "struct", range->size);
	copy_range(&known, range);
	TS_SCOPED_LOCK(&region->engine->control);
	int rc = ts_adopt_check_range(&known, region->name);
	if (!rc)
		rc = ts_adopt_check_against(region, &known);
	if (!rc)
		rc = check_room(region, &known);
	if (!rc)
		rc = add_range(region, &known, true);
	if (rc)
		return rc;
	wake_all(region);
	ts_log(region->engine, TS_LOG_INFO, "%s: %" PRIu64 " pages added, now %u", region->name,
	       known.len_bytes >> TS_PAGE_SHIFT, (unsigned)region->nr_pages);
	return 0;
}

uint32_t ts_region_abilities(struct ts_region *region)
{
	return region->abilities;
}

const char *ts_region_limits(struct ts_region *region)
{
	return region->limits;
}

/* ---- Drop ------------------------------------------------------------------------------- */

bool ts_adopt_is_gone(struct ts_region *region)
{
	struct ts_shard *shard = &region->shards[0];

	return region->is_remote && ts_handed_probe(shard->uffd, shard->extents[0].addr) == -ESRCH;
}

void ts_adopt_drop(struct ts_region *region)
{
	struct ts_engine *engine = region->engine;

	atomic_store(&region->is_dropped, true);
	ts_life_drain(engine, region);
	ts_life_release(engine, region);
	ts_state_region_drop(engine, region);
	ts_life_drop_frames(engine, region);
	ts_life_add_past(engine, region);
	ts_log(engine, TS_LOG_INFO, "%s: dropped", region->name);
	ts_life_destroy(region);
}

int ts_region_drop(struct ts_region *region)
{
	if (!region->is_remote)
		return ts_fail(TS_ECONFIG, "%s: not an adopted region: detach it", region->name);
	TS_SCOPED_LOCK(&region->engine->control);
	ts_adopt_drop(region);
	return 0;
}
