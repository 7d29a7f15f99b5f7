/* SPDX-License-Identifier: Apache-2.0
 *
 * registry.c — the built-in stores and wrappers by name, and how a tier's stack is opened from
 * them: the store, a thread for it if its get() blocks, then the wrappers, innermost first.
 */
#include <errno.h>
#include <string.h>

#include "store/forward.h"
#include "store/wrap.h"
#include "util/base.h"
#include "util/limits.h"

extern const struct ts_store_ops ts_store_ram_ops, ts_store_file_ops, ts_store_lmdb_ops;

static const char store_names[] = "ram, file, lmdb";
static const char wrap_names[] = "stats, delay, fault, verify, thread";

static const struct ts_wrap_kind *const wrap_kinds[] = {
	&ts_wrap_stats, &ts_wrap_delay, &ts_wrap_fault, &ts_wrap_verify, &ts_wrap_thread,
};

enum {
	WRAP_MAX = 8, /* wrappers around one store */
	WRAP_TEXT_MAX = 1024,
};

/* One element of a wrap list: the kind and its options. */
struct layer {
	const struct ts_wrap_kind *kind;
	char options[WRAP_TEXT_MAX];
};

const struct ts_store_ops *ts_store_find(const char *name)
{
	if (strcmp(name, "ram") == 0)
		return &ts_store_ram_ops;
	if (strcmp(name, "file") == 0)
		return &ts_store_file_ops;
	if (strcmp(name, "lmdb") == 0)
		return &ts_store_lmdb_ops;
	return NULL;
}

static const struct ts_wrap_kind *wrap_find(const char *name, size_t len)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(wrap_kinds); i++)
		if (strlen(wrap_kinds[i]->name) == len &&
		    memcmp(wrap_kinds[i]->name, name, len) == 0)
			return wrap_kinds[i];
	return NULL;
}

/* Adds "key=value" to the options of a layer. */
static void layer_add_option(struct layer *layer, const char *option, size_t len)
{
	size_t used = strlen(layer->options);

	if (used > 0)
		layer->options[used++] = ',';
	memcpy(layer->options + used, option, len);
	layer->options[used + len] = '\0';
}

/* One element between commas: "name", "name:key=value", or "key=value", which belongs to the
 * wrapper before it. */
static int wrap_parse_element(const char *element, size_t len, struct layer *layers,
			      unsigned *nr_layers)
{
	const char *colon = memchr(element, ':', len);
	const char *equals = memchr(element, '=', len);

	if (*nr_layers > 0 && equals && (!colon || equals < colon)) {
		layer_add_option(&layers[*nr_layers - 1], element, len);
		return 0;
	}
	size_t name_len = colon ? (size_t)(colon - element) : len;
	const struct ts_wrap_kind *kind = wrap_find(element, name_len);
	if (!kind)
		return ts_fail(TS_ECONFIG, "wrap: '%.*s' is no wrapper; there are: %s",
			       (int)name_len, element, wrap_names);
	if (*nr_layers == WRAP_MAX)
		return ts_fail(TS_ELIMIT, "wrap: more than %d wrappers", WRAP_MAX);
	layers[*nr_layers].kind = kind;
	layers[*nr_layers].options[0] = '\0';
	if (colon)
		layer_add_option(&layers[*nr_layers], colon + 1, len - name_len - 1);
	(*nr_layers)++;
	return 0;
}

static int wrap_parse(const char *wrap, struct layer *layers, unsigned *nr_layers)
{
	if (strlen(wrap) >= WRAP_TEXT_MAX)
		return ts_fail(TS_ELIMIT, "wrap: longer than %d characters", WRAP_TEXT_MAX - 1);
	while (*wrap) {
		size_t len = strcspn(wrap, ",");
		int result = wrap_parse_element(wrap, len, layers, nr_layers);

		if (result < 0)
			return result;
		wrap += len + (wrap[len] == ',');
	}
	return 0;
}

