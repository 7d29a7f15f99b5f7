/* SPDX-License-Identifier: Apache-2.0
 *
 * fill.c — pages that hold one 8-byte value over and over (zeros, most of all).
 *
 * Nearly all pages differ in their first words, so the test looks at a few of them first; only
 * then comes a loop that the compiler turns into vector instructions.
 */
#include "codec/frame.h"

#include <string.h>

enum {
	PAGE_WORDS = TS_PAGE_BYTES / 8,
	/* Words compared between two looks at the result: few enough to stop early, enough to
	 * fill vector registers. */
	STRIDE_WORDS = 32,
};

bool ts_page_is_filled(const void *page, uint64_t *value_out)
{
	const uint64_t *words = page;
	uint64_t value = words[0];

	/* Heaps often have pages that begin with a run of one value; look elsewhere, too. */
	if (words[1] != value || words[PAGE_WORDS / 2 + 1] != value ||
	    words[PAGE_WORDS - 1] != value)
		return false;
	for (unsigned i = 0; i < PAGE_WORDS; i += STRIDE_WORDS) {
		uint64_t differs = 0;

		for (unsigned j = 0; j < STRIDE_WORDS; j++)
			differs |= words[i + j] ^ value;
		if (differs)
			return false;
	}
	*value_out = value;
	return true;
}

void ts_page_fill(void *page, uint64_t value)
{
	uint64_t *words = page;

	for (unsigned i = 0; i < PAGE_WORDS; i++)
		words[i] = value;
}
