/* SPDX-License-Identifier: Apache-2.0
 *
 * unit_io.h — ioctls on a unit's present address (fault/unit.h), each with the gate shared from the
 * look at the address to its end: some 0.3 ms, where 2 MiB are copied.
 */
#ifndef TS_FAULT_UNIT_IO_H
#define TS_FAULT_UNIT_IO_H

#include "fault/serve.h"
#include "os/uffd.h"

enum { TS_UNIT_BYTES = TS_CHUNK_PAGES * TS_PAGE_BYTES };

static inline ts_word_slot *ts_unit_word(const struct ts_shard *shard, uint32_t first, unsigned i)
{
	return &shard->region->words[first + i];
}

/* Installs a unit that the caller has (COMING), and wakes; zeros if it was given up.  FAILED with
 * -ENOMEM: no huge page is free. */
struct ts_uffd_result ts_unit_install(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				      uint32_t first, const void *contents);
/* Maps what the page cache has, and wakes; ABSENT: nothing. */
struct ts_uffd_result ts_unit_map(struct ts_shard *shard, uint32_t first);
/* Lifts the protection and wakes.  0, -EAGAIN, or another -errno. */
int ts_unit_unguard(struct ts_shard *shard, uint32_t first);
void ts_unit_wake(struct ts_shard *shard, uint32_t first);
/* As ts_install_settle(). */
void ts_unit_settle(struct ts_shard *shard, uint32_t first, uint32_t nr_ignored);

/* Nothing was missing: whoever waits shall look again. */
enum ts_serve_outcome ts_unit_wake_stale(struct ts_shard *shard, uint32_t first);
void ts_unit_set_heat(struct ts_region *region, uint32_t first, uint16_t heat);
void ts_unit_note_served(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t flags,
			 ts_mono_ns start_ns);

/* ---- unit_present.c --------------------------------------------------------------------- */

/* Its first word is RESIDENT or LEAVING.  An eviction of it ends here: the evictor finds the first
 * word gone and takes back the rest. */
enum ts_serve_outcome ts_unit_serve_present(struct ts_serve_ctx *ctx, struct ts_shard *shard,
					    uint32_t first, uint32_t flags, ts_mono_ns start_ns,
					    ts_word word);

#endif
