/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c — the pool's index, and the three operations on it (pool.h has the picture).
 *
 * An index entry says slot and length; the length says the class.  Who changes or removes an entry
 * holds the writer mutex of the class that it points into.
 *
 * A get takes no lock, so that a fault never waits for a writer that the scheduler has put aside.
 * It reads the entry, copies the bytes, and reads the entry again: writers change bytes only in
 * slots that no entry points to any more, so an entry that is still the same means that the copy
 * is right.  (Address space of slots is never unmapped; bytes given back read as zeros.)  An entry
 * does not become the same again: a move always goes to a lower slot, and a frame that replaces
 * another has another change number, 15 bits counted in each class.
 */
#include "store/pool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "store/pool_class.h"
#include "util/base.h"
#include "util/hook.h"
#include "util/limits.h"

enum {
	LEN_BITS = 20,           /* of an entry: length; above it: slot + 1, change number */
	SLOT_BITS = 29,
	NR_PAGE_LOCKS = 64,
	ENTRIES_SHIFT = 9,       /* entries in a page of the index */
	COUNTS_SHIFT = 11,       /* counts in a page of counts */
};

struct ts_pool {
	struct pool_budget budget;
	uint64_t key_max;
	uint32_t frame_max_bytes;
	unsigned nr_classes;
	size_t fixed_bytes;      /* this struct with its classes */
	struct pool_class *classes;

	/* The index and, for each of its pages, how many entries are in use. */
	_Atomic uint64_t *index;
	uint16_t *counts;        /* each guarded by the page lock of its number */
	_Atomic uint8_t *count_pages; /* which pages of counts are accounted for */
	pthread_mutex_t page_locks[NR_PAGE_LOCKS]; /* innermost */
	_Atomic uint64_t index_bytes;

	_Atomic uint64_t nr_frames, frame_bytes, written_bytes, moved_bytes;
};

static_assert(POOL_SEGMENT_SHIFT + POOL_SEGMENTS_MAX < SLOT_BITS, "slot + 1 fits");

/* A new value for an index entry that points into @cls.  Under cls->writer. */
static uint64_t entry_make(struct pool_class *cls, uint32_t slot, uint32_t len_bytes)
{
	uint64_t change = ++cls->nr_changes;

	return change << (SLOT_BITS + LEN_BITS) | ((uint64_t)slot + 1) << LEN_BITS | len_bytes;
}

static uint32_t entry_slot(uint64_t entry)
{
	return (uint32_t)(entry >> LEN_BITS & ((1u << SLOT_BITS) - 1)) - 1;
}

static uint32_t entry_len(uint64_t entry)
{
	return (uint32_t)(entry & ((1u << LEN_BITS) - 1));
}

static struct pool_class *class_for(struct ts_pool *pool, uint32_t len_bytes)
{
	return &pool->classes[ts_pool_class_of(len_bytes + POOL_OWNER_BYTES)];
}

static size_t index_len(const struct ts_pool *pool)
{
	return ((pool->key_max >> ENTRIES_SHIFT) + 1) * TS_PAGE_BYTES;
}

static size_t counts_len(const struct ts_pool *pool)
{
	return ((pool->key_max >> (ENTRIES_SHIFT + COUNTS_SHIFT)) + 1) * TS_PAGE_BYTES;
}

/* ---- The index's own pages ---------------------------------------------------------------- */

/* Before a key's entry is set: its page of the index is paid for.  TS_EFULL. */
static int index_hold(struct ts_pool *pool, uint64_t key)
{
	uint64_t page = key >> ENTRIES_SHIFT;
	_Atomic uint8_t *has_counts = &pool->count_pages[page >> COUNTS_SHIFT];

	TS_SCOPED_LOCK(&pool->page_locks[page % NR_PAGE_LOCKS]);
	if (!atomic_load(has_counts)) {
		if (!ts_pool_budget_take(&pool->budget, TS_PAGE_BYTES))
			return TS_EFULL;
		if (atomic_exchange(has_counts, 1)) /* another thread has paid meanwhile */
			ts_pool_budget_give(&pool->budget, TS_PAGE_BYTES);
		else
			atomic_fetch_add(&pool->index_bytes, TS_PAGE_BYTES);
	}
	if (pool->counts[page] == 0) {
		if (!ts_pool_budget_take(&pool->budget, TS_PAGE_BYTES))
			return TS_EFULL;
		atomic_fetch_add(&pool->index_bytes, TS_PAGE_BYTES);
	}
	pool->counts[page]++;
	return 0;
}

