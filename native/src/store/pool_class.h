/* SPDX-License-Identifier: Apache-2.0
 * pool_class.h — inside the pool: size classes and the memory behind them. */
#ifndef TS_STORE_POOL_CLASS_H
#define TS_STORE_POOL_CLASS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	/* A slot begins with the key of its frame. */
	POOL_OWNER_BYTES = 4,
	/* Segment k of a class has 256 * 2^k slots, so 20 of them hold 2^28 frames.  Doubling
	 * keeps both the number of mappings and the address space that is set aside small. */
	POOL_SEGMENT_SHIFT = 8,
	POOL_SEGMENTS_MAX = 20,
};

/* RAM that the pool has, against its limit. */
struct pool_budget {
	uint64_t size_bytes;
	_Atomic uint64_t used_bytes;
	_Atomic uint64_t discarded_bytes; /* total given back */
};

struct pool_class {
	/* Held by put and del, never by get.  Guards all members, which slots are in use, and the
	 * index entries that point to them.  Order: by class, ascending; then the pool's page
	 * mutexes. */
	pthread_mutex_t writer;
	uint64_t nr_changes;                     /* entries made: for their change numbers */
	uint32_t slot_bytes;
	uint32_t nr_slots;                       /* in use: 0 .. nr_slots - 1 */
	char *segments[POOL_SEGMENTS_MAX];       /* NULL: not yet mapped */
	uint32_t held_pages[POOL_SEGMENTS_MAX];  /* accounted for, from the beginning */
};

/* The class for a slot of @bytes, and the size of a class's slots. */
unsigned ts_pool_class_of(uint32_t bytes);
uint32_t ts_pool_class_bytes(unsigned class_index);

bool ts_pool_budget_take(struct pool_budget *budget, uint64_t bytes);
void ts_pool_budget_give(struct pool_budget *budget, uint64_t bytes);

/* Address space that costs nothing until it is touched; NULL and errno on failure. */
void *ts_pool_map(size_t len_bytes);
/* Returns false if the kernel refuses: the pages are still there. */
bool ts_pool_discard(struct pool_budget *budget, void *addr, size_t len_bytes);

int ts_pool_class_init(struct pool_class *cls, unsigned class_index);
void ts_pool_class_finish(struct pool_class *cls);

/* Where a slot lies.  Its segment has been mapped by ts_pool_class_hold(). */
char *ts_pool_class_slot(const struct pool_class *cls, uint32_t slot);
/* Under writer: RAM for slot nr_slots.  0, TS_EFULL, -ENOMEM. */
int ts_pool_class_hold(struct pool_class *cls, struct pool_budget *budget);
/* Under writer: gives pages behind the last slot back, if there are more than a share of the
 * class (or any, with @all). */
void ts_pool_class_shrink(struct pool_class *cls, struct pool_budget *budget, bool all);

#endif
