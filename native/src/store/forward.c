/* SPDX-License-Identifier: Apache-2.0
 *
 * forward.c — the only caller of a store's functions.  What store.h promises is checked here, on
 * every store and wrapper alike: the caller's side before the call, the store's side after it.
 * A broken promise is a programmer's error and stops the process, because a pager that has lost
 * track of a page must stop before it writes.
 *
 * The handle that ts_store_open() returns is a guard: a store itself, whose functions are the
 * forwarder's and which knows the limits that the store was opened with.  A wrapper has a guard
 * before it and calls the guard of what it wraps.
 */
#include "store/forward.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "util/base.h"
#include "util/hook.h"
#include "util/limits.h"
#include "util/sized.h"

enum {
	GUARD_MAGIC = 0x74736764,
	STATUS_UNSET = INT32_MAX, /* no store may leave this in a status */
};

struct guard {
	struct ts_store base;
	uint32_t magic;                /* a handle that didn't come from ts_store_open() */
	_Atomic uint32_t nr_readers;
	struct ts_store *inner;
	struct ts_store *next;
	const struct ts_store_ops *inner_ops; /* as given: identifies the layer */
	struct ts_store_ops call;      /* inner_ops, completed: what is called */
	struct ts_store_ops own;       /* base.ops: the forwarder's functions */
	struct ts_store_config limits; /* pointers in it are not valid any more */
};

struct guard_reader {
	struct ts_reader base;
	struct ts_reader *inner;
	uint32_t nr_pending;           /* the reader's thread only */
};

static struct guard *guard_of(struct ts_store *store)
{
	struct guard *guard = (struct guard *)store;

	TS_ASSERT(guard && guard->magic == GUARD_MAGIC);
	return guard;
}

int ts_ops_complete(const struct ts_store_ops *ops, struct ts_store_ops *ops_out)
{
	memset(ops_out, 0, sizeof(*ops_out));
	if (ops->size < offsetof(struct ts_store_ops, open) || ops->size > 16 * sizeof(*ops))
		return ts_fail(TS_EVERSION, "store ops: size is %zu; set it to sizeof(struct "
			       "ts_store_ops)", ops->size);
	memcpy(ops_out, ops, TS_MIN(ops->size, sizeof(*ops_out)));
	if (!ops_out->name || !ops_out->open || !ops_out->close || !ops_out->put ||
	    !ops_out->del || !ops_out->reader_open || !ops_out->reader_close ||
	    !ops_out->get || !ops_out->stat)
		return ts_fail(TS_ECONFIG, "store ops '%s': a required function is missing "
			       "(store.h says which are)", ops_out->name ? ops_out->name : "?");
	ops_out->size = sizeof(*ops_out);
	return 0;
}

/* ops.open of a guard: the handle is already open. */
static int guard_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	return ts_fail(TS_EUNSUPPORTED, "a store handle can't be opened; use ts_store_open()");
}

int ts_guard_create(struct ts_store *inner, const struct ts_store_ops *ops, struct ts_store *next,
		    uint32_t flags, const struct ts_store_config *limits,
		    struct ts_store **store_out)
{
	struct guard *guard = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*guard));

	if (!guard) {
		ops->close(inner);
		return ts_fail(-ENOMEM, "store '%s': no memory for its handle", limits->name);
	}
	TS_ASSERT(ts_ops_complete(ops, &guard->call) == 0 && inner->ops);
	guard->magic = GUARD_MAGIC;
	guard->inner = inner;
	guard->next = next;
	guard->inner_ops = ops;
	guard->limits = *limits;
	guard->own = (struct ts_store_ops){
		.size = sizeof(guard->own),
		/* The store's, whatever wraps it. */
		.name = next ? next->ops->name : guard->call.name,
		.flags = flags,
		.open = guard_open,
		.close = ts_store_close,
		.put = ts_store_put,
		.del = ts_store_del,
		.reader_open = ts_store_reader_open,
		.reader_close = ts_store_reader_close,
		.get = ts_store_get,
		.reap = ts_store_reap,
		.reader_arena = ts_store_reader_arena,
		.reader_fd = ts_store_reader_fd,
		.maintain = ts_store_maintain,
		.stat = ts_store_stat_get,
		.list = ts_store_list,
	};
	guard->base.ops = &guard->own;
	*store_out = &guard->base;
	return 0;
}

struct ts_store *ts_guard_find(struct ts_store *store, const struct ts_store_ops *ops)
{
	for (; store; store = guard_of(store)->next)
		if (guard_of(store)->inner_ops == ops)
			return guard_of(store)->inner;
	return NULL;
}

