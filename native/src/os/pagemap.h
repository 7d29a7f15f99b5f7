/* SPDX-License-Identifier: Apache-2.0
 * pagemap.h — PAGEMAP_SCAN (Linux 6.7) on this process, as runs of pages. */
#ifndef TS_OS_PAGEMAP_H
#define TS_OS_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

/* Which pages a scan reports: those for which (categories ^ inverted) & mask == mask, and, if
 * anyof is set, (categories ^ inverted) & anyof != 0.  Bits are PAGE_IS_*. */
struct ts_scan_filter {
	uint64_t mask, inverted, anyof;
};

/* Called for every maximal run the kernel reports, in ascending order. */
typedef void (*ts_scan_fn)(void *user, uint64_t addr, uint64_t len_bytes);

/* /proc/self/pagemap, or -errno. */
int ts_pagemap_open(void);

/* Scans [addr, addr + len).  0 or -errno (ENOTTY: kernel older than 6.7). */
int ts_pagemap_scan(int fd, uint64_t addr, uint64_t len_bytes, const struct ts_scan_filter *filter,
		    ts_scan_fn fn, void *user);

/* The same, and sets the bit of each page that is reported; bit 0 is the page at addr. */
int ts_pagemap_scan_bits(int fd, uint64_t addr, uint64_t len_bytes,
			 const struct ts_scan_filter *filter, uint64_t *bitmap);

/* Does the page table have something for this page: a page, or one that was swapped out?  A marker
 * or a hole is nothing.  False, too, if that can't be found out. */
bool ts_pagemap_is_filled(int fd, uint64_t addr);

/* Write-protects every page of the range that is present and was written, on a WP_ASYNC region. */
int ts_pagemap_protect_written(int fd, uint64_t addr, uint64_t len_bytes);

#endif
