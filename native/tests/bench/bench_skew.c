/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_skew.c — one run of a skewed guest: 90 % of its requests go to a window of 10 % of its
 * pages that drifts, the rest anywhere; three of ten write.  A request touches a page and computes
 * for a while (work=N dependent multiplications), as a server's does.
 *
 *   bench_skew way=resident|ours|swap corpus=FILE pages=N requests=N [work=N] [memory=anon|memfd]
 *   bench_skew way=policy pages=N requests=N resident=N: skew_policy.h
 *              [budget_pct=30] [interval_ms=N] [seed=N] [codec=] [range=] (way_ours.h)
 *     cpu=N    the guest's CPU
 *     swap:    cgroup=FOLDER whose limit the caller has set
 *
 * The first half of the requests is not measured: in it the memory shrinks to its budget. */
#include "skew_policy.h"
#include "way_ours.h"
#include "way_swap.h"

enum { WINDOW_OF = 10 };

static uint64_t nr_requests, work;

/* Over the whole run the window moves on by its own size. */
static uint64_t request_page(const struct memory *memory, uint64_t i, uint64_t *state)
{
	uint64_t window = memory->nr_pages / WINDOW_OF, random = content_random(state);
	uint64_t start = i * window / nr_requests;

	if (random % 10 == 0)
		return (random >> 8) % memory->nr_pages;
	return (start + (random >> 8) % window) % memory->nr_pages;
}

static uint64_t compute(uint64_t value)
{
	for (uint64_t i = 0; i < work; i++)
		value = content_next(value);
	return value;
}

/* Requests [from, to).  Returns what was computed, which depends on every page that was read. */
static uint64_t serve(struct memory *memory, uint64_t from, uint64_t to, uint64_t *state)
{
	uint64_t sum = 0;

	for (uint64_t i = from; i < to; i++) {
		uint64_t page = request_page(memory, i, state);
		uint64_t *words = (uint64_t *)(memory->mem + page * MEASURE_PAGE);

		sum += compute(words[page % 512]);
		if (*state % 10 < 3)
			words[i % 512] ^= sum;
	}
	return sum;
}

static void start_cycle(const struct measure_args *args, struct memory *memory)
{
	struct ts_cycle_options options = {
		.size = sizeof(options),
		.interval_ms = (uint32_t)arg_number(args, "interval_ms", 1000),
		.age_min = (uint32_t)arg_number(args, "age_min", 1),
		.budget_pct = (uint32_t)arg_number(args, "budget_pct", 30),
	};

	ours_open(args, memory);
	CHECK_EQ(ts_cycle_start(ours.engine, &options), 0);
}

static void report_policies(const struct measure_args *args, uint64_t nr_pages, uint64_t state)
{
	struct memory memory = { .nr_pages = nr_pages };
	uint32_t *pages = malloc(nr_requests * sizeof(*pages));
	uint64_t nr_resident = arg_number(args, "resident", nr_pages * 3 / 10), hash;

	CHECK(pages != NULL);
	for (uint64_t i = 0; i < nr_requests; i++)
		pages[i] = (uint32_t)request_page(&memory, i, &state);
	hash = XXH3_64bits(pages, nr_requests * sizeof(*pages));
	json_number("resident_pages", (double)nr_resident);
	json_number("faults_least_recently_used",
		    (double)skew_faults(pages, nr_requests, nr_pages, nr_resident, false));
	json_number("faults_future_known",
		    (double)skew_faults(pages, nr_requests, nr_pages, nr_resident, true));
	json_end(hash);
	free(pages);
}

/* Waits for a page: ours, or the kernel's major faults. */
static uint64_t nr_faults(bool is_ours)
{
	struct rusage usage;

	if (is_ours)
		return ours_stats(ours.engine)->nr_faults;
	CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
	return (uint64_t)usage.ru_majflt;
}

static void report_ours(void)
{
	const struct ts_stats *stats = ours_stats(ours.engine);

	json_number("resident_pages", (double)stats->nr_resident);
	json_number("faults", (double)stats->nr_faults);
	json_number("faults_staged", (double)stats->nr_faults_staged);
	json_number("evicted", (double)stats->nr_evicted);
}

int main(int argc, char **argv)
{
	struct measure_args args = { argc, argv };
	bool is_ours = arg_is(&args, "way", "ours"), is_swap = arg_is(&args, "way", "swap");
	uint64_t state = arg_number(&args, "seed", 1) * 2 + 1, sum;

	end_with_parent();
	nr_requests = arg_number(&args, "requests", 100000);
	work = arg_number(&args, "work", 25000);
	if (arg_is(&args, "way", "policy")) {
		report_policies(&args, arg_number(&args, "pages", 8192), state);
		return 0;
	}
	if (is_swap)
		swap_enter(&args);
	struct memory memory = memory_map(arg_number(&args, "pages", 8192),
					  arg_is(&args, "memory", "memfd"));
	swap_state.memory = &memory;
	memory_fill(&memory, arg_text(&args, "corpus", ""));
	if (is_ours)
		start_cycle(&args, &memory);
	/* Now, so that the engine's threads are not bound to it as well. */
	pin_to((int64_t)arg_number(&args, "cpu", UINT64_MAX));
	sum = serve(&memory, 0, nr_requests / 2, &state);
	uint64_t faults_before = nr_faults(is_ours);
	struct span span = span_begin();
	sum ^= serve(&memory, nr_requests / 2, nr_requests, &state);
	span = span_end(span);
	double nr = (double)(nr_requests - nr_requests / 2);
	json_number("request_ns", (double)span.wall_ns / nr);
	json_number("request_cpu_ns", (double)span.cpu_ns / nr);
	json_number("faults_measured", (double)(nr_faults(is_ours) - faults_before));
	if (is_ours)
		report_ours();
	else
		json_number("resident_pages", (double)swap_resident());
	json_end(sum);
	if (is_ours)
		ts_engine_close(ours.engine);
	return 0;
}
