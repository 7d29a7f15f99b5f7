/* SPDX-License-Identifier: Apache-2.0
 * content.h — for the tests of stores: random numbers that repeat, and frames whose bytes tell
 * which key and which version of it they belong to. */
#ifndef TS_TESTS_CONTENT_H
#define TS_TESTS_CONTENT_H

#include <stdint.h>
#include <string.h>

/* Small and repeatable: xorshift64*; the state is never 0. */
static inline uint64_t content_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(0x2545f4914f6cdd1d);
}

/* The eight bytes that follow from the eight before. */
static inline uint64_t content_next(uint64_t state)
{
	return state * UINT64_C(6364136223846793005) + 1442695040888963407;
}

static inline uint64_t content_first(uint64_t key, uint64_t version)
{
	return content_next((key + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (version + 1));
}

/* Bytes that tell which key and which version of it they belong to. */
static inline void content_fill(void *buf, uint32_t len_bytes, uint64_t key, uint64_t version)
{
	uint64_t word = content_first(key, version);

	for (uint32_t i = 0; i < len_bytes; i += 8, word = content_next(word))
		memcpy((char *)buf + i, &word, len_bytes - i < 8 ? len_bytes - i : 8);
}

static inline int content_is(const void *buf, uint32_t len_bytes, uint64_t key, uint64_t version)
{
	uint64_t word = content_first(key, version);

	for (uint32_t i = 0; i < len_bytes; i += 8, word = content_next(word))
		if (memcmp((const char *)buf + i, &word, len_bytes - i < 8 ? len_bytes - i : 8))
			return 0;
	return 1;
}

#endif
