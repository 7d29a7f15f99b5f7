/* SPDX-License-Identifier: Apache-2.0
 * wrap_base.c — a wrapper that changes nothing: what the wrappers are built from (wrap.h). */
#include "store/wrap.h"

#include <errno.h>
#include <string.h>

#include "util/hook.h"

void *ts_wrap_create(size_t size, const struct ts_store_ops *ops, struct ts_store *next,
		     const struct ts_store_config *config)
{
	struct ts_wrap *wrap;

	TS_ASSERT(size >= sizeof(*wrap));
	wrap = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, size);
	if (!wrap) {
		ts_fail(-ENOMEM, "store '%s': no memory for wrapper '%s'", config->name,
			ops->name);
		return NULL;
	}
	wrap->base.ops = ops;
	wrap->next = next;
	wrap->depth_max = config->depth_max;
	snprintf(wrap->name, sizeof(wrap->name), "%s", config->name);
	return wrap;
}

void ts_wrap_close(struct ts_store *store)
{
	struct ts_wrap *wrap = (struct ts_wrap *)store;

	if (!wrap)
		return;
	ts_store_close(wrap->next);
	free(wrap);
}

int ts_wrap_open_alone(const struct ts_store_config *config, struct ts_store **store_out)
{
	return ts_fail(TS_ECONFIG, "tier '%s': a wrapper is no store; name it under wrap",
		       config->name);
}

int ts_wrap_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	return ts_store_put(((struct ts_wrap *)store)->next, items, nr_items);
}

int ts_wrap_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	return ts_store_del(((struct ts_wrap *)store)->next, keys, nr_keys);
}

int ts_wrap_reader_create(struct ts_store *store, size_t size, struct ts_reader **reader_out)
{
	struct ts_wrap *wrap = (struct ts_wrap *)store;
	struct ts_wrap_reader *reader;
	int result = -ENOMEM;

	TS_ASSERT(size >= sizeof(*reader));
	reader = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, size);
	if (!reader)
		return ts_fail(-ENOMEM, "store '%s': no memory for a reader", wrap->name);
	reader->nr_slots = wrap->depth_max;
	reader->slots = calloc(reader->nr_slots, sizeof(reader->slots[0]));
	if (reader->slots)
		result = ts_store_reader_open(wrap->next, &reader->next);
	else
		ts_fail(result, "store '%s': no memory for a reader", wrap->name);
	if (result < 0) {
		free(reader->slots);
		free(reader);
		return result;
	}
	reader->base.store = store;
	*reader_out = &reader->base;
	return 0;
}

int ts_wrap_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	return ts_wrap_reader_create(store, sizeof(struct ts_wrap_reader), reader_out);
}

void ts_wrap_reader_close(struct ts_reader *reader)
{
	struct ts_wrap_reader *own = (struct ts_wrap_reader *)reader;

	if (!own)
		return;
	ts_store_reader_close(own->next);
	free(own->slots);
	free(own);
}

int ts_wrap_reader_arena(struct ts_reader *reader, void *base, size_t len_bytes)
{
	return ts_store_reader_arena(((struct ts_wrap_reader *)reader)->next, base, len_bytes);
}

int ts_wrap_reader_fd(struct ts_reader *reader)
{
	return ts_store_reader_fd(((struct ts_wrap_reader *)reader)->next);
}

int ts_wrap_get(struct ts_reader *reader, struct ts_get *request)
{
	return ts_store_get(((struct ts_wrap_reader *)reader)->next, request);
}

int ts_wrap_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max, int wait_ms)
{
	return ts_store_reap(((struct ts_wrap_reader *)reader)->next, done, done_max, wait_ms);
}

int ts_wrap_maintain(struct ts_store *store)
{
	return ts_store_maintain(((struct ts_wrap *)store)->next);
}

int ts_wrap_stat(struct ts_store *store, struct ts_store_stat *stat)
{
	return ts_store_stat_get(((struct ts_wrap *)store)->next, stat);
}

/* depth_max is small (32), so a walk beats a table. */
static struct ts_wrap_slot *slot_find(struct ts_wrap_reader *reader, const struct ts_get *request)
{
	for (uint32_t i = 0; i < reader->nr_slots; i++)
		if (reader->slots[i].request == request)
			return &reader->slots[i];
	TS_ASSERT(!"a request that is not pending, or more of them than depth_max");
	return NULL;
}

struct ts_wrap_slot *ts_wrap_slot_take(struct ts_wrap_reader *reader, struct ts_get *request,
				       uint64_t note)
{
	struct ts_wrap_slot *slot = slot_find(reader, NULL);

	slot->request = request;
	slot->note = note;
	return slot;
}

uint64_t ts_wrap_slot_give(struct ts_wrap_reader *reader, const struct ts_get *request)
{
	struct ts_wrap_slot *slot = slot_find(reader, request);

	slot->request = NULL;
	return slot->note;
}
