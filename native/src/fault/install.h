/* SPDX-License-Identifier: Apache-2.0
 *
 * install.h — the last step back: ioctls on a page's present address, and the word that follows.
 *
 * Each ioctl shares the shard's gate from the look at the word's REMOVED flag to its end
 * (page/gate.h).
 */
#ifndef TS_FAULT_INSTALL_H
#define TS_FAULT_INSTALL_H

#include "core/fetch.h"
#include "os/uffd.h"

/* Installs a page that the caller owns (COMING) and wakes its waiters; zeros if the guest gave it
 * up. */
struct ts_uffd_result ts_install_copy(struct ts_shard *shard, uint32_t page, const void *contents);
/* From a slot of the staging area, which may still be empty (TS_UFFD_ABSENT): to read it then could
 * mean to wait for ourselves (memory/staging.h). */
struct ts_uffd_result ts_install_staged(struct ts_shard *shard, uint32_t page,
					const uint8_t *slot);
struct ts_uffd_result ts_install_zero(struct ts_shard *shard, uint32_t page);
struct ts_uffd_result ts_install_poison(struct ts_shard *shard, uint32_t page);
/* Lifts a write protection and wakes; 0 or -errno. */
int ts_install_unguard(struct ts_shard *shard, uint32_t page);
/* A fault at an address that is registered here and belongs to no page: zeros (anonymous memory),
 * or poison where zeros could be wrong. */
void ts_install_unknown(struct ts_shard *shard, uint64_t addr);
/* Maps a page that is in the page cache, and wakes. */
struct ts_uffd_result ts_install_continue(struct ts_shard *shard, uint32_t page);
void ts_install_wake(struct ts_shard *shard, uint32_t page);
/* After the end of COMING: wakes once more if messages were ignored since nr_ignored was read,
 * which was before the install. */
void ts_install_settle(struct ts_shard *shard, uint32_t page, uint32_t nr_ignored);

/* COMING from a frame -> `to`; the frame loses the page. */
void ts_install_finish(struct ts_engine *engine, struct ts_region *region, uint32_t page,
		       uint32_t frame, unsigned tier, ts_word to);
/* COMING from a frame -> RESIDENT.  The frame keeps its copy if the tier does that and contents
 * (what was installed; NULL: about to be written) are given. */
void ts_install_finish_resident(struct ts_engine *engine, struct ts_region *region, uint32_t page,
				uint32_t frame, unsigned tier, const void *contents);
/* COMING from a frame -> AWAY again: not now. */
void ts_install_retreat(struct ts_engine *engine, struct ts_region *region, uint32_t page,
			uint32_t frame, unsigned tier);

/* For how many scans a page is left alone that came back sooner than it should have. */
unsigned ts_install_guard_scans(const struct ts_region *region, uint16_t heat);
/* Was the page evicted so recently that it should not have been? */
bool ts_install_is_refault(struct ts_engine *engine, uint32_t frame);

/* AWAY in this frame -> COMING: it is the caller's from now on. */
bool ts_install_claim(struct ts_region *region, uint32_t page, uint32_t frame);
/* Installs a claimed page that nobody has asked for; it is AWAY again if that can't be now. */
void ts_install_neighbour(struct ts_engine *engine, struct ts_region *region, uint32_t page,
			  uint32_t frame, unsigned tier, const uint8_t *contents);
/* Installs the page and those that follow it in the slot's frame (decoded in fetch->raw) and are
 * still AWAY there, in one call.  What came of the first one. */
struct ts_uffd_result ts_install_run(struct ts_engine *engine, struct ts_fetch *fetch,
				     const struct ts_fetch_slot *slot,
				     const struct ts_frame_head *head);
/* Installs those pages of the slot's frame (decoded in fetch->raw) that are still AWAY in it. */
void ts_install_rest(struct ts_engine *engine, struct ts_fetch *fetch,
		     const struct ts_fetch_slot *slot, const struct ts_frame_head *head);

#endif
