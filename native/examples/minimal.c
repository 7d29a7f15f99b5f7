/* SPDX-License-Identifier: Apache-2.0
 *
 * minimal.c — the least a VMM has to do: an engine with one tier, a region, one eviction, and a
 * guest that finds its memory again.  README.md shows the same text (tests/journey/test_readme.py).
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <tierstore/tierstore.h>

#define TRY(call) if ((call) < 0) return fprintf(stderr, "%s\n", ts_last_error()), 1

int main(void)
{
	enum { LEN = 64 << 20 };
	char *guest = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < LEN; i += 16)
		snprintf(guest + i, 16, "guest %zu", i);  /* what a guest might have written */

	struct ts_engine *engine;
	struct ts_region *region;
	struct ts_tier_options tier = { .size = sizeof(tier), .name = "warm", .store = "ram",
		.size_bytes = LEN, .codec = TS_CODEC_LZ4 };
	struct ts_region_options memory = { .size = sizeof(memory), .addr = guest,
		.len_bytes = LEN, .memory = TS_MEMORY_ANON };
	struct ts_evict_options all = { .size = sizeof(all), .bytes_max = LEN, .no_probation = 1 };
	struct ts_evict_result done = { .size = sizeof(done) };

	TRY(ts_engine_open(NULL, &engine));
	TRY(ts_engine_add_tier(engine, &tier));
	TRY(ts_engine_start(engine));
	TRY(ts_region_attach(engine, &memory, &region));  /* the guest may be running by now */
	TRY(ts_region_evict(region, &all, &done));        /* ts_cycle_start() does it by budget */
	printf("%llu pages evicted; the guest reads \"%s\"\n",
	       (unsigned long long)done.nr_evicted, guest + LEN / 2);
	TRY(ts_region_detach(region));
	ts_engine_close(engine);
	return 0;
}
