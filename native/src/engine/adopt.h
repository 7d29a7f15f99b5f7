/* SPDX-License-Identifier: Apache-2.0
 * adopt.h — memory of another process: what is checked, and its end.  engine.control is held. */
#ifndef TS_ENGINE_ADOPT_H
#define TS_ENGINE_ADOPT_H

#include "core/engine.h"

/* Each 0, or an error in words. */
int ts_adopt_check_options(struct ts_engine *engine, const struct ts_adopt_options *options,
			   const char *name);
/* By itself: whole pages, no wrap, a memfd that is large enough. */
int ts_adopt_check_range(const struct ts_remote_range *range, const char *name);
/* With the region's other ranges. */
int ts_adopt_check_against(struct ts_region *region, const struct ts_remote_range *range);
/* With the kernel: its process lives, and has registered it with the region's userfaultfd. */
int ts_adopt_check_registered(const struct ts_region *region, const struct ts_remote_range *range);

/* With its process's mappings, if a pagemap (-1: none) tells whose memory it is. */
int ts_adopt_check_mapping(const struct ts_remote_range *range, int pagemap_fd, const char *name);

/* TS_MODE_* as the kernel knows them, and what is to be registered for them. */
uint32_t ts_adopt_true_modes(uint32_t modes, uint64_t features);
uint64_t ts_adopt_uffd_modes(uint32_t modes, uint64_t features, bool is_shared);
/* Sets tracker, memory, abilities, and the words for what can't be done. */
void ts_adopt_judge(struct ts_region *region, uint32_t modes, bool can_punch);

/* Is this another process's memory, and that process gone? */
bool ts_adopt_is_gone(struct ts_region *region);
/* Frees its frames and itself; nothing is brought back. */
void ts_adopt_drop(struct ts_region *region);

/* ---- adopt_state.c ---------------------------------------------------------------------- */

/* Image and state folder: words, if the region is to outlive us; ranges get the order that its
 * pages are numbered in.  Before its tables are made. */
int ts_adopt_claim(struct ts_engine *engine, struct ts_region *region,
		   const struct ts_adopt_options *options, struct ts_remote_range *ranges,
		   uint64_t len_bytes);
/* Writes down a range that is about to be added; undoes that. */
int ts_adopt_grow(struct ts_region *region, const struct ts_remote_range *range);
void ts_adopt_shrink(struct ts_region *region);
/* All ranges are there, and nobody sees the region yet: pages become what the process before us
 * left, or the image's. */
int ts_adopt_learn(struct ts_engine *engine, struct ts_region *region);
/* Served: lifts the guards that are left.  Then everybody is to be woken. */
void ts_adopt_unprotect(struct ts_region *region);
/* A persistent one: stops serving it, and leaves everything as it is for the next process. */
void ts_adopt_leave(struct ts_region *region);

#endif