/* After a key's entry was cleared.  A page of zeros reads the same whether it is there or not, so
 * that a get may look at any time. */
static void index_release(struct ts_pool *pool, uint64_t key)
{
	uint64_t page = key >> ENTRIES_SHIFT;

	TS_SCOPED_LOCK(&pool->page_locks[page % NR_PAGE_LOCKS]);
	TS_ASSERT(pool->counts[page] > 0);
	if (pool->counts[page] == 1) {
		/* Where the kernel refuses, the page is paid for again when it is used. */
		if (!ts_pool_discard(&pool->budget, (char *)pool->index + page * TS_PAGE_BYTES,
				     TS_PAGE_BYTES))
			ts_pool_budget_give(&pool->budget, TS_PAGE_BYTES);
		atomic_fetch_sub(&pool->index_bytes, TS_PAGE_BYTES);
	}
	pool->counts[page]--;
}

/* ---- Create and destroy ------------------------------------------------------------------- */

static int classes_init(struct ts_pool *pool, unsigned nr_classes)
{
	for (; pool->nr_classes < nr_classes; pool->nr_classes++) {
		int result = ts_pool_class_init(&pool->classes[pool->nr_classes], pool->nr_classes);

		if (result < 0)
			return result;
	}
	return 0;
}

static int pool_init(struct ts_pool *pool, const char *name, unsigned nr_classes)
{
	size_t nr_count_pages = counts_len(pool) / TS_PAGE_BYTES;

	pool->fixed_bytes = sizeof(*pool) + nr_classes * sizeof(pool->classes[0]) + nr_count_pages;
	if (!ts_pool_budget_take(&pool->budget, pool->fixed_bytes))
		return ts_fail(TS_ECONFIG, "store '%s': a size of %llu bytes is too small; its "
			       "tables alone take %zu", name,
			       (unsigned long long)pool->budget.size_bytes, pool->fixed_bytes);
	for (unsigned i = 0; i < NR_PAGE_LOCKS; i++)
		pthread_mutex_init(&pool->page_locks[i], NULL);
	pool->classes = calloc(nr_classes, sizeof(pool->classes[0]));
	pool->count_pages = calloc(nr_count_pages, 1);
	pool->index = ts_pool_map(index_len(pool));
	pool->counts = ts_pool_map(counts_len(pool));
	if (!pool->classes || !pool->count_pages || !pool->index || !pool->counts ||
	    classes_init(pool, nr_classes) < 0)
		return ts_fail(-ENOMEM, "store '%s': can't map the index for %llu keys", name,
			       (unsigned long long)pool->key_max);
	return 0;
}

int ts_pool_create(const struct ts_pool_options *options, struct ts_pool **pool_out)
{
	uint32_t len_max = options->frame_max_bytes;
	struct ts_pool *pool;

	if (options->key_max > UINT32_MAX || len_max >= (1u << LEN_BITS) - POOL_OWNER_BYTES)
		return ts_fail(TS_ELIMIT, "store '%s': keys of at most 32 bits and frames below "
			       "1 MiB are what ram can hold", options->name);
	pool = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*pool));
	if (!pool)
		return ts_fail(-ENOMEM, "store '%s': no memory", options->name);
	pool->budget.size_bytes = options->size_bytes;
	pool->key_max = options->key_max;
	pool->frame_max_bytes = len_max;
	int result = pool_init(pool, options->name,
			       ts_pool_class_of(len_max + POOL_OWNER_BYTES) + 1);
	if (result < 0) {
		ts_pool_destroy(pool);
		return result;
	}
	*pool_out = pool;
	return 0;
}

void ts_pool_destroy(struct ts_pool *pool)
{
	if (!pool)
		return;
	for (unsigned i = 0; i < pool->nr_classes; i++)
		ts_pool_class_finish(&pool->classes[i]);
	if (pool->index)
		munmap(pool->index, index_len(pool));
	if (pool->counts)
		munmap(pool->counts, counts_len(pool));
	free(pool->count_pages);
	free(pool->classes);
	free(pool);
}

