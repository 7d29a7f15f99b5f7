/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt_check.c — is what another process hands over what it says?  (adopt.h)
 *
 * Sizes and offsets are checked by us.  What is registered where only the kernel knows: a COPY from
 * memory that can't be read says whether somebody has registered the range, and changes nothing; we
 * do not register what its owner has not.  Registering it once more in the same modes then tells
 * whether that was the owner of this userfaultfd, and is nothing new to the kernel.
 */
#include <errno.h>
#include <inttypes.h>

#include "engine/adopt.h"
#include "os/handed.h"
#include "os/sys.h"
#include "os/uffd.h"

enum { MODES = TS_MODE_RWP_ASYNC * 2 - 1 };

/* ---- What was handed over --------------------------------------------------------------- */

int ts_adopt_check_options(struct ts_engine *engine, const struct ts_adopt_options *options,
			   const char *name)
{
	if (!engine->is_started)
		return ts_fail(TS_ESTATE, "%s: start the engine before regions are adopted", name);
	if (options->tracker != TS_TRACKER_AUTO)
		return ts_fail(TS_ECONFIG, "%s: the registration decides about the tracker: leave "
			       "it at auto", name);
	if (options->restore > TS_RESTORE_RANGE || options->guard_scans > TS_HEAT_GUARD_MAX)
		return ts_fail(TS_ECONFIG, "%s: restore or guard_scans out of range", name);
	if (options->modes & (TS_MODE_WP | TS_MODE_WP_ASYNC) && options->modes & TS_MODE_RWP)
		return ts_fail(TS_ECONFIG, "%s: modes 0x%x: memory is registered for WP or for "
			       "RWP, not both", name, options->modes);
	if (options->modes & ~(uint32_t)MODES || !(options->modes & TS_MODE_MISSING))
		return ts_fail(TS_ECONFIG, "%s: modes 0x%x: memory is served if it was registered "
			       "for missing pages (UFFDIO_REGISTER_MODE_MISSING)", name,
			       options->modes);
	if (!options->ranges || !options->nr_ranges || options->nr_ranges > TS_EXTENT_MAX)
		return ts_fail(TS_ECONFIG, "%s: %u ranges: needs 1 to %d", name,
			       options->nr_ranges, TS_EXTENT_MAX);
	if (options->ranges->size < sizeof(size_t) || options->ranges->size > 4096)
		return ts_fail(TS_EVERSION, "%s: ts_remote_range.size is %zu: set it to sizeof the "
			       "struct", name, options->ranges->size);
	if (options->len_max_bytes % TS_PAGE_BYTES ||
	    options->len_max_bytes >> TS_PAGE_SHIFT > (uint64_t)TS_FRAME_ID_MAX)
		return ts_fail(TS_ECONFIG, "%s: len_max_bytes: whole pages, less than 512 GiB",
			       name);
	return 0;
}

static int check_backing(const struct ts_remote_range *range, const char *name)
{
	uint64_t end_bytes = range->backing_offset + range->len_bytes;

	switch (ts_handed_backing(range->backing_fd, end_bytes)) {
	case TS_BACKING_FULL:
	case TS_BACKING_READ_ONLY:
		return 0;
	case TS_BACKING_CLOSED:
		return ts_fail(-EBADF, "%s: backing_fd %d is no open descriptor", name,
			       range->backing_fd);
	case TS_BACKING_NONE:
		return ts_fail(TS_EBACKING, "%s: backing_fd %d is no memfd", name,
			       range->backing_fd);
	case TS_BACKING_HUGE:
		return ts_fail(TS_EBACKING, "%s: backing_fd %d has huge pages; use a memfd without "
			       "(transparent huge pages are fine)", name, range->backing_fd);
	case TS_BACKING_SHORT:
		break;
	}
	return ts_fail(TS_EBACKING, "%s: backing_fd %d ends before offset 0x%" PRIx64, name,
		       range->backing_fd, end_bytes);
}

