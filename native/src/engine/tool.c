/* SPDX-License-Identifier: Apache-2.0
 * tool.c — restoring pages on request (tool.h). */
#include "engine/tool.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "fault/serve.h"

enum {
	DEPTH = 16,   /* reads under way */
	NAP_US = 1000,
};
#define WARN_NS UINT64_C(10000000000)

struct ts_tool {
	struct ts_serve_ctx serve;
};

int ts_tool_create(struct ts_engine *engine, struct ts_tool **tool_out)
{
	struct ts_tool *tool = calloc(1, sizeof(*tool));
	int rc = tool ? ts_serve_init(&tool->serve, engine, DEPTH) : -ENOMEM;

	if (rc) {
		free(tool);
		return rc;
	}
	*tool_out = tool;
	return 0;
}

void ts_tool_destroy(struct ts_tool *tool)
{
	if (!tool)
		return;
	ts_serve_finish(&tool->serve);
	free(tool);
}

static bool needs_restore(ts_word word, bool with_fills)
{
	switch (ts_word_state(word)) {
	case TS_AWAY:
	case TS_LEAVING:
	case TS_COMING:
		return true;
	case TS_ZERO:
		/* RELEASING: wait until the evictor is done with it. */
		return with_fills && (ts_word_payload(word) || (word & TS_WORD_RELEASING));
	case TS_RESIDENT:
	case TS_GONE:
	case TS_STATE_COUNT:
		break;
	}
	return false;
}

/* One pass; how many pages were not yet back when it looked at them. */
static uint32_t restore_pass(struct ts_tool *tool, struct ts_region *region, uint32_t first_page,
			     uint32_t nr_pages, bool with_fills)
{
	uint32_t nr_left = 0;

	for (uint32_t page = first_page; page < first_page + nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]);
		if (!needs_restore(word, with_fills))
			continue;
		nr_left++;
		/* A page on probation comes back by itself or by its evictor; a prefetch that takes
		 * it out of the staging area is right, too. */
		while (ts_serve_page(&tool->serve, ts_region_shard(region, page), page,
				     TS_SERVE_PREFETCH | TS_SERVE_WHOLE, ts_now_ns()) ==
			       TS_SERVE_LATER && tool->serve.fetch.nr_busy)
			ts_serve_reap(&tool->serve, 100);
		tool->serve.nr_later = 0;  /* the next pass finds them */
	}
	while (tool->serve.fetch.nr_busy)
		ts_serve_reap(&tool->serve, 100);
	tool->serve.nr_later = 0;
	return nr_left;
}

/* Detach can't go without its pages: there is no other place for them. */
static void wait_for_huge(struct ts_region *region, ts_mono_ns *next_ns)
{
	ts_mono_ns now_ns = ts_now_ns();

	if (now_ns >= *next_ns)
		ts_log(region->engine, TS_LOG_WARNING, "%s: detach waits for free huge pages: "
		       "raise vm.nr_hugepages", region->name);
	*next_ns = now_ns >= *next_ns ? now_ns + WARN_NS : *next_ns;
	usleep(NAP_US);
}

int ts_tool_restore(struct ts_tool *tool, struct ts_region *region, uint32_t first_page,
		    uint32_t nr_pages, bool with_fills)
{
	_Atomic uint64_t *poisoned = &region->counters.failures[TS_FAIL_POISONED];
	uint64_t nr_poisoned = atomic_load(poisoned);
	uint32_t before = first_page % region->unit_pages;
	ts_mono_ns next_ns = 0;

	/* Whole units. */
	first_page -= before;
	nr_pages += before + region->unit_pages - 1;
	nr_pages -= nr_pages % region->unit_pages;
	while (restore_pass(tool, region, first_page, nr_pages, with_fills)) {
		sched_yield();
		if (TS_LIKELY(!atomic_load(&region->no_huge_ns)))
			continue;
		if (!with_fills)
			return -ENOMEM;
		wait_for_huge(region, &next_ns);
	}
	return atomic_load(poisoned) == nr_poisoned ? 0 : TS_ECORRUPT;
}

void ts_tool_restore_once(struct ts_tool *tool, struct ts_region *region, uint32_t first_page,
			  uint32_t nr_pages)
{
	(void)restore_pass(tool, region, first_page, nr_pages, false);
}
