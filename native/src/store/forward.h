/* SPDX-License-Identifier: Apache-2.0
 * forward.h — inside of ts_store_open(): the guard that stands in front of every store and every
 * wrapper, so that each of them is called, and calls the next, through the same checks. */
#ifndef TS_STORE_FORWARD_H
#define TS_STORE_FORWARD_H

#include <tierstore/store.h>

/* Puts a guard before @inner, which it owns from then on (also on failure: it is closed).
 * @next: the guard that @inner, a wrapper, calls; NULL if @inner is the store itself.
 * @flags: what the stack up to here is like (TS_STORE_*).  Control thread. */
int ts_guard_create(struct ts_store *inner, const struct ts_store_ops *ops, struct ts_store *next,
		    uint32_t flags, const struct ts_store_config *limits,
		    struct ts_store **store_out);

/* The implementation behind the outermost guard of @store's stack that has these @ops; NULL if
 * there is none.  How a control function finds its wrapper. */
struct ts_store *ts_guard_find(struct ts_store *store, const struct ts_store_ops *ops);

/* What the read of a completed request has brought along (ts_store_ops.mates); TS_EUNSUPPORTED:
 * this store does not say.  A wrapper does not: it would have to treat them like frames that were
 * asked for. */
int ts_store_mates(struct ts_reader *reader, const struct ts_get *request,
		   struct ts_store_mate *mates, unsigned mates_max);

/* ts_store_ops.reader_around, if the store has it. */
void ts_store_reader_around(struct ts_reader *reader, uint32_t len_bytes);
/* ts_store_ops.reader_expect, likewise. */
void ts_store_reader_expect(struct ts_reader *reader, uint64_t key);

/* @ops of a store that may be compiled against an older header: missing members are NULL.
 * Fails with TS_EVERSION or TS_ECONFIG if a required one is missing. */
int ts_ops_complete(const struct ts_store_ops *ops, struct ts_store_ops *ops_out);

#endif