void ts_store_close(struct ts_store *store)
{
	if (!store)
		return;
	struct guard *guard = guard_of(store);
	TS_ASSERT(atomic_load(&guard->nr_readers) == 0);
	guard->call.close(guard->inner);
	guard->magic = 0;
	free(guard);
}

/* After a put: every item has a status that is a success or a failure. */
static void check_statuses(const struct ts_put *items, unsigned nr_items)
{
	for (unsigned i = 0; i < nr_items; i++)
		TS_ASSERT(items[i].status <= 0);
}

int ts_store_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	struct guard *guard = guard_of(store);
	int result;

	TS_ASSERT(nr_items <= guard->limits.batch_max && (items || !nr_items));
	for (unsigned i = 0; i < nr_items; i++) {
		TS_ASSERT(items[i].key <= guard->limits.key_max);
		TS_ASSERT(items[i].len_bytes <= guard->limits.frame_max_bytes);
		TS_ASSERT(items[i].data && items[i].len_bytes > 0);
		items[i].status = STATUS_UNSET;
	}
	if (nr_items == 0)
		return 0;
	/* The site is asked once a call, before the store itself: wrappers see the failure. */
	if (!guard->next && TS_INJECT(TS_SITE_STORE_PUT))
		result = -errno;
	else
		result = guard->call.put(guard->inner, items, nr_items);
	TS_ASSERT(result <= 0);
	if (result < 0)
		for (unsigned i = 0; i < nr_items; i++)
			items[i].status = result;
	check_statuses(items, nr_items);
	return result;
}

int ts_store_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	struct guard *guard = guard_of(store);

	TS_ASSERT(nr_keys <= guard->limits.batch_max && (keys || !nr_keys));
	for (unsigned i = 0; i < nr_keys; i++)
		TS_ASSERT(keys[i] <= guard->limits.key_max);
	if (nr_keys == 0)
		return 0;
	if (!guard->next && TS_INJECT(TS_SITE_STORE_DEL))
		return -errno;
	int result = guard->call.del(guard->inner, keys, nr_keys);
	TS_ASSERT(result <= 0);
	return result;
}

int ts_store_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	struct guard *guard = guard_of(store);
	struct guard_reader *reader;
	int result;

	if (atomic_fetch_add(&guard->nr_readers, 1) >= guard->limits.reader_max) {
		atomic_fetch_sub(&guard->nr_readers, 1);
		return ts_fail(TS_ELIMIT, "store '%s' is open for %u readers, no more",
			       guard->own.name, guard->limits.reader_max);
	}
	reader = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*reader));
	result = reader ? guard->call.reader_open(guard->inner, &reader->inner)
			: ts_fail(-ENOMEM, "store '%s': no memory for a reader", guard->own.name);
	if (result < 0) {
		atomic_fetch_sub(&guard->nr_readers, 1);
		free(reader);
		return result;
	}
	TS_ASSERT(result == 0 && reader->inner && reader->inner->store == guard->inner);
	reader->base.store = store;
	*reader_out = &reader->base;
	return 0;
}

int ts_store_reader_arena(struct ts_reader *reader, void *base, size_t len_bytes)
{
	struct guard *guard = guard_of(reader->store);

	TS_ASSERT(base && (uintptr_t)base % TS_PAGE_BYTES == 0 && len_bytes > 0);
	if (!guard->call.reader_arena)
		return 0;
	int result = guard->call.reader_arena(((struct guard_reader *)reader)->inner, base,
					      len_bytes);
	TS_ASSERT(result <= 0);
	return result;
}

void ts_store_reader_close(struct ts_reader *reader)
{
	if (!reader)
		return;
	struct guard_reader *own = (struct guard_reader *)reader;
	struct guard *guard = guard_of(reader->store);
	TS_ASSERT(own->nr_pending == 0);
	guard->call.reader_close(own->inner);
	TS_ASSERT(atomic_fetch_sub(&guard->nr_readers, 1) > 0);
	free(own);
}

/* A completed request: its status is one, and a frame lies within its buffer. */
static void check_request(const struct guard *guard, const struct ts_get *request)
{
	TS_ASSERT(request->status <= 0);
	if (request->status == 0)
		TS_ASSERT(request->len_bytes <= guard->limits.frame_max_bytes &&
			  request->off_bytes <= request->cap_bytes &&
			  request->len_bytes <= request->cap_bytes - request->off_bytes);
}

