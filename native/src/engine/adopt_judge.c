/* SPDX-License-Identifier: Apache-2.0
 * adopt_judge.c — what can be done with memory of another process, by how it was registered
 * (adopt.h). */
#include <string.h>

#include "engine/adopt.h"
#include "os/sys.h"
#include "track/track.h"

/* MINOR is ours to add: it changes nothing but who maps a page. */
uint64_t ts_adopt_uffd_modes(uint32_t modes, uint64_t features, bool is_shared)
{
	uint64_t uffd_modes = UFFDIO_REGISTER_MODE_MISSING;

	if (modes & (TS_MODE_WP | TS_MODE_WP_ASYNC))
		uffd_modes |= UFFDIO_REGISTER_MODE_WP;
	if (modes & TS_MODE_RWP)
		uffd_modes |= UFFDIO_REGISTER_MODE_RWP;
	if (modes & TS_MODE_RWP && features & UFFD_FEATURE_MINOR_SHMEM && is_shared)
		uffd_modes |= UFFDIO_REGISTER_MODE_MINOR;
	return uffd_modes;
}

/* What was agreed on with the kernel counts, not what was said. */
uint32_t ts_adopt_true_modes(uint32_t modes, uint64_t features)
{
	if (features & UFFD_FEATURE_WP_ASYNC && modes & TS_MODE_WP)
		modes |= TS_MODE_WP_ASYNC;
	modes &= ~(uint32_t)TS_MODE_RWP_ASYNC;
	if (features & UFFD_FEATURE_RWP_ASYNC && modes & TS_MODE_RWP)
		modes |= TS_MODE_RWP_ASYNC;
	return modes;
}

static void add_limit(struct ts_region *region, const char *text)
{
	size_t used = strlen(region->limits);

	snprintf(region->limits + used, sizeof(region->limits) - used, "%s%s", used ? "; " : "",
		 text);
}

/* Without MINOR beside it pages that are not mapped could be touched unseen (memory/memfd_rwp.c);
 * anonymous memory has none of these. */
static void judge_rwp(struct ts_region *region, uint32_t modes, bool can_punch)
{
	bool is_shared = region->memfd >= 0;

	if (region->pagemap_fd < 0) {
		add_limit(region, "not tracked: what was accessed is read from the process's "
			  "pagemap, which was not given or can't be scanned");
	} else if (!(modes & TS_MODE_RWP_ASYNC)) {
		add_limit(region, "not tracked: the userfaultfd has no UFFD_FEATURE_RWP_ASYNC, so "
			  "every access would wait for a message");
	} else if (!is_shared) {
		region->tracker = &ts_tracker_rwp_ops;
		region->abilities |= TS_CAN_TRACK;
	} else if (!(region->uffd_modes & UFFDIO_REGISTER_MODE_MINOR)) {
		add_limit(region, "not tracked: the userfaultfd has no UFFD_FEATURE_MINOR_SHMEM, "
			  "so pages that are not mapped could be touched unseen");
	} else {
		region->tracker = &ts_tracker_rwp_memfd_ops;
		region->abilities |= TS_CAN_TRACK | (can_punch ? TS_CAN_EVICT : 0);
		region->memory = &ts_memory_memfd_rwp_ops;
	}
}

/* The table of tierstore.h, with reasons. */
void ts_adopt_judge(struct ts_region *region, uint32_t modes, bool can_punch)
{
	bool is_shared = region->memfd >= 0, has_table = region->pagemap_fd >= 0;

	region->tracker = &ts_tracker_none_ops;
	region->abilities = TS_CAN_SERVE;
	if (modes & TS_MODE_RWP) {
		judge_rwp(region, modes, can_punch);
	} else if (modes & TS_MODE_WP_ASYNC) {
		if (has_table) {
			region->tracker = &ts_tracker_wp_ops;
			region->abilities |= TS_CAN_TRACK;
		} else {
			add_limit(region, "not tracked: asynchronous write protection is read from "
				  "the process's pagemap, which was not given or can't be scanned");
		}
		add_limit(region, "not evicted: WP_ASYNC lets a write through between read and "
			  "punch, which would lose it; register without it");
	} else if (modes & TS_MODE_WP && is_shared && can_punch) {
		region->tracker = &ts_tracker_wp_sync_ops;
		region->abilities |= TS_CAN_TRACK | TS_CAN_EVICT;
	} else if (!(modes & TS_MODE_WP)) {
		add_limit(region, "served only: registered for missing pages alone, so nothing "
			  "stops a write to a page that is leaving; register for WP, too");
	}
	if (is_shared && !can_punch)
		add_limit(region, "not evicted: the memfd is sealed against writing, or was handed "
			  "over read-only, so no hole can be punched");
	if (!is_shared)
		add_limit(region, "not evicted: private anonymous memory, which only its own "
			  "process can give back; use shared memory (a memfd)");
}
