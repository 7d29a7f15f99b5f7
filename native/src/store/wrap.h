/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap.h — what wrappers share.  A wrapper is a store in front of another one: it does its one
 * thing and passes the rest on.  Each lies in a file of its own, wrap_<name>.c, and is listed in
 * registry.c.  It embeds ts_wrap and ts_wrap_reader, uses the ts_wrap_* functions below for what
 * it doesn't change, and calls the next store through the forwarder only.
 *
 * A request that the next store answers later must be recognised when it comes back, with
 * something noted about it (when it began, whether to spoil it).  store_priv is the store's and
 * user the caller's, so that is what the reader's slots are for.
 */
#ifndef TS_STORE_WRAP_H
#define TS_STORE_WRAP_H

#include <tierstore/store.h>

#include "util/base.h"

/* Opens a wrapper around @next, which it owns once this has succeeded.  config is that of the
 * store, but for .options: the wrapper's own ("" if it has none). */
struct ts_wrap_kind {
	const char *name;
	const struct ts_store_ops *ops; /* .open is ts_wrap_open_alone */
	int (*open)(struct ts_store *next, const struct ts_store_config *config,
		    struct ts_store **store_out);
};

extern const struct ts_wrap_kind ts_wrap_stats, ts_wrap_delay, ts_wrap_fault, ts_wrap_verify,
	ts_wrap_thread;

struct ts_wrap {
	struct ts_store base;
	struct ts_store *next;
	uint32_t depth_max;
	char name[32]; /* of the tier, for messages */
};

/* What is noted about one pending request. */
struct ts_wrap_slot {
	struct ts_get *request; /* NULL: free */
	uint64_t note;
};

struct ts_wrap_reader {
	struct ts_reader base;
	struct ts_reader *next;
	uint32_t nr_slots;
	struct ts_wrap_slot *slots;
};

/* Initialises a wrapper of @size bytes (ts_wrap is its first member), zeroed, or NULL and an
 * error text. */
void *ts_wrap_create(size_t size, const struct ts_store_ops *ops, struct ts_store *next,
		     const struct ts_store_config *config);
/* Closes the next store and frees the wrapper: the last step of a wrapper's close. */
void ts_wrap_close(struct ts_store *store);

/* .open of every wrapper's ops: fails, because it needs a store to wrap. */
int ts_wrap_open_alone(const struct ts_store_config *config, struct ts_store **store_out);
int ts_wrap_put(struct ts_store *store, struct ts_put *items, unsigned nr_items);
int ts_wrap_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys);
int ts_wrap_reader_open(struct ts_store *store, struct ts_reader **reader_out);
/* The same for a wrapper whose reader is larger than ts_wrap_reader. */
int ts_wrap_reader_create(struct ts_store *store, size_t size, struct ts_reader **reader_out);
void ts_wrap_reader_close(struct ts_reader *reader);
int ts_wrap_reader_arena(struct ts_reader *reader, void *base, size_t len_bytes);
int ts_wrap_reader_fd(struct ts_reader *reader);
int ts_wrap_get(struct ts_reader *reader, struct ts_get *request);
int ts_wrap_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max, int wait_ms);
int ts_wrap_maintain(struct ts_store *store);
int ts_wrap_stat(struct ts_store *store, struct ts_store_stat *stat);

/* Notes a pending request; there is room for depth_max of them. */
struct ts_wrap_slot *ts_wrap_slot_take(struct ts_wrap_reader *reader, struct ts_get *request,
				       uint64_t note);
/* Frees the request's slot and returns its note. */
uint64_t ts_wrap_slot_give(struct ts_wrap_reader *reader, const struct ts_get *request);

/* One "key=value" of an option list.  Returns 0 or an error, with a text that names the choices. */
typedef int (*ts_option_fn)(void *context, const char *key, const char *value);
/* Calls @option for each element of "key=value,key=value"; @owner is for messages. */
int ts_options_parse(const char *owner, const char *options, ts_option_fn option, void *context);
/* "5ms", "20us", "1.5s", "0"; TS_ECONFIG and a text otherwise. */
int ts_option_duration_ns(const char *owner, const char *key, const char *value,
			  uint64_t *ns_out);
/* An unsigned number of at most max. */
int ts_option_number(const char *owner, const char *key, const char *value, uint64_t max,
		     uint64_t *number_out);
/* A probability, 0 .. 1. */
int ts_option_share(const char *owner, const char *key, const char *value, double *share_out);

#endif
