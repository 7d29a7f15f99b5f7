/* SPDX-License-Identifier: Apache-2.0
 *
 * block_avx2.c — 64 pages at once, on CPUs with AVX2 (block.h).
 *
 * Compiled for such CPUs whatever the rest of the library is compiled for.  Lanes are read and
 * written as the scalar code does, relaxed and racy (heat.h): no page's own word or heat is torn.
 */
#pragma GCC target("avx2,bmi,popcnt")
#include <immintrin.h>

#include "track/block.h"

enum { YOUNG_MAX = 8 };

/* LEAVING, COMING and GONE are the odd states; and RELEASING is a flag of others than RESIDENT. */
static_assert(TS_LEAVING & TS_COMING & TS_GONE & 1 && !((TS_RESIDENT | TS_AWAY | TS_ZERO) & 1),
	      "states of pages in somebody's hands");

uint64_t ts_block_resident_avx2(struct ts_region *region, uint32_t page, bool *is_plain_out)
{
	const __m256i *words = (const __m256i *)(const void *)&region->words[page];
	const __m256i state = _mm256_set1_epi32(7), not_plain = _mm256_set1_epi32(1 |
									TS_WORD_RELEASING);
	__m256i flags = _mm256_setzero_si256();
	uint64_t bits = 0;

	for (unsigned i = 0; i < 8; i++) {
		__m256i word = _mm256_loadu_si256(&words[i]);
		__m256i is_zero = _mm256_cmpeq_epi32(_mm256_and_si256(word, state),
						     _mm256_setzero_si256());
		flags = _mm256_or_si256(flags, _mm256_andnot_si256(is_zero, word));
		bits |= (uint64_t)(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(is_zero))
			<< 8 * i;
	}
	*is_plain_out = _mm256_testz_si256(flags, not_plain);
	return bits;
}

/* All ones in each of 16 lanes whose bit is set. */
static __m256i lanes_of(uint64_t bits)
{
	const __m256i one = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048,
					      4096, 8192, 16384, (short)0x8000);

	return _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)bits), one), one);
}

/* Which bytes of the 64 are `age`. */
static uint64_t equal_bits(__m256i low, __m256i high, uint8_t age)
{
	__m256i wanted = _mm256_set1_epi8((char)age);
	unsigned first = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, wanted));
	unsigned second = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, wanted));

	return first | (uint64_t)second << 32;
}

/* Neighbours mostly have few ages among them: all pages of one age by one comparison. */
static void count(const __m256i *heat, uint64_t pages, struct ts_ages *ages)
{
	const __m256i age_bits = _mm256_set1_epi16(0x00ff);
	__m256i part[2];
	uint64_t left = pages;
	uint8_t bytes[64];

	for (unsigned i = 0; i < 2; i++) {
		__m256i packed = _mm256_packus_epi16(_mm256_and_si256(heat[2 * i], age_bits),
						     _mm256_and_si256(heat[2 * i + 1], age_bits));
		part[i] = _mm256_permute4x64_epi64(packed, 0xd8); /* in the order of the pages */
		_mm256_storeu_si256((__m256i *)(void *)&bytes[32 * i], part[i]);
	}
	/* The young ages one by one, which don't wait for one another; then whatever is there. */
	for (unsigned age = 1; age <= YOUNG_MAX; age++) {
		uint64_t same = equal_bits(part[0], part[1], (uint8_t)age) & pages;

		ages->nr[0][age] += (uint32_t)__builtin_popcountll(same);
		left &= ~same;
	}
	while (left) {
		uint8_t age = bytes[__builtin_ctzll(left)];
		uint64_t same = equal_bits(part[0], part[1], age) & left;

		ages->nr[1][age] += (uint32_t)__builtin_popcountll(same);
		left &= ~same;
	}
}

bool ts_block_age_avx2(struct ts_region *region, uint32_t page, uint64_t resident,
		       uint64_t touched, struct ts_ages *ages)
{
	__m256i *slots = (__m256i *)(void *)&region->heat[page], heat[4], guards;

	if (touched & ~resident)
		return false;
	if (!resident)
		return true;
	guards = _mm256_setzero_si256();
	for (unsigned i = 0; i < 4; i++) {
		heat[i] = _mm256_loadu_si256(&slots[i]);
		guards = _mm256_or_si256(guards, _mm256_and_si256(heat[i],
								  lanes_of(resident >> 16 * i)));
	}
	if (!_mm256_testz_si256(guards, _mm256_set1_epi16(0x0f00)))
		return false;
	for (unsigned i = 0; i < 4; i++) {
		/* Ages one more, and no more than 255; 0 where touched. */
		__m256i older = _mm256_adds_epu8(heat[i], _mm256_set1_epi16(1));
		__m256i young = _mm256_and_si256(lanes_of(touched >> 16 * i),
						 _mm256_set1_epi16(0x00ff));
		heat[i] = _mm256_blendv_epi8(heat[i], _mm256_andnot_si256(young, older),
					     lanes_of(resident >> 16 * i));
		_mm256_storeu_si256(&slots[i], heat[i]);
	}
	ages->nr[0][0] += (uint32_t)__builtin_popcountll(touched);
	count(heat, resident & ~touched, ages);
	return true;
}

bool ts_block_has_gone_avx2(struct ts_region *region, uint32_t page)
{
	const __m256i *words = (const __m256i *)(const void *)&region->words[page];
	__m256i gone = _mm256_setzero_si256();

	for (unsigned i = 0; i < 8; i++) {
		__m256i word = _mm256_loadu_si256(&words[i]);
		gone = _mm256_or_si256(gone, _mm256_and_si256(word, _mm256_srli_epi32(word, 2)));
	}
	return !_mm256_testz_si256(gone, _mm256_set1_epi32(1));
}
