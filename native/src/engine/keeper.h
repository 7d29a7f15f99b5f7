/* SPDX-License-Identifier: Apache-2.0
 * keeper.h — the thread that keeps house: dead frames, demotion, the stores' maintenance, the
 * clock. */
#ifndef TS_ENGINE_KEEPER_H
#define TS_ENGINE_KEEPER_H

#include "core/engine.h"

int ts_keeper_create(struct ts_engine *engine, struct ts_keeper **keeper_out);
/* Deletes what is dead, then stops.  NULL is accepted. */
void ts_keeper_destroy(struct ts_keeper *keeper);

#endif
