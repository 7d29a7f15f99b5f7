/* SPDX-License-Identifier: Apache-2.0
 *
 * serve.h — one page back: look up, claim, fetch, decode, verify, install, wake, the rest.
 *
 * Used by the fault threads (message mode), by faulting threads themselves (in-thread mode) and by
 * prefetch and detach.  Each has a ts_serve of its own; they meet in the page words only.
 */
#ifndef TS_FAULT_SERVE_H
#define TS_FAULT_SERVE_H

#include "core/fetch.h"
#include "memory/pageset.h"

enum {
	TS_SERVE_WRITE = 1,    /* the access was a write: its kept copy would be outdated at once */
	TS_SERVE_PREFETCH = 2, /* nobody waits: counts as a prefetch, not as a fault */
	TS_SERVE_WHOLE = 4,    /* restore the whole frame whatever the region's rule says */
	TS_SERVE_GUARDED = 8,  /* met a protection (memfd guard, sync window), not a missing page */
	TS_SERVE_MINOR = 16,   /* in the page cache, not in the page table (memfd, rwp) */
};

enum ts_serve_outcome {
	TS_SERVED,        /* resolved; the waiter is awake */
	TS_SERVE_PENDING, /* a read is under way: ts_serve_reap() ends it */
	TS_SERVE_LATER,   /* not now (an event is queued, all slots busy): call again */
	TS_SERVE_IGNORED, /* whoever owns the page will wake the waiter */
};

struct ts_ahead;
struct ts_ahead_place;

/* A hugetlb page on its way back (fault/unit.c). */
struct ts_unit {
	struct ts_shard *shard;    /* NULL: none */
	uint32_t first, flags;     /* its first page */
	uint32_t nr_ignored;       /* the shard's, before it was claimed */
	ts_mono_ns start_ns;
	unsigned nr_reads;         /* under way */
	int error;
	struct ts_pageset todo;    /* pages whose frames were not asked for yet */
	struct ts_pageset missing; /* pages whose contents are not in buf yet */
	uint8_t *buf;
	const uint8_t *contents;   /* buf, or zeros */
};

struct ts_serve_ctx {
	struct ts_fetch fetch;
	struct ts_engine *engine;
	struct ts_ahead *ahead; /* who could fetch ahead of a walk; NULL: nobody */
	struct ts_ahead_place *asked; /* who was asked last, and what; NULL: nobody */
	uint64_t asked_letter;
	/* Who waits for the page runs on this CPU, or is this thread. */
	bool is_beside;
	uint8_t *page_buf;   /* for filled pages */
	/* Address space until a hugetlb page comes back, the last 2 MiB for ever: never written, so
	 * they read as zeros. */
	uint8_t *unit_bufs;
	const uint8_t *zero_unit;
	struct ts_unit units[TS_UNIT_MAX];
	/* Reads that ended with "later": the caller asks for these pages again. */
	struct ts_later {
		struct ts_shard *shard;
		uint32_t page, flags;
		ts_mono_ns start_ns;
	} later[TS_FAULT_DEPTH_MAX];
	unsigned nr_later;
};

int ts_serve_init(struct ts_serve_ctx *ctx, struct ts_engine *engine, unsigned depth);
void ts_serve_finish(struct ts_serve_ctx *ctx);

/* Serves one page of the shard's region.  start_ns: when the fault was noticed. */
enum ts_serve_outcome ts_serve_page(struct ts_serve_ctx *ctx, struct ts_shard *shard, uint32_t page,
				    uint32_t flags, ts_mono_ns start_ns);

/* The page is COMING: its owner will wake who waits for it, unless it has just come. */
enum ts_serve_outcome ts_serve_ignore(struct ts_shard *shard, uint32_t page, uint32_t flags);

/* Ends reads that have completed; waits up to wait_ms for the first.  Returns how many ended. */
unsigned ts_serve_reap(struct ts_serve_ctx *ctx, int wait_ms);

#endif
