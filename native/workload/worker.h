/* SPDX-License-Identifier: Apache-2.0
 *
 * worker.h — what the workload's two files share. */
#ifndef TS_WORKLOAD_WORKER_H
#define TS_WORKLOAD_WORKER_H

#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "content.h"
#include "workload.h"

/* What must be in a page.  16 bytes; written by whoever holds the lock. */
struct entry {
	uint64_t hash;
	uint32_t version;
	uint32_t lock;     /* 1: a worker is in this page.  Others go elsewhere, nobody waits. */
};

struct worker {
	struct ts_workload *workload;
	pthread_t thread;
	uint64_t rng;
	uint64_t nr_sleeps; /* the kernel's count of this thread's voluntary switches, last seen */
	/* Written by this thread alone, read by anyone. */
	uint64_t nr_touches, nr_writes, nr_mismatches, nr_lost, nr_faults;
	struct ts_hist fault;
} __attribute__((aligned(64)));

struct ts_workload {
	struct ts_workload_options options;
	uint64_t nr_pages;
	struct entry *entries;
	struct worker *workers;
	unsigned nr_started;
	uint64_t start_ns;
	bool is_stopping;
	uint64_t first_bad_page;
};

static inline uint64_t *worker_page(const struct ts_workload *workload, uint64_t page)
{
	return (uint64_t *)((char *)workload->options.addr + page * CONTENT_PAGE_BYTES);
}

/* Until the next call a SIGBUS of this thread jumps there (NULL: it is handed on).  Returns what
 * was set before. */
sigjmp_buf *ts_worker_guard(sigjmp_buf *jump);

/* Remembers the lowest page that was found wrong. */
void ts_worker_note_bad(struct ts_workload *workload, uint64_t page);

void *ts_worker_main(void *worker);

#endif
