/* SPDX-License-Identifier: Apache-2.0
 * areas.c — the table of mapped memory (areas.h). */
#include "areas.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

struct tsp_table tsp_table;

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static sigset_t holders_mask;

void tsp_lock(void)
{
	sigset_t all, before;

	/* A handler that maps memory would come here again. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&table_lock);
	holders_mask = before;
}

void tsp_unlock(void)
{
	sigset_t before = holders_mask;

	pthread_mutex_unlock(&table_lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void tsp_lock_renew(void)
{
	sigset_t before = holders_mask;

	table_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

bool tsp_areas_overlap(uint64_t start, uint64_t end)
{
	uint32_t nr_used = atomic_load(&tsp_table.nr_used);

	for (uint32_t i = 0; i < nr_used; i++) {
		const struct tsp_area *area = &tsp_table.areas[i];
		if (atomic_load(&area->start) < end && start < atomic_load(&area->end))
			return true;
	}
	return false;
}

bool tsp_area_is_wanted(const struct tsp_area *area)
{
	const struct tsp_rule *rule = &tsp_table.rule;
	uint64_t bytes = area->end - area->start;

	return bytes >= rule->bytes_min && (!rule->bytes_max || bytes <= rule->bytes_max);
}

static struct tsp_area *free_slot(void)
{
	uint32_t nr_used = tsp_table.nr_used;

	for (uint32_t i = 0; i < nr_used; i++)
		if (tsp_table.areas[i].start == tsp_table.areas[i].end)
			return &tsp_table.areas[i];
	if (nr_used == TSP_AREA_MAX)
		return NULL;
	atomic_store(&tsp_table.nr_used, nr_used + 1);
	return &tsp_table.areas[nr_used];
}

static void place(struct tsp_area *slot, const struct tsp_area *area)
{
	slot->inode = area->inode;
	slot->offset = area->offset;
	slot->born_ms = area->born_ms;
	slot->due_ms = area->due_ms;
	slot->fd = area->fd;
	slot->region = area->region;
	slot->kind = area->kind;
	slot->state = area->state;
	slot->was_shared = area->was_shared;
	slot->is_dontfork = area->is_dontfork;
	slot->is_reported = area->is_reported;
	slot->has_grown = area->has_grown;
	/* A reader may see the two out of step: then it takes the lock for nothing. */
	atomic_store(&slot->start, area->start);
	atomic_store(&slot->end, area->end);
}

bool tsp_areas_add(const struct tsp_area *area)
{
	for (uint32_t i = 0; i < tsp_table.nr_used && area->kind == TSP_KIND_ANON; i++) {
		struct tsp_area *old = &tsp_table.areas[i];
		if (old->start == old->end || old->kind != TSP_KIND_ANON ||
		    old->state != TSP_AREA_WATCHED || old->was_shared)
			continue;
		if (old->end != area->start && old->start != area->end)
			continue;
		struct tsp_area joined = *old;
		joined.start = old->start < area->start ? old->start : area->start;
		joined.end = old->end > area->end ? old->end : area->end;
		atomic_store(&old->end, old->start);
		joined.is_reported = false;
		return tsp_areas_add(&joined);
	}
	struct tsp_area *slot = free_slot();
	if (!slot)
		return false; /* The program keeps it; it is not ours to move. */
	place(slot, area);
	return tsp_area_is_wanted(slot);
}

void tsp_areas_remove(uint64_t start, uint64_t end)
{
	for (uint32_t i = 0; i < tsp_table.nr_used; i++) {
		struct tsp_area *area = &tsp_table.areas[i];
		if (area->start == area->end || area->start >= end || start >= area->end)
			continue;
		if (area->start < start && end < area->end) {
			struct tsp_area tail = *area, *slot = free_slot();
			tail.offset += end - area->start;
			tail.start = end;
			atomic_store(&area->end, start);
			if (slot)
				place(slot, &tail);
		} else if (area->start < start) {
			atomic_store(&area->end, start);
		} else if (end < area->end) {
			area->offset += end - area->start;
			atomic_store(&area->start, end);
		} else {
			atomic_store(&area->end, area->start);
		}
	}
}

void tsp_areas_move(uint64_t from, uint64_t from_bytes, uint64_t to, uint64_t to_bytes)
{
	struct tsp_area moved = { 0 };

	for (uint32_t i = 0; i < tsp_table.nr_used && !moved.end; i++) {
		struct tsp_area *area = &tsp_table.areas[i];
		if (area->start <= from && from < area->end) {
			moved = *area;
			moved.offset += from - area->start;
		}
	}
	tsp_areas_remove(to, to + to_bytes);
	if (to != from || from_bytes > to_bytes)
		tsp_areas_remove(from, from + from_bytes);
	struct tsp_area *slot = moved.end ? free_slot() : NULL;
	if (!slot)
		return;
	moved.start = to;
	moved.end = to + to_bytes;
	moved.has_grown |= to_bytes > from_bytes;
	place(slot, &moved);
}

void tsp_areas_set_dontfork(uint64_t start, uint64_t end, bool is_dontfork)
{
	for (uint32_t i = 0; i < tsp_table.nr_used; i++) {
		struct tsp_area *area = &tsp_table.areas[i];
		/* A part of an area: the rest would be left out of children, too. */
		if (start <= area->start && area->end <= end)
			area->is_dontfork = is_dontfork;
	}
}