/* ---- Get ---------------------------------------------------------------------------------- */

/* Orders the reads or writes before it against those after it.  The thread sanitizer knows no
 * fences; it is told not to look at the copy instead, which is meant to be overtaken by writers. */
#ifdef __SANITIZE_THREAD__
#define ORDER(order) __asm__ volatile("" ::: "memory")

__attribute__((no_sanitize("thread"), noinline)) static void copy_unlocked(void *target,
									   const char *source,
									   uint32_t len_bytes)
{
	volatile char *to = target;
	const volatile char *from = source;

	while (len_bytes-- > 0)
		*to++ = *from++;
}
#else
#define ORDER(order) atomic_thread_fence(order)
#define copy_unlocked(target, source, len_bytes) memcpy(target, source, len_bytes)
#endif

void ts_pool_expect(const struct ts_pool *pool, uint64_t key)
{
	__builtin_prefetch(&pool->index[key]);
}

int ts_pool_get(struct ts_pool *pool, uint64_t key, void *buf, uint32_t *len_bytes_out)
{
	for (;;) {
		uint64_t entry = atomic_load_explicit(&pool->index[key], memory_order_acquire);

		if (!entry)
			return TS_ENOTFOUND;
		struct pool_class *cls = class_for(pool, entry_len(entry));
		copy_unlocked(buf, ts_pool_class_slot(cls, entry_slot(entry)) + POOL_OWNER_BYTES,
			      entry_len(entry));
		ORDER(memory_order_acquire);
		if (entry == atomic_load_explicit(&pool->index[key], memory_order_relaxed)) {
			*len_bytes_out = entry_len(entry);
			return 0;
		}
	}
}

/* ---- Put and del -------------------------------------------------------------------------- */

/* Takes the writer mutexes of up to two classes (either may be NULL) in their order. */
static void writers_lock(struct pool_class *a, struct pool_class *b)
{
	struct pool_class *first = a < b ? a : b, *second = a < b ? b : a;

	if (first)
		pthread_mutex_lock(&first->writer);
	if (second && second != first)
		pthread_mutex_lock(&second->writer);
}

static void writers_unlock(struct pool_class *a, struct pool_class *b)
{
	if (a)
		pthread_mutex_unlock(&a->writer);
	if (b && b != a)
		pthread_mutex_unlock(&b->writer);
}

/* Points @key away from its slot in @cls, to @entry (0: nowhere), and moves the class's last frame
 * into the slot.  Under cls->writer. */
static void slot_remove(struct ts_pool *pool, struct pool_class *cls, uint64_t key, uint64_t entry)
{
	uint64_t old = atomic_load_explicit(&pool->index[key], memory_order_relaxed);
	uint32_t hole = entry_slot(old), last = cls->nr_slots - 1;
	char *source = ts_pool_class_slot(cls, last), *target = ts_pool_class_slot(cls, hole);
	uint32_t owner;

	memcpy(&owner, source, sizeof(owner));
	atomic_store_explicit(&pool->index[key], entry, memory_order_release);
	ORDER(memory_order_release); /* first the entry changes, then the bytes in the hole */
	if (hole != last) {
		uint32_t len_bytes = entry_len(atomic_load(&pool->index[owner]));

		memcpy(target, source, POOL_OWNER_BYTES + len_bytes);
		atomic_store_explicit(&pool->index[owner], entry_make(cls, hole, len_bytes),
				      memory_order_release);
		atomic_fetch_add_explicit(&pool->moved_bytes, len_bytes, memory_order_relaxed);
	}
	cls->nr_slots--;
	ts_pool_class_shrink(cls, &pool->budget, false);
}

/* Writes the frame behind the last one of @cls and points the key there.  Returns 0 or an error;
 * 1 if another thread has put the key meanwhile. */
