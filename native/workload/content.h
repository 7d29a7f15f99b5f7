/* SPDX-License-Identifier: Apache-2.0
 *
 * content.h — what each page of the workload's region must hold, by page and version.
 *
 * A page starts as zeros, or as a page of the source with its own number mixed into the first
 * word, so that equal source pages still differ.  Version k (1, 2, ...) writes one word: slot
 * k % 8, 512 bytes apart.  A page at version v therefore follows from its start and the last eight
 * writes, however large v is.
 */
#ifndef TS_WORKLOAD_CONTENT_H
#define TS_WORKLOAD_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

enum {
	CONTENT_PAGE_BYTES = 4096,
	CONTENT_SLOTS = 8,
	CONTENT_SLOT_WORDS = CONTENT_PAGE_BYTES / CONTENT_SLOTS / 8,
	/* Zero pages come in runs, as free memory of a guest does: whole ranges can be zero. */
	CONTENT_ZERO_RUN = 16,
};

/* One round of a 64-bit mixer: every input bit reaches every output bit. */
static inline uint64_t content_mix(uint64_t value)
{
	value += 0x9e3779b97f4a7c15u;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

static inline bool content_is_zero(uint64_t seed, uint64_t page, uint32_t zero_pct)
{
	return content_mix(seed ^ (page / CONTENT_ZERO_RUN)) % 100 < zero_pct;
}

/* The word that version `version` of `page` writes, and where. */
static inline uint64_t content_word(uint64_t seed, uint64_t page, uint32_t version)
{
	return content_mix(content_mix(seed ^ page) + version);
}

static inline unsigned content_slot(uint32_t version)
{
	return version % CONTENT_SLOTS * CONTENT_SLOT_WORDS;
}

#endif
