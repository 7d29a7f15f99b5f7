/* SPDX-License-Identifier: Apache-2.0
 *
 * life.h — what all regions go through, of our own memory (attach.c) or another process's
 * (adopt.c): find what is populated, be served, let go.  Control plane; engine.control is held.
 */
#ifndef TS_ENGINE_LIFE_H
#define TS_ENGINE_LIFE_H

#include "core/engine.h"

/* Sets the words of pages that are there to RESIDENT, once the range is registered: by the page
 * table (addr is of first_page), or by what the memfd holds.  0 or -errno. */
int ts_life_populate_anon(struct ts_region *region, uint64_t addr, uint32_t first_page,
			  uint32_t nr_pages);
int ts_life_populate_shared(struct ts_region *region, uint32_t first_page, uint32_t nr_pages);

/* The slot that the next region gets in the engine's list; TS_REGION_MAX: it is full. */
unsigned ts_life_free_slot(struct ts_engine *engine);
/* From now on faults are answered, and the region is in the engine's list. */
int ts_life_serve(struct ts_engine *engine, struct ts_region *region);

/* No new evictions; returns when nobody is at work on the region but the fault threads. */
void ts_life_drain(struct ts_engine *engine, struct ts_region *region);
/* Undoes registration, and wakes who waited. */
void ts_life_unregister(struct ts_region *region);
/* Everybody lets go of a region that is unregistered, or dropped. */
void ts_life_release(struct ts_engine *engine, struct ts_region *region);
/* Gives back what the words still hold of frames: nobody else looks at them any more. */
void ts_life_drop_frames(struct ts_engine *engine, struct ts_region *region);
/* Its counters join those of regions that are gone. */
void ts_life_add_past(struct ts_engine *engine, struct ts_region *region);
/* Descriptors and memory. */
void ts_life_destroy(struct ts_region *region);

#endif
