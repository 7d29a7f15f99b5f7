/* SPDX-License-Identifier: Apache-2.0
 *
 * codec_pages.h — repeatable random numbers, and pages of several kinds for the codec's tests.
 */
#ifndef TS_TESTS_CODEC_PAGES_H
#define TS_TESTS_CODEC_PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct rng {
	uint64_t state;
};

/* splitmix64: any seed will do. */
static inline uint64_t rng_next(struct rng *rng)
{
	uint64_t mixed = (rng->state += 0x9e3779b97f4a7c15ull);

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
	return mixed ^ mixed >> 31;
}

enum page_kind {
	PAGE_TEXT,    /* lines like those of a log: compresses well, and a dictionary helps */
	PAGE_STRUCTS, /* records of pointers and counters, nothing in common with the text */
	PAGE_SPARSE,  /* zeros with a few bytes in between */
	PAGE_RANDOM,  /* does not compress */
	PAGE_KINDS
};

static inline void make_text(char *dst, size_t len_bytes, struct rng *rng)
{
	static const char *const words[] = { "request", "connection", "timeout", "accepted",
					     "from client", "storage", "evicted", "page fault" };
	size_t done = 0;

	while (done < len_bytes) {
		char line[160];
		int len = snprintf(line, sizeof(line), "2026-%02u %02u:%02u INFO %s %s id=%08x\n",
				   (unsigned)(rng_next(rng) % 28), (unsigned)(rng_next(rng) % 24),
				   (unsigned)(rng_next(rng) % 60), words[rng_next(rng) % 8],
				   words[rng_next(rng) % 8], (unsigned)rng_next(rng));
		size_t room = len_bytes - done;

		memcpy(dst + done, line, (size_t)len < room ? (size_t)len : room);
		done += (size_t)len;
	}
}

/* len_bytes: a multiple of 64. */
static inline void make_pages(char *dst, size_t len_bytes, enum page_kind kind, struct rng *rng)
{
	switch (kind) {
	case PAGE_TEXT:
		make_text(dst, len_bytes, rng);
		return;
	case PAGE_STRUCTS:
		for (size_t i = 0; i < len_bytes; i += 32) {
			uint64_t record[4] = { 0x7f0000000000ull + rng_next(rng) % 65536 * 64,
					       rng_next(rng) % 256, 0, rng_next(rng) % 4 };
			memcpy(dst + i, record, sizeof(record));
		}
		return;
	case PAGE_SPARSE:
		memset(dst, 0, len_bytes);
		for (size_t i = 0; i < len_bytes; i += 512)
			dst[i + rng_next(rng) % 512] = (char)rng_next(rng);
		return;
	case PAGE_RANDOM:
	case PAGE_KINDS:
		for (size_t i = 0; i < len_bytes; i += 8) {
			uint64_t word = rng_next(rng);
			memcpy(dst + i, &word, 8);
		}
		return;
	}
}

#endif
