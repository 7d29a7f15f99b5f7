/* SPDX-License-Identifier: Apache-2.0
 *
 * caller.h — pages served in the thread that needs them, to the end: for ts_region_serve(), whose
 * callers borrow one of a few contexts, and for the SIGBUS handler, which has its own (inthread.h).
 */
#ifndef TS_FAULT_CALLER_H
#define TS_FAULT_CALLER_H

#include "fault/serve.h"

struct ts_callers;

int ts_callers_create(struct ts_engine *engine, struct ts_callers **callers_out);
/* No caller may be inside.  NULL is accepted. */
void ts_callers_destroy(struct ts_callers *callers);

/* Serves a page and returns when it is there, whoever brought it back.  Waits for storage, and for
 * a context while all are in use.  0; TS_ECORRUPT: the page is lost, or not there any more; or why
 * there is no context. */
int ts_callers_serve(struct ts_callers *callers, struct ts_shard *shard, uint32_t page,
		     uint32_t flags);

/* One attempt with this context, and the end of every read that it started.  Async-signal-safe.
 * TS_SERVED, TS_SERVE_LATER or TS_SERVE_IGNORED. */
enum ts_serve_outcome ts_serve_to_end(struct ts_serve_ctx *ctx, struct ts_shard *shard,
				      uint32_t page, uint32_t flags, ts_mono_ns start_ns);

#endif
