/* SPDX-License-Identifier: Apache-2.0
 * pagemap.c — PAGEMAP_SCAN (pagemap.h). */
#include "os/pagemap.h"

#include "os/sys.h"
#include "util/base.h"

/* Runs a call: 6 KiB of stack, and half of what the kernel collects before it copies.  With more
 * than 512 it tells the last of them twice (Linux 6.18: a second round that comes to the range's
 * end leaves walk_end where the first one stopped), and 512 are no faster (bench/README.md). */
enum { RUNS_MAX = 256 };

int ts_pagemap_open(void)
{
	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : -errno;
}

/* The ioctl returns the number of regions, which ts_sys_ioctl() does not hand on. */
static long scan_once(int fd, struct pm_scan_arg *arg)
{
	if (TS_INJECT(TS_SITE_IOCTL_SCAN))
		return -errno;
	long nr_runs = ioctl(fd, PAGEMAP_SCAN, arg);
	return nr_runs < 0 ? -errno : nr_runs;
}

/* Inline, for where touches are spread each page is a run. */
static inline __attribute__((always_inline)) int
scan_runs(int fd, uint64_t addr, uint64_t len_bytes, const struct ts_scan_filter *filter,
	  ts_scan_fn fn, void *user)
{
	struct page_region runs[RUNS_MAX];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = addr,
		.end = addr + len_bytes,
		.vec = (uintptr_t)runs,
		.vec_len = RUNS_MAX,
		.category_mask = filter->mask,
		.category_inverted = filter->inverted,
		.category_anyof_mask = filter->anyof,
		/* One bit is enough to make the kernel report a page; more would split runs. */
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};

	while (arg.start < arg.end) {
		long nr_runs = scan_once(fd, &arg);
		if (nr_runs < 0)
			return (int)nr_runs;
		for (long i = 0; i < nr_runs; i++)
			fn(user, runs[i].start, runs[i].end - runs[i].start);
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

int ts_pagemap_scan(int fd, uint64_t addr, uint64_t len_bytes, const struct ts_scan_filter *filter,
		    ts_scan_fn fn, void *user)
{
	return scan_runs(fd, addr, len_bytes, filter, fn, user);
}

struct bits {
	uint64_t addr;     /* of bit 0 */
	uint64_t *bitmap;
};

static inline __attribute__((always_inline)) void note_bits(void *user, uint64_t addr,
							    uint64_t len_bytes)
{
	struct bits *bits = user;
	uint64_t *bitmap = bits->bitmap;
	uint64_t bit = (addr - bits->addr) >> 12, end = bit + (len_bytes >> 12);

	if (end == bit + 1) {
		bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
		return;
	}
	while (bit < end && bit % 64) {
		bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
		bit++;
	}
	for (; bit + 64 <= end; bit += 64)
		bitmap[bit / 64] = ~UINT64_C(0);
	for (; bit < end; bit++)
		bitmap[bit / 64] |= UINT64_C(1) << (bit % 64);
}

int ts_pagemap_scan_bits(int fd, uint64_t addr, uint64_t len_bytes,
			 const struct ts_scan_filter *filter, uint64_t *bitmap)
{
	struct bits bits = { addr, bitmap };

	return scan_runs(fd, addr, len_bytes, filter, note_bits, &bits);
}

/* The list of runs is not wanted but asked for: without one the kernel takes a short cut that looks
 * at no category and puts markers into holes, which later installs then meet. */
int ts_pagemap_protect_written(int fd, uint64_t addr, uint64_t len_bytes)
{
	struct page_region runs[RUNS_MAX];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = addr,
		.end = addr + len_bytes,
		.vec = (uintptr_t)runs,
		.vec_len = RUNS_MAX,
		.category_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};

	while (arg.start < arg.end) {
		long rc = scan_once(fd, &arg);
		if (rc < 0)
			return (int)rc;
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

enum {
	ENTRY_SWAPPED = 62,
	ENTRY_PRESENT = 63,
	/* A marker looks like a swap entry of the last type, with its bits for an offset. */
	MARKER_TYPE = 31,
};

bool ts_pagemap_is_filled(int fd, uint64_t addr)
{
	uint64_t entry = 0;

	if (ts_sys_pread_all(fd, &entry, sizeof(entry), (off_t)(addr >> 12 << 3)))
		return false;
	if (entry >> ENTRY_PRESENT & 1)
		return true;
	return (entry >> ENTRY_SWAPPED & 1) && (entry & 31) != MARKER_TYPE;
}
