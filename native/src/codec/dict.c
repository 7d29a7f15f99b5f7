/* SPDX-License-Identifier: Apache-2.0
 *
 * dict.c — the dictionaries of an engine.
 *
 * The table only grows: frames that were encoded with a dictionary may lie in a tier for as long
 * as the engine lives.  A dictionary is complete before its pointer is published, and never
 * changes afterwards, so that fault threads find it with one load and no lock.  Ids are slot
 * numbers plus one.
 */
#include "codec/frame.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "util/base.h"
#include "util/hook.h"

struct ts_dict_table {
	pthread_mutex_t add_mutex; /* Guards nr_dicts.  Readers don't take it. */
	uint32_t nr_dicts;
	_Atomic(struct ts_dict *) slots[TS_DICT_MAX];
};

int ts_dict_table_create(struct ts_dict_table **table_out)
{
	struct ts_dict_table *table = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*table));

	if (!table)
		return ts_fail(-ENOMEM, "no memory for the table of dictionaries");
	pthread_mutex_init(&table->add_mutex, NULL);
	*table_out = table;
	return 0;
}

static void dict_destroy(struct ts_dict *dict)
{
	if (!dict)
		return;
	/* Both accept NULL. */
	ZSTD_freeCDict(dict->for_encode);
	ZSTD_freeDDict(dict->for_decode);
	free(dict->bytes);
	free(dict);
}

void ts_dict_table_destroy(struct ts_dict_table *table)
{
	if (!table)
		return;
	for (unsigned i = 0; i < TS_DICT_MAX; i++)
		dict_destroy(atomic_load_explicit(&table->slots[i], memory_order_relaxed));
	pthread_mutex_destroy(&table->add_mutex);
	free(table);
}

/* zstd takes bytes without the magic number for a dictionary of plain contents.  That is never
 * what the caller meant, so it is refused. */
static bool is_zdict(const void *data, size_t len_bytes)
{
	uint32_t magic;

	if (len_bytes < 8 || len_bytes > TS_DICT_BYTES_MAX)
		return false;
	memcpy(&magic, data, sizeof(magic));
	return le32toh(magic) == ZSTD_MAGIC_DICTIONARY;
}

static struct ts_dict *dict_create(const void *data, size_t len_bytes, int level)
{
	struct ts_dict *dict = calloc(1, sizeof(*dict));

	if (!dict)
		return NULL;
	dict->len_bytes = len_bytes;
	dict->bytes = malloc(len_bytes);
	if (dict->bytes) {
		memcpy(dict->bytes, data, len_bytes);
		dict->for_encode = ZSTD_createCDict(data, len_bytes, level);
		dict->for_decode = ZSTD_createDDict(data, len_bytes);
	}
	return dict;
}

/* Into a free slot; the caller holds add_mutex.  0 or an error. */
static int add_at(struct ts_dict_table *table, uint32_t slot, const void *data, size_t len_bytes,
		  int level)
{
	struct ts_dict *dict;

	dict = TS_INJECT(TS_SITE_ALLOC) ? NULL : dict_create(data, len_bytes, level ? level : 1);
	if (!dict || !dict->bytes) {
		dict_destroy(dict);
		return ts_fail(-ENOMEM, "no memory for a dictionary of %zu bytes", len_bytes);
	}
	if (!dict->for_encode || !dict->for_decode) {
		dict_destroy(dict);
		return ts_fail(TS_ECONFIG, "dictionary of %zu bytes: zstd finds it damaged",
			       len_bytes);
	}
	/* Release: whoever sees the pointer sees what it points to. */
	atomic_store_explicit(&table->slots[slot], dict, memory_order_release);
	table->nr_dicts = TS_MAX(table->nr_dicts, slot + 1);
	return 0;
}

int ts_dict_add(struct ts_dict_table *table, const void *data, size_t len_bytes, int level)
{
	if (!data || !is_zdict(data, len_bytes))
		return ts_fail(TS_ECONFIG, "dictionary of %zu bytes: not in ZDICT format, or "
			       "longer than %d bytes; train one with `zstd --train` or "
			       "tierstore.training", len_bytes, TS_DICT_BYTES_MAX);
	TS_SCOPED_LOCK(&table->add_mutex);
	uint32_t slot = table->nr_dicts;
	if (slot == TS_DICT_MAX)
		return ts_fail(TS_ELIMIT, "an engine can hold %d dictionaries; close and open it "
			       "again to start over", TS_DICT_MAX);
	int rc = add_at(table, slot, data, len_bytes, level);
	return rc ? rc : (int)table->nr_dicts;
}

int ts_dict_restore(struct ts_dict_table *table, uint32_t id, const void *data, size_t len_bytes,
		    int level)
{
	if (!ts_dict_id_is_valid(id) || !is_zdict(data, len_bytes))
		return TS_ECORRUPT;
	TS_SCOPED_LOCK(&table->add_mutex);
	if (atomic_load_explicit(&table->slots[id - 1], memory_order_relaxed))
		return 0;
	return add_at(table, id - 1, data, len_bytes, level);
}

const struct ts_dict *ts_dict_find(struct ts_dict_table *table, uint32_t id)
{
	if (!table || !ts_dict_id_is_valid(id))
		return NULL;
	return atomic_load_explicit(&table->slots[id - 1], memory_order_acquire);
}

const void *ts_dict_bytes_borrow(struct ts_dict_table *table, uint32_t id, size_t *len_out)
{
	const struct ts_dict *dict = ts_dict_find(table, id);

	if (!dict)
		return NULL;
	*len_out = dict->len_bytes;
	return dict->bytes;
}
