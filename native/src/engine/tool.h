/* SPDX-License-Identifier: Apache-2.0
 * tool.h — restoring pages on request: prefetch and detach.  One caller at a time, under
 * control. */
#ifndef TS_ENGINE_TOOL_H
#define TS_ENGINE_TOOL_H

#include "core/engine.h"

int ts_tool_create(struct ts_engine *engine, struct ts_tool **tool_out);
void ts_tool_destroy(struct ts_tool *tool);

/* Brings every page of [first, first + nr) back that is away; returns when each has been seen
 * resident, zero or gone.  Filled pages come back only with `with_fills` (after that nobody knows
 * their value). 0, or TS_ECORRUPT if pages of the region were poisoned meanwhile. */
int ts_tool_restore(struct ts_tool *tool, struct ts_region *region, uint32_t first_page,
		    uint32_t nr_pages, bool with_fills);
/* Tries it once, and leaves away what can't come back now, as where the guest's memory is limited.
 * Filled pages stay away. */
void ts_tool_restore_once(struct ts_tool *tool, struct ts_region *region, uint32_t first_page,
			  uint32_t nr_pages);

#endif
