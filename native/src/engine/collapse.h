/* SPDX-License-Identifier: Apache-2.0
 * collapse.h — huge pages again of what has come back in small ones. */
#ifndef TS_ENGINE_COLLAPSE_H
#define TS_ENGINE_COLLAPSE_H

#include "core/engine.h"

/* Wherever all 512 pages are back and none is protected.  Takes what the calls take, and at most
 * 31 ms more. */
void ts_collapse_region(struct ts_region *region);

#endif
