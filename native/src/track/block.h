/* SPDX-License-Identifier: Apache-2.0
 *
 * block.h — 64 pages of a region at once, by vectors; what scan and deactivate do for each page
 * counts beside the kernel's 5 to 7 ns.  To be called where TS_BLOCK_HAS_AVX2() only. */
#ifndef TS_TRACK_BLOCK_H
#define TS_TRACK_BLOCK_H

#include "track/age.h"

/* The thread sanitizer knows no relaxed vectors. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define TS_BLOCK_HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define TS_BLOCK_HAS_AVX2() false
#endif

/* Which of the 64 pages from `page` on are RESIDENT; in *is_plain_out, whether the block is what
 * page/blocks.h calls plain. */
uint64_t ts_block_resident_avx2(struct ts_region *region, uint32_t page, bool *is_plain_out);

/* Ages the 64 pages from `page` on, of which `resident` are that; bit 0 is the first.  False:
 * nothing was done, for some are guarded, or touched and not resident. */
bool ts_block_age_avx2(struct ts_region *region, uint32_t page, uint64_t resident,
		       uint64_t touched, struct ts_ages *ages);

/* Is one of the 64 pages from `page` on GONE? */
bool ts_block_has_gone_avx2(struct ts_region *region, uint32_t page);

#endif