int ts_store_get(struct ts_reader *reader, struct ts_get *request)
{
	struct guard_reader *own = (struct guard_reader *)reader;
	struct guard *guard = guard_of(reader->store);
	int result;

	TS_ASSERT(request->key <= guard->limits.key_max);
	TS_ASSERT(request->buf && (uintptr_t)request->buf % TS_PAGE_BYTES == 0);
	TS_ASSERT(request->cap_bytes % TS_PAGE_BYTES == 0 &&
		  request->cap_bytes >= guard->limits.frame_max_bytes + 2 * TS_PAGE_BYTES);
	TS_ASSERT(own->nr_pending < guard->limits.depth_max);
	request->status = STATUS_UNSET;
	request->off_bytes = 0;
	request->len_bytes = 0;
	if (!guard->next && TS_INJECT(TS_SITE_STORE_GET)) {
		request->status = -errno;
		return 0;
	}
	result = guard->call.get(own->inner, request);
	TS_ASSERT(result == 0 || (result == 1 && guard->call.reap));
	if (result == 0)
		check_request(guard, request);
	else
		own->nr_pending++;
	return result;
}

int ts_store_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max, int wait_ms)
{
	struct guard_reader *own = (struct guard_reader *)reader;
	struct guard *guard = guard_of(reader->store);

	TS_ASSERT(done && done_max > 0 && wait_ms >= -1);
	if (own->nr_pending == 0)
		return 0; /* nothing to wait for */
	int result = guard->call.reap(own->inner, done, done_max, wait_ms);
	if (result < 0)
		return result;
	TS_ASSERT((unsigned)result <= done_max && (unsigned)result <= own->nr_pending);
	own->nr_pending -= (unsigned)result;
	for (int i = 0; i < result; i++)
		check_request(guard, done[i]);
	return result;
}

int ts_store_mates(struct ts_reader *reader, const struct ts_get *request,
		   struct ts_store_mate *mates, unsigned mates_max)
{
	struct guard *guard = guard_of(reader->store);

	if (!guard->call.mates)
		return TS_EUNSUPPORTED;
	int result = guard->call.mates(((struct guard_reader *)reader)->inner, request, mates,
				       mates_max);
	TS_ASSERT(result >= 0 && (unsigned)result <= mates_max);
	for (int i = 0; i < result; i++)
		TS_ASSERT(mates[i].key <= guard->limits.key_max &&
			  mates[i].off_bytes <= request->cap_bytes &&
			  mates[i].len_bytes <= request->cap_bytes - mates[i].off_bytes);
	return result;
}

void ts_store_reader_around(struct ts_reader *reader, uint32_t len_bytes)
{
	struct guard *guard = guard_of(reader->store);

	TS_ASSERT(len_bytes % TS_PAGE_BYTES == 0 && !(len_bytes & (len_bytes - 1)));
	if (guard->call.reader_around)
		guard->call.reader_around(((struct guard_reader *)reader)->inner, len_bytes);
}

void ts_store_reader_expect(struct ts_reader *reader, uint64_t key)
{
	struct guard *guard = guard_of(reader->store);

	TS_ASSERT(key <= guard->limits.key_max);
	if (guard->call.reader_expect)
		guard->call.reader_expect(((struct guard_reader *)reader)->inner, key);
}

int ts_store_reader_fd(struct ts_reader *reader)
{
	struct guard *guard = guard_of(reader->store);

	if (!guard->call.reader_fd)
		return TS_EUNSUPPORTED;
	return guard->call.reader_fd(((struct guard_reader *)reader)->inner);
}

int ts_store_maintain(struct ts_store *store)
{
	struct guard *guard = guard_of(store);

	if (!guard->call.maintain)
		return 0;
	int result = guard->call.maintain(guard->inner);
	TS_ASSERT(result <= 1);
	return result;
}

int ts_store_stat_get(struct ts_store *store, struct ts_store_stat *stat)
{
	struct guard *guard = guard_of(store);
	struct ts_store_stat full = { .size = sizeof(full) };
	int result = ts_sized_check(stat->size, "ts_store_stat");

	if (result)
		return result;
	result = guard->call.stat(guard->inner, &full);
	TS_ASSERT(result <= 0);
	if (!result)
		ts_sized_out(stat, &full, sizeof(full));
	return result;
}

/* A wrapper adds no keys: the store itself is asked. */
int ts_store_list(struct ts_store *store, ts_key_fn fn, void *user)
{
	struct guard *guard = guard_of(store);

	while (guard->next)
		guard = guard_of(guard->next);
	if (!guard->call.list)
		return ts_fail(TS_EUNSUPPORTED, "store '%s' can't list its keys", guard->own.name);
	return guard->call.list(guard->inner, fn, user);
}