int ts_adopt_check_range(const struct ts_remote_range *range, const char *name)
{
	if (!range->len_bytes || (range->addr | range->len_bytes | range->backing_offset) %
					 TS_PAGE_BYTES)
		return ts_fail(TS_EALIGN, "%s: range 0x%" PRIx64 " + 0x%" PRIx64 " at offset 0x%"
			       PRIx64 ": must be whole pages of %d bytes", name, range->addr,
			       range->len_bytes, range->backing_offset, TS_PAGE_BYTES);
	if (range->addr + range->len_bytes < range->addr ||
	    range->backing_offset + range->len_bytes < range->len_bytes ||
	    range->backing_offset + range->len_bytes > INT64_MAX)
		return ts_fail(TS_ECONFIG, "%s: range 0x%" PRIx64 " + 0x%" PRIx64 " at offset 0x%"
			       PRIx64 " wraps around", name, range->addr, range->len_bytes,
			       range->backing_offset);
	return range->backing_fd >= 0 ? check_backing(range, name) : 0;
}

static int check_extents(const struct ts_region *region, const struct ts_remote_range *range)
{
	const struct ts_shard *shard = &region->shards[0];

	for (unsigned i = 0; i < shard->nr_extents; i++) {
		const struct ts_extent *extent = &shard->extents[i];
		uint64_t end = extent->addr + ((uint64_t)extent->nr_pages << TS_PAGE_SHIFT);
		if (range->addr < end && extent->addr < range->addr + range->len_bytes)
			return ts_fail(TS_EOVERLAP, "%s: ranges overlap at 0x%" PRIx64,
				       region->name, TS_MAX(range->addr, extent->addr));
	}
	if (shard->nr_extents == TS_EXTENT_MAX)
		return ts_fail(TS_ELIMIT, "%s: at most %d ranges", region->name, TS_EXTENT_MAX);
	return 0;
}

int ts_adopt_check_against(struct ts_region *region, const struct ts_remote_range *range)
{
	struct ts_shard *shard = &region->shards[0];

	if (shard->nr_extents && (range->backing_fd < 0) != (region->memfd < 0))
		return ts_fail(TS_ECONFIG, "%s: all ranges have a memfd, or none has",
			       region->name);
	ts_gate_share(&shard->gate);
	int rc = check_extents(region, range);
	ts_gate_unshare(&shard->gate);
	return rc;
}

/* ---- What the kernel says about it ------------------------------------------------------ */

static int refuse_range(int rc, const struct ts_region *region,
			const struct ts_remote_range *range)
{
	const char *why = "can't be served";
	int code = TS_EBACKING;

	if (rc == -ESRCH) {
		why = "its process is gone";
		code = TS_ESTATE;
	} else if (rc == -EBUSY) {
		why = "another userfaultfd is registered there, or with other modes";
		code = TS_EREGISTERED;
	} else if (rc == -ENOENT) {
		why = "is not registered with this userfaultfd, or not all of it";
	} else if (rc != -EINVAL && rc != -EPERM) {
		code = rc;
	}
	return ts_fail(code, "%s: range 0x%" PRIx64 " + 0x%" PRIx64 ": %s (%s)", region->name,
		       range->addr, range->len_bytes, why, ts_strerror(rc));
}

int ts_adopt_check_registered(const struct ts_region *region, const struct ts_remote_range *range)
{
	uint64_t modes = region->uffd_modes;
	int uffd = region->shards[0].uffd;
	int rc = ts_handed_probe(uffd, range->addr);

	if (!rc)
		rc = ts_handed_probe(uffd, range->addr + range->len_bytes - TS_PAGE_BYTES);
	if (!rc)
		rc = ts_uffd_register(uffd, range->addr, range->len_bytes, modes);
	/* Whatever a manager before us left behind: nothing is being evicted now. */
	if (!rc && modes & UFFDIO_REGISTER_MODE_WP)
		rc = ts_uffd_protect(uffd, range->addr, range->len_bytes, false);
	else if (!rc && modes & UFFDIO_REGISTER_MODE_RWP)
		rc = ts_uffd_rwprotect(uffd, range->addr, range->len_bytes, false);
	rc = rc == -EAGAIN ? 0 : rc;
	return rc ? refuse_range(rc, region, range) : 0;
}
