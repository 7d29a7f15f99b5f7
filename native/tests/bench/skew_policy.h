/* SPDX-License-Identifier: Apache-2.0
 *
 * skew_policy.h — how many faults a policy could have: the same requests, so many pages resident,
 * and nothing but counting.  Policies: the least recently used page leaves, which sees reads as
 * well as writes, at once; and the page that will not be wanted for longest, which sees the
 * future: nobody can do with fewer. */
#ifndef TS_TESTS_SKEW_POLICY_H
#define TS_TESTS_SKEW_POLICY_H

#include "measure.h"

/* When a page is wanted; the page that is to leave has the greatest value. */
struct skew_use {
	uint64_t value;
	uint32_t page;
};

static struct {
	struct skew_use *heap;   /* greatest first; entries that no longer hold are skipped */
	uint64_t nr_heap;
	uint64_t *value;         /* of each page, now */
	bool *is_resident;
} skew;

static void skew_push(struct skew_use use)
{
	uint64_t i = skew.nr_heap++;

	for (; i && skew.heap[(i - 1) / 2].value < use.value; i = (i - 1) / 2)
		skew.heap[i] = skew.heap[(i - 1) / 2];
	skew.heap[i] = use;
}

static struct skew_use skew_pop(void)
{
	struct skew_use top = skew.heap[0], last = skew.heap[--skew.nr_heap];
	uint64_t i = 0;

	for (uint64_t child; (child = 2 * i + 1) < skew.nr_heap; i = child) {
		if (child + 1 < skew.nr_heap &&
		    skew.heap[child + 1].value > skew.heap[child].value)
			child++;
		if (skew.heap[child].value <= last.value)
			break;
		skew.heap[i] = skew.heap[child];
	}
	skew.heap[i] = last;
	return top;
}

static void skew_leave(void)
{
	struct skew_use use;

	do
		use = skew_pop();
	while (!skew.is_resident[use.page] || skew.value[use.page] != use.value);
	skew.is_resident[use.page] = false;
}

/* When each request's page is wanted again, and each page for the first time; nr: never. */
static uint64_t *skew_next_uses(const uint32_t *pages, uint64_t nr, uint64_t nr_pages)
{
	uint64_t *next = malloc(nr * sizeof(*next));

	CHECK(next != NULL);
	for (uint64_t page = 0; page < nr_pages; page++)
		skew.value[page] = nr;
	for (uint64_t i = nr; i-- > 0; skew.value[pages[i]] = i)
		next[i] = skew.value[pages[i]];
	return next;
}

/* Faults among the requests from nr / 2 on.  All pages are there at first, and then nr_resident. */
static uint64_t skew_faults(const uint32_t *pages, uint64_t nr, uint64_t nr_pages,
			    uint64_t nr_resident, bool sees_future)
{
	uint64_t nr_faults = 0;

	skew.heap = malloc((nr + nr_pages) * sizeof(*skew.heap));
	skew.value = malloc(nr_pages * sizeof(*skew.value));
	skew.is_resident = malloc(nr_pages * sizeof(*skew.is_resident));
	CHECK(skew.heap && skew.value && skew.is_resident && nr_resident <= nr_pages);
	skew.nr_heap = 0;
	uint64_t *next = skew_next_uses(pages, nr, nr_pages);
	for (uint32_t page = 0; page < nr_pages; page++) {
		skew.is_resident[page] = true;
		skew.value[page] = sees_future ? skew.value[page] : nr + 1;
		skew_push((struct skew_use){ skew.value[page], page });
	}
	for (uint64_t page = nr_resident; page < nr_pages; page++)
		skew_leave();
	for (uint64_t i = 0; i < nr; i++) {
		uint32_t page = pages[i];

		nr_faults += i >= nr / 2 && !skew.is_resident[page];
		if (!skew.is_resident[page])
			skew_leave();
		skew.is_resident[page] = true;
		skew.value[page] = sees_future ? next[i] : nr - i;
		skew_push((struct skew_use){ skew.value[page], page });
	}
	free(next);
	free(skew.heap);
	free(skew.value);
	free(skew.is_resident);
	return nr_faults;
}

#endif
