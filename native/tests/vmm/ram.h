/* SPDX-License-Identifier: Apache-2.0
 *
 * ram.h — the double's guest RAM: ranges of memory whose every page says what it must hold.
 *
 * Pages are numbered through all ranges.  A page's contents follow from its start (a pattern, the
 * page of a snapshot's memory file, or zeros), from the moment in which the balloon took it, and
 * from the writes since then; a table outside the guest knows the last two.  Whoever touches a
 * page holds its lock, so every byte that was read can be told right or wrong.
 */
#ifndef TS_TESTS_VMM_RAM_H
#define TS_TESTS_VMM_RAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	RAM_PAGE_BYTES = 4096,
	RAM_RANGES_MAX = 32,
	RAM_PAGES_MAX = 1 << 22,  /* 16 GiB */
	RAM_REPORTS_MAX = 8,      /* wrong pages that are described */
};

enum ram_contents { RAM_PATTERN, RAM_EMPTY, RAM_FILE };

struct ram_range {
	unsigned char *addr;
	uint64_t len_bytes;
	uint64_t guest_addr;    /* where the guest sees it */
	uint64_t offset_bytes;  /* in its memfd, or in the snapshot's memory file */
	uint64_t first_page;
	int memfd;              /* -1: private anonymous memory */
};

/* What is known of a page outside the guest. */
struct ram_page {
	_Atomic uint32_t version;  /* writes so far; bit 31: locked */
	uint32_t base;             /* version at which it was given up; RAM_NEVER: not yet */
};

struct ram {
	uint64_t seed;
	enum ram_contents contents;
	bool is_memfd;
	bool is_one_memfd;         /* all ranges of the start lie in one memfd */
	const unsigned char *file; /* RAM_FILE: the snapshot's memory file, mapped */
	uint64_t file_bytes;
	struct ram_page *pages;
	struct ram_range ranges[RAM_RANGES_MAX];
	_Atomic unsigned nr_ranges;
	_Atomic uint64_t nr_pages; /* published after the ranges that hold them */
	uint64_t len_bytes;        /* of all ranges: where the next one starts in the file */
	_Atomic uint64_t nr_wrong, nr_poisoned;
};

/* How one touch of a page went. */
struct ram_touch {
	uint64_t wait_ns;  /* the first access took that long */
	bool is_wrong, is_poisoned;
};

void ram_init(struct ram *ram);
/* Maps @path as the contents to start from.  These end the program when they can't do it. */
void ram_use_file(struct ram *ram, const char *path);
void ram_write_file(struct ram *ram, const char *path, uint64_t len_bytes);
/* Memory for a range is mapped, not yet filled; ram_publish() lets vCPUs and verify see it. */
struct ram_range *ram_add_range(struct ram *ram, uint64_t len_bytes);
void ram_fill_range(struct ram *ram, const struct ram_range *range);
void ram_publish(struct ram *ram);

/* Reads or writes one page and compares every byte.  @now, if not NULL, says since when the
 * access is under way, for those who ask who is blocked. */
struct ram_touch ram_touch_page(struct ram *ram, uint64_t page, bool is_write,
				_Atomic uint64_t *started_ns);

/* The guest gives pages of one range up, by "dontneed", "remove", "punch" or "punch+dontneed".
 * They must read as zeros from then on.  0 or -errno. */
int ram_balloon(struct ram *ram, uint64_t page, uint64_t nr_pages, const char *how);

uint64_t ram_resident_bytes(const struct ram_range *range);
uint64_t ram_now_ns(void);
/* Prints one line of JSON, as a whole. */
void ram_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints {"event":"error"} and ends the program with @code. */
_Noreturn void ram_die(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
