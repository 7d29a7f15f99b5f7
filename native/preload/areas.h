/* SPDX-License-Identifier: Apache-2.0
 *
 * areas.h — the memory that the program has mapped and that might be worth a tier.
 *
 * A fixed table, so that nothing is allocated inside of somebody's mmap().  Readers that only want
 * to know whether an address might matter take no lock: who unmaps a range has seen its mmap()
 * return.  Changes are made under tsp_lock(), with all signals blocked, and so is attaching: an
 * area that is in the table cannot be unmapped while it is being attached.
 */
#ifndef TSP_AREAS_H
#define TSP_AREAS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { TSP_AREA_MAX = 2048 };

enum tsp_kind { TSP_KIND_ANON = 0, TSP_KIND_MEMFD = 1 };

enum tsp_area_state {
	TSP_AREA_WATCHED = 0,   /* waits to be old enough */
	TSP_AREA_ATTACHED = 1,
	TSP_AREA_LEFT = 2,      /* never: came with a fork, or memory shared with a child */
};

struct tsp_area {
	_Atomic uint64_t start, end;  /* equal: a free slot */
	uint64_t inode, offset;       /* memfd */
	uint64_t born_ms, due_ms;     /* due_ms: not before; 0: as it was born */
	int32_t fd;
	uint32_t region;              /* the agent's id, while attached */
	uint8_t kind, state;
	bool was_shared;              /* with a child: its pages must become exclusive first */
	bool is_dontfork;             /* the program said so */
	bool is_reported;
	/* By mremap() while attached: its new end is left out of children, too, and the engine,
	 * which has no page there, does not take that back. */
	bool has_grown;
};

struct tsp_rule {
	uint64_t bytes_min, bytes_max;  /* bytes_max 0: no limit */
	bool has_anon, has_memfd;
	char memfd_name[64];            /* only memfds of this name; "": any */
};

struct tsp_table {
	struct tsp_rule rule;
	_Atomic uint32_t nr_used;       /* slots that were ever in use */
	struct tsp_area areas[TSP_AREA_MAX];
};

extern struct tsp_table tsp_table;

void tsp_lock(void);
void tsp_unlock(void);
/* In the child of a fork: the lock as new. */
void tsp_lock_renew(void);

/* Does anything in the table overlap [start, end)?  Takes no lock. */
bool tsp_areas_overlap(uint64_t start, uint64_t end);

/* The rest needs the lock. */

/* Adds an area, or lengthens one that it adjoins; true if it is now one that the rule wants. */
bool tsp_areas_add(const struct tsp_area *area);
void tsp_areas_remove(uint64_t start, uint64_t end);
void tsp_areas_move(uint64_t from, uint64_t from_bytes, uint64_t to, uint64_t to_bytes);
void tsp_areas_set_dontfork(uint64_t start, uint64_t end, bool is_dontfork);
bool tsp_area_is_wanted(const struct tsp_area *area);

#endif
