/* SPDX-License-Identifier: Apache-2.0
 *
 * server.h — the threads that answer page faults.
 *
 * Every fault thread polls every shard; whoever is quicker reads the messages.
 */
#ifndef TS_FAULT_SERVER_H
#define TS_FAULT_SERVER_H

#include "core/engine.h"

/* Starts the threads.  Tiers are open. */
int ts_fault_server_create(struct ts_engine *engine, struct ts_fault_server **server_out);
/* No region is served any more.  NULL is accepted. */
void ts_fault_server_destroy(struct ts_fault_server *server);

/* Where its threads can be asked to fetch ahead of a walk (fault/walk.h). */
struct ts_ahead *ts_fault_server_ahead(struct ts_fault_server *server);

/* Begins to serve the region: its shards are registered, its words are set. */
int ts_fault_server_add(struct ts_fault_server *server, struct ts_region *region);
/* Stops, and returns when no fault thread holds anything of the region.  Its ranges are
 * unregistered, or its process is gone. */
void ts_fault_server_remove(struct ts_fault_server *server, struct ts_region *region);

#endif
