/* SPDX-License-Identifier: Apache-2.0
 *
 * kept.h — what a page looked like when it came back, so that an unchanged one can leave again
 * without being encoded and written.
 *
 * A direct-mapped table with one 64-bit hash for every eighth page.  The hash is XXH3-64 of the
 * page under a seed that mixes a secret of the engine, the page and the frame: an entry that was
 * overwritten, torn or left from an earlier frame can't match.  An equal hash is taken for equal
 * contents: 2^-64 a comparison, and a guest does not know the secret.
 */
#ifndef TS_PAGE_KEPT_H
#define TS_PAGE_KEPT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ts_kept {
	_Atomic uint64_t *hashes;
	uint32_t mask;    /* entries - 1 */
	uint64_t secret;
};

int ts_kept_init(struct ts_kept *kept, uint32_t nr_pages, uint64_t secret);
void ts_kept_finish(struct ts_kept *kept);
uint64_t ts_kept_bytes(const struct ts_kept *kept);

/* The seed for the hash of this page's copy in this frame. */
static inline uint64_t ts_kept_seed(const struct ts_kept *kept, uint32_t page, uint32_t frame)
{
	return kept->secret ^ ((uint64_t)page << 32 | frame) * UINT64_C(0x9e3779b97f4a7c15);
}

static inline void ts_kept_note(struct ts_kept *kept, uint32_t page, uint64_t hash)
{
	atomic_store_explicit(&kept->hashes[page & kept->mask], hash, memory_order_relaxed);
}

static inline bool ts_kept_matches(struct ts_kept *kept, uint32_t page, uint64_t hash)
{
	return atomic_load_explicit(&kept->hashes[page & kept->mask], memory_order_relaxed) == hash;
}

#endif