static int put_new(struct ts_pool *pool, struct pool_class *cls, uint64_t key, uint64_t old,
		   const void *data, uint32_t len_bytes)
{
	uint32_t slot = cls->nr_slots, owner = (uint32_t)key;
	uint64_t entry = entry_make(cls, slot, len_bytes), none = 0;
	int result = ts_pool_class_hold(cls, &pool->budget);

	if (result < 0)
		return result;
	char *target = ts_pool_class_slot(cls, slot);
	memcpy(target, &owner, sizeof(owner));
	memcpy(target + POOL_OWNER_BYTES, data, len_bytes);
	if (old) {
		cls->nr_slots++;
		slot_remove(pool, class_for(pool, entry_len(old)), key, entry);
		return 0;
	}
	result = index_hold(pool, key);
	if (result == 0 && !atomic_compare_exchange_strong(&pool->index[key], &none, entry)) {
		index_release(pool, key);
		result = 1;
	}
	if (result == 0)
		cls->nr_slots++;
	else
		ts_pool_class_shrink(cls, &pool->budget, false);
	return result;
}

/* One attempt under the writer mutexes; 1: the key has changed since @old was read. */
static int put_try(struct ts_pool *pool, uint64_t key, uint64_t old, const void *data,
		   uint32_t len_bytes)
{
	struct pool_class *cls = class_for(pool, len_bytes);
	struct pool_class *old_cls = old ? class_for(pool, entry_len(old)) : NULL;
	int result = 0;

	writers_lock(cls, old_cls);
	if (atomic_load(&pool->index[key]) != old)
		result = 1;
	else
		result = put_new(pool, cls, key, old, data, len_bytes);
	writers_unlock(cls, old_cls);
	return result;
}

int ts_pool_put(struct ts_pool *pool, uint64_t key, const void *data, uint32_t len_bytes)
{
	uint64_t old;
	int result;

	TS_ASSERT(key <= pool->key_max && len_bytes > 0 && len_bytes <= pool->frame_max_bytes);
	do {
		old = atomic_load_explicit(&pool->index[key], memory_order_acquire);
		result = put_try(pool, key, old, data, len_bytes);
	} while (result == 1);
	if (result < 0)
		return result;
	if (!old)
		atomic_fetch_add_explicit(&pool->nr_frames, 1, memory_order_relaxed);
	/* Unsigned: taking off the old length may wrap in between, the sum doesn't. */
	atomic_fetch_add_explicit(&pool->frame_bytes,
				  (uint64_t)len_bytes - (old ? entry_len(old) : 0),
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&pool->written_bytes, len_bytes, memory_order_relaxed);
	return 0;
}

void ts_pool_del(struct ts_pool *pool, uint64_t key)
{
	TS_ASSERT(key <= pool->key_max);
	for (;;) {
		uint64_t old = atomic_load_explicit(&pool->index[key], memory_order_acquire);

		if (!old)
			return;
		struct pool_class *cls = class_for(pool, entry_len(old));
		TS_SCOPED_LOCK(&cls->writer);
		if (old != atomic_load(&pool->index[key]))
			continue;
		slot_remove(pool, cls, key, 0);
		index_release(pool, key);
		atomic_fetch_sub_explicit(&pool->nr_frames, 1, memory_order_relaxed);
		atomic_fetch_sub_explicit(&pool->frame_bytes, entry_len(old),
					  memory_order_relaxed);
		return;
	}
}

/* ---- The rest ----------------------------------------------------------------------------- */

void ts_pool_trim(struct ts_pool *pool)
{
	for (unsigned i = 0; i < pool->nr_classes; i++) {
		TS_SCOPED_LOCK(&pool->classes[i].writer);
		ts_pool_class_shrink(&pool->classes[i], &pool->budget, true);
	}
}

void ts_pool_stat_get(struct ts_pool *pool, struct ts_pool_stat *stat)
{
	stat->capacity_bytes = pool->budget.size_bytes;
	stat->nr_frames = atomic_load(&pool->nr_frames);
	stat->frame_bytes = atomic_load(&pool->frame_bytes);
	stat->used_bytes = atomic_load(&pool->budget.used_bytes);
	stat->index_bytes = atomic_load(&pool->index_bytes);
	stat->written_bytes = atomic_load(&pool->written_bytes);
	stat->moved_bytes = atomic_load(&pool->moved_bytes);
	stat->discarded_bytes = atomic_load(&pool->budget.discarded_bytes);
}