/* Puts one wrapper, with its guard, around *store.  On failure *store is closed. */
static int layer_open(const struct ts_wrap_kind *kind, const char *options,
		      const struct ts_store_config *config, struct ts_store **store)
{
	struct ts_store_config own = *config;
	struct ts_store *next = *store, *wrapper;
	uint32_t flags = next->ops->flags;

	own.options = options;
	int result = kind->open(next, &own, &wrapper);
	if (result < 0) {
		ts_store_close(next);
		return result;
	}
	if (kind == &ts_wrap_thread)
		flags &= ~(uint32_t)TS_STORE_BLOCKING_GET;
	return ts_guard_create(wrapper, kind->ops, next, flags, config, store);
}

/* The caller's config may be of an older header: missing members are zero. */
static int config_complete(const struct ts_store_config *config, struct ts_store_config *full)
{
	memset(full, 0, sizeof(*full));
	if (config->size < offsetof(struct ts_store_config, options))
		return ts_fail(TS_EVERSION, "store config: size is %zu; set it to sizeof(struct "
			       "ts_store_config)", config->size);
	memcpy(full, config, TS_MIN(config->size, sizeof(*full)));
	full->size = sizeof(*full);
	full->name = full->name ? full->name : "store";
	full->options = full->options ? full->options : "";
	if (!full->size_bytes || !full->frame_max_bytes || !full->batch_max ||
	    !full->reader_max || !full->depth_max)
		return ts_fail(TS_ECONFIG, "store '%s': size_bytes, frame_max_bytes, batch_max, "
			       "reader_max and depth_max must all be given", full->name);
	if (full->frame_max_bytes > UINT32_MAX - 4 * TS_PAGE_BYTES)
		return ts_fail(TS_ELIMIT, "store '%s': frame_max_bytes is too large", full->name);
	return 0;
}

/* The store itself, with its guard. */
static int base_open(const char *kind, const struct ts_store_ops *ops,
		     const struct ts_store_config *config, struct ts_store **store_out)
{
	struct ts_store_ops whole;
	struct ts_store *inner = NULL;

	if (!ops)
		ops = ts_store_find(kind ? kind : "");
	if (!ops)
		return ts_fail(TS_ECONFIG, "tier '%s': there is no store '%s'; there are: "
			       "%s", config->name, kind ? kind : "", store_names);
	int result = ts_ops_complete(ops, &whole);
	if (result < 0)
		return result;
	if (config->state_path && (!(whole.flags & TS_STORE_CAN_RESUME) || !whole.list))
		return ts_fail(TS_EUNSUPPORTED, "tier '%s': what the store '%s' holds ends with "
			       "its process, but the engine has a state folder; use the store "
			       "file, on a tmpfs for compressed RAM, or lmdb", config->name,
			       whole.name);
	result = whole.open(config, &inner);
	if (result < 0)
		return result;
	TS_ASSERT(result == 0 && inner && inner->ops);
	return ts_guard_create(inner, ops, NULL, whole.flags, config, store_out);
}

int ts_store_open(const char *kind, const struct ts_store_ops *ops, const char *wrap,
		  const struct ts_store_config *config, struct ts_store **store_out)
{
	struct layer layers[WRAP_MAX];
	struct ts_store_config full;
	struct ts_store *store;
	unsigned nr_layers = 0;
	bool has_thread = false;

	int result = config_complete(config, &full);
	if (result == 0)
		result = wrap_parse(wrap ? wrap : "", layers, &nr_layers);
	if (result == 0)
		result = base_open(kind, ops, &full, &store);
	if (result < 0)
		return result;
	for (unsigned i = 0; i < nr_layers; i++)
		has_thread |= layers[i].kind == &ts_wrap_thread;
	if (!has_thread && (store->ops->flags & TS_STORE_BLOCKING_GET)) {
		result = layer_open(&ts_wrap_thread, "", &full, &store);
		if (result < 0)
			return result;
	}
	for (unsigned i = nr_layers; i-- > 0;) {
		result = layer_open(layers[i].kind, layers[i].options, &full, &store);
		if (result < 0)
			return result;
	}
	*store_out = store;
	return 0;
}
