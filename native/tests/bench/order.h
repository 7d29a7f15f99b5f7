/* SPDX-License-Identifier: Apache-2.0
 *
 * order.h — in which order pages are touched, and threads that touch them and take the time. */
#ifndef TS_TESTS_ORDER_H
#define TS_TESTS_ORDER_H

#include <pthread.h>

#include "measure.h"

enum { CLUSTER_PAGES = 32, TOUCHERS_MAX = 64, TOUCHERS_EACH = -2 };

/* Every page once: "seq" ascending; "random"; "cluster": aligned runs of 32 pages, ascending
 * within, the runs in random order. */
static inline uint32_t *order_create(const char *pattern, uint64_t nr_pages, uint64_t seed)
{
	uint32_t *order = malloc(nr_pages * sizeof(*order));
	uint64_t unit = strcmp(pattern, "cluster") == 0 ? CLUSTER_PAGES : 1;
	uint64_t nr_units = nr_pages / unit;

	CHECK(order != NULL && nr_pages % unit == 0);
	for (uint64_t i = 0; i < nr_units; i++)
		order[i] = (uint32_t)i;
	if (strcmp(pattern, "seq") != 0)
		for (uint64_t i = nr_units - 1; i > 0; i--) {
			uint64_t other = content_random(&seed) % (i + 1);
			uint32_t keep = order[i];
			order[i] = order[other];
			order[other] = keep;
		}
	/* Units to pages, from the end, so that nothing is overwritten that is still needed. */
	for (uint64_t i = nr_pages; unit > 1 && i-- > 0;)
		order[i] = (uint32_t)(order[i / unit] * unit + i % unit);
	return order;
}

struct toucher {
	pthread_t thread;
	pthread_barrier_t *start;
	const unsigned char *mem;
	const uint32_t *order;
	uint32_t *ns;
	uint64_t nr;
	int64_t cpu;
	uint64_t sum;
};

static inline void *toucher_run(void *arg)
{
	struct toucher *toucher = arg;

	pin_to(toucher->cpu);
	pthread_barrier_wait(toucher->start);
	for (uint64_t i = 0; i < toucher->nr; i++) {
		const volatile unsigned char *page =
			toucher->mem + (uint64_t)toucher->order[i] * MEASURE_PAGE;
		uint64_t start = mono_ns();

		toucher->sum += page[i % MEASURE_PAGE];
		uint64_t took = mono_ns() - start;
		toucher->ns[i] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
	}
	return NULL;
}

/* All pages, by nr_threads threads with a slice of the order each, pinned to cpu unless it is
 * negative, or with TOUCHERS_EACH the first to CPU 0, the next to CPU 1.  ns gets the time of each
 * touch. */
static inline struct span touch_all(const struct memory *memory, const uint32_t *order,
				    unsigned nr_threads, int64_t cpu, uint32_t *ns)
{
	static struct toucher touchers[TOUCHERS_MAX];
	uint64_t slice = memory->nr_pages / nr_threads;
	pthread_barrier_t start;

	CHECK(nr_threads <= TOUCHERS_MAX && memory->nr_pages % nr_threads == 0);
	CHECK_EQ(pthread_barrier_init(&start, NULL, nr_threads + 1), 0);
	for (unsigned i = 0; i < nr_threads; i++) {
		touchers[i] = (struct toucher){ .start = &start, .mem = memory->mem,
						.order = order + i * slice, .ns = ns + i * slice,
						.nr = slice, .cpu = cpu };
		if (cpu == TOUCHERS_EACH)
			touchers[i].cpu = i;
		CHECK_EQ(pthread_create(&touchers[i].thread, NULL, toucher_run, &touchers[i]), 0);
	}
	struct span span = span_begin();
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < nr_threads; i++)
		CHECK_EQ(pthread_join(touchers[i].thread, NULL), 0);
	span = span_end(span);
	CHECK_EQ(pthread_barrier_destroy(&start), 0);
	return span;
}

#endif
