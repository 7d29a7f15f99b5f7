/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt_state.c — another process's memory that was served by a process before us, or that begins
 * as an image (adopt.h).
 *
 * That process may have died at any moment.  Guards of its evictions are still on the pages, faults
 * that it had read have no answer: once the words are right, all protection is lifted, and
 * everybody is woken; who still waits for something asks again.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "engine/adopt.h"
#include "engine/image.h"
#include "engine/life.h"
#include "engine/state.h"
#include "os/uffd.h"

enum { UNPROTECT_TRIES = 2000 };

static struct ts_state_range state_range(const struct ts_remote_range *range)
{
	return (struct ts_state_range){
		.addr = range->addr, .len_bytes = range->len_bytes,
		.backing_offset = range->backing_offset, .is_memfd = range->backing_fd >= 0,
	};
}

/* In the order in which the pages are numbered. */
static void order_ranges(struct ts_remote_range *ranges, const struct ts_state_range *order,
			 unsigned nr_ranges)
{
	for (unsigned i = 0; i < nr_ranges; i++)
		for (unsigned k = i; k < nr_ranges; k++)
			if (ranges[k].addr == order[i].addr) {
				struct ts_remote_range found = ranges[k];
				ranges[k] = ranges[i];
				ranges[i] = found;
				break;
			}
}

/* Page n of the region is page n of the image. */
static int find_image(struct ts_engine *engine, struct ts_region *region, const char *name,
		      const struct ts_remote_range *ranges, unsigned nr_ranges)
{
	struct ts_image *image = ts_image_find(engine, name);
	uint64_t len_bytes = 0;

	if (!image)
		return ts_fail(TS_ENOTFOUND, "%s: there is no image %s: import it first",
			       region->name, name);
	for (unsigned i = 0; i < nr_ranges; i++) {
		if (ranges[i].backing_fd < 0 && ranges[i].backing_offset != len_bytes)
			return ts_fail(TS_ECONFIG, "%s: the ranges of a region that begins as an "
				       "image come in the order of their offsets, without gaps",
				       region->name);
		len_bytes += ranges[i].len_bytes;
	}
	if (len_bytes >> TS_PAGE_SHIFT != image->nr_pages)
		return ts_fail(TS_ECONFIG, "%s: has %llu pages, the image %s has %u", region->name,
			       (unsigned long long)(len_bytes >> TS_PAGE_SHIFT), name,
			       image->nr_pages);
	region->image_id = image->id;
	return 0;
}

static int claim_words(struct ts_engine *engine, struct ts_region *region,
		       const struct ts_adopt_options *options, struct ts_remote_range *ranges,
		       uint64_t len_bytes)
{
	struct ts_state_range order[TS_EXTENT_MAX];
	struct ts_state_claim claim = {
		.identity = options->identity, .ranges = order, .nr_ranges = options->nr_ranges,
		.nr_pages = (uint32_t)(len_bytes >> TS_PAGE_SHIFT), .image_id = region->image_id,
	};

	if (!engine->state || !options->name)
		return ts_fail(TS_ECONFIG, "%s: a persistent region needs a name, and an engine "
			       "with a state_dir", region->name);
	claim.nr_pages_max = TS_MAX(claim.nr_pages,
				    (uint32_t)(options->len_max_bytes >> TS_PAGE_SHIFT));
	for (unsigned i = 0; i < options->nr_ranges; i++)
		order[i] = state_range(&ranges[i]);
	int rc = ts_state_region_claim(engine, region, &claim);
	if (rc)
		return rc;
	order_ranges(ranges, order, options->nr_ranges);
	region->nr_pages_max = claim.nr_pages_max;
	region->nr_resumed = claim.nr_resumed;
	if (region->image_id && !ts_image_of(engine, region->image_id))
		return ts_fail(TS_ECORRUPT, "%s: the image that it began as is gone", region->name);
	return 0;
}

int ts_adopt_claim(struct ts_engine *engine, struct ts_region *region,
		   const struct ts_adopt_options *options, struct ts_remote_range *ranges,
		   uint64_t len_bytes)
{
	int rc = options->image ?
		 find_image(engine, region, options->image, ranges, options->nr_ranges) : 0;

	return rc || !options->is_persistent ? rc :
	       claim_words(engine, region, options, ranges, len_bytes);
}

int ts_adopt_grow(struct ts_region *region, const struct ts_remote_range *range)
{
	struct ts_state_range added = state_range(range);
	uint32_t nr_pages = region->nr_pages + (uint32_t)(range->len_bytes >> TS_PAGE_SHIFT);

	return region->state.base ?
	       ts_state_region_grow(region->engine, region, &added, nr_pages) : 0;
}

void ts_adopt_shrink(struct ts_region *region)
{
	if (region->state.base)
		ts_state_region_shrink(region);
}

int ts_adopt_learn(struct ts_engine *engine, struct ts_region *region)
{
	struct ts_image *image = region->image_id ? ts_image_of(engine, region->image_id) : NULL;
	int rc = ts_state_check_marks(region, region->nr_resumed > 0);

	if (!rc && region->nr_resumed)
		rc = ts_state_region_resolve(engine, region);
	if (rc || !image)
		return rc;
	if (region->nr_resumed)
		ts_image_record(region);
	else
		ts_image_begin(engine, region, image);
	return 0;
}

void ts_adopt_unprotect(struct ts_region *region)
{
	struct ts_shard *shard = &region->shards[0];

	if (!(region->uffd_modes & UFFDIO_REGISTER_MODE_WP))
		return;
	for (unsigned i = 0, tries = 0; tries < UNPROTECT_TRIES; tries++) {
		ts_gate_share(&shard->gate);
		int rc = i < shard->nr_extents ?
			 ts_uffd_protect(shard->uffd, shard->extents[i].addr,
					 (uint64_t)shard->extents[i].nr_pages << TS_PAGE_SHIFT,
					 false) : -ENOENT;
		bool is_over = i >= shard->nr_extents;
		ts_gate_unshare(&shard->gate);
		if (is_over)
			return;
		/* An event is in the way: it is being read.  A guard that stays after all is lifted
		 * when somebody writes there. */
		if (rc == -EAGAIN)
			sched_yield();
		else
			i++;
	}
}

void ts_adopt_leave(struct ts_region *region)
{
	struct ts_engine *engine = region->engine;

	ts_life_drain(engine, region);
	ts_life_release(engine, region);
	ts_life_add_past(engine, region);
	ts_log(engine, TS_LOG_INFO, "%s: left as it is, for the next process", region->name);
	ts_state_region_leave(engine, region);
	ts_life_destroy(region);
}
