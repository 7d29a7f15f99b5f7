/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_memory.c — one run of one way out of memory and back (way.h): fill a guest's memory from a
 * corpus, take all of it out, touch all of it again, check that it is what it was.
 *
 *   bench_memory way=ours|bare|calls|swap corpus=FILE pages=N [memory=anon|memfd]
 *                [codec=lz4|zstd] [level=N] [range=BYTES] [store=ram|file] [path=PATH]
 *                [evict_threads=N]
 *                [pattern=random|seq|cluster] [threads=N] [seed=N] [touch=0]
 *                [cpu=N] the touching threads' CPU; [cpu=each] each its own
 *     ours:      [restore=auto|page|range]
 *     ours, bare: [serve=message|in-thread] [fault_threads=N] [fault_cpus=MASK]
 *                [spin_us=N]
 *     bare:      [codec=none] a page that needs no codec; [wait=epoll] a message wakes one handler
 *     swap:      [cgroup=FOLDER] */
#include "order.h"
#include "way_bare.h"
#include "way_calls.h"
#include "way_ours.h"
#include "way_swap.h"

static void report_touches(const struct memory *memory, struct span span, uint32_t *ns)
{
	double nr = (double)memory->nr_pages, sum_ns = 0;
	uint32_t most_ns = percentile_ns(ns, memory->nr_pages, 0.99);

	/* What another process took from us shows in a few touches: they count as the 99th
	 * percentile.  The uncut figure stands beside it. */
	for (uint64_t i = 0; i < memory->nr_pages; i++)
		sum_ns += ns[i] < most_ns ? ns[i] : most_ns;
	json_number("touch_ns_per_page", sum_ns / nr);
	json_number("touch_wall_ns_per_page", (double)span.wall_ns / nr);
	json_number("touch_cpu_ns_per_page", (double)span.cpu_ns / nr);
	json_number("touch_p50_ns", percentile_ns(ns, memory->nr_pages, 0.5));
	json_number("touch_p90_ns", percentile_ns(ns, memory->nr_pages, 0.9));
	json_number("touch_p99_ns", percentile_ns(ns, memory->nr_pages, 0.99));
}

static void run(const struct measure_args *args, const struct way *way, struct memory *memory)
{
	uint32_t *order = order_create(arg_text(args, "pattern", "random"), memory->nr_pages,
				       arg_number(args, "seed", 1) * 2 + 1);
	uint32_t *ns = malloc(memory->nr_pages * sizeof(*ns));
	CHECK(ns != NULL);
	memset(ns, 0, memory->nr_pages * sizeof(*ns));
	way->open(args, memory);
	uint64_t hash = memory_hash(memory);
	struct span evict = span_begin();
	way->leave();
	evict = span_end(evict);
	json_number("evict_ns_per_page", (double)evict.wall_ns / (double)memory->nr_pages);
	json_number("evict_cpu_ns_per_page", (double)evict.cpu_ns / (double)memory->nr_pages);
	way->settle();
	way->report();
	if (arg_number(args, "touch", 1)) {
		bool is_each = arg_is(args, "cpu", "each");
		struct span touch = touch_all(memory, order,
					      (unsigned)arg_number(args, "threads", 1),
					      is_each ? TOUCHERS_EACH :
				      (int64_t)arg_number(args, "cpu", UINT64_MAX), ns);
		report_touches(memory, touch, ns);
		CHECK_EQ(memory_hash(memory), hash);
	}
	way->close();
	json_number("pages", (double)memory->nr_pages);
	json_end(hash);
	free(order);
	free(ns);
}

int main(int argc, char **argv)
{
	struct measure_args args = { argc, argv };
	const char *name = arg_text(&args, "way", ""), *corpus = arg_text(&args, "corpus", NULL);
	const struct way *way = strcmp(name, "ours") == 0 ? &way_ours :
				strcmp(name, "bare") == 0 ? &way_bare :
				strcmp(name, "calls") == 0 ? &way_calls :
				strcmp(name, "swap") == 0 ? &way_swap : NULL;

	end_with_parent();
	if (!way || !corpus) {
		fprintf(stderr, "usage: bench_memory way=ours|bare|calls|swap corpus=FILE ...\n");
		return 2;
	}
	if (way == &way_swap)
		swap_enter(&args);
	struct memory memory = memory_map(arg_number(&args, "pages", 8192),
					  arg_is(&args, "memory", "memfd"));
	memory_fill(&memory, corpus);
	run(&args, way, &memory);
	return 0;
}
