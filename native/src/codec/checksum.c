/* SPDX-License-Identifier: Apache-2.0
 *
 * checksum.c — XXH3 over frames and pages, with the widest vectors that the CPU has.
 *
 * Inlined from xxhash's header rather than called in libxxhash, because the library is built for
 * the oldest x86-64: with AVX2 the sum of a page takes two thirds of the time, which counts beside
 * an lz4 decode of 1.2 us.  checksum_avx2.c is this file again, for AVX2.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "codec/frame.h"

#ifndef TS_CHECKSUM_AVX2
#define TS_CHECKSUM_NAME(name) name
#if defined(__x86_64__)
#define TS_HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define TS_HAS_AVX2() 0
#endif
#else
#define TS_CHECKSUM_NAME(name) name##_avx2
#define TS_HAS_AVX2() 0 /* already there */
#endif

uint64_t TS_CHECKSUM_NAME(ts_frame_checksum)(const void *frame, const void *raw, size_t raw_bytes)
{
	XXH3_state_t state;

	if (TS_HAS_AVX2())
		return ts_frame_checksum_avx2(frame, raw, raw_bytes);
	/* These fail for a NULL state or input only. */
	XXH3_INITSTATE(&state);
	(void)XXH3_64bits_reset(&state);
	(void)XXH3_64bits_update(&state, raw, raw_bytes);
	(void)XXH3_64bits_update(&state, frame, TS_FRAME_SUMMED_BYTES);
	return XXH3_64bits_digest(&state);
}

uint64_t TS_CHECKSUM_NAME(ts_page_hash)(const void *page, uint64_t seed)
{
	if (TS_HAS_AVX2())
		return ts_page_hash_avx2(page, seed);
	return XXH3_64bits_withSeed(page, TS_PAGE_BYTES, seed);
}
