/* SPDX-License-Identifier: Apache-2.0
 * test_fetch.c — reads of several tiers by one thread: a tier whose answers never end keeps nobody
 * from those of another. */
#include "core/fetch.h"
#include "guest.h"
#include "store/forward.h"

enum { DEPTH = 8, KEY = 1, ROUNDS = 1000, REAP_MAX = 2 };

static void add_tier(struct guest *guest, const char *name)
{
	int index = guest_add_tier(guest, name, "ram", NULL, 4 << 20, TS_CODEC_RAW, 4096,
				   "delay:get=1us");
	CHECK(index >= 0);
	struct ts_put item = { .key = KEY, .data = name, .len_bytes = 1 };
	CHECK_EQ(ts_store_put(guest->engine->tiers[index].store, &item, 1), 0);
	CHECK_EQ(item.status, 0);
}

static void begin_read(struct ts_fetch *fetch, struct ts_fetch_slot *slot)
{
	slot->nr_tries = 0;
	CHECK_EQ(ts_fetch_start(fetch, slot), 1);
}

static void acquire_read(struct ts_fetch *fetch, unsigned tier)
{
	struct ts_fetch_slot *slot = ts_fetch_acquire(fetch);

	CHECK(slot != NULL);
	slot->frame = KEY;
	slot->tier = (uint8_t)tier;
	begin_read(fetch, slot);
}

/* Of what has been reaped: another read begins in place of each of the first tier's.  Was one of
 * the second tier's among them? */
static bool go_on(struct ts_fetch *fetch, struct ts_fetch_slot **done, unsigned nr_done)
{
	bool has_second = false;

	for (unsigned i = 0; i < nr_done; i++) {
		CHECK_EQ(done[i]->get.status, 0);
		has_second |= done[i]->tier == 1;
		if (done[i]->tier == 0)
			begin_read(fetch, done[i]);
		else
			ts_fetch_release(fetch, done[i]);
	}
	return has_second;
}

static void a_busy_tier_lets_others_answer(void)
{
	struct ts_fetch_slot *done[DEPTH];
	struct guest guest = { 0 };
	struct ts_fetch fetch;
	unsigned n = 0, nr_done;

	guest_map(&guest, 1, false);
	guest_open(&guest);
	add_tier(&guest, "first");
	add_tier(&guest, "second");
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	CHECK_EQ(ts_fetch_init(&fetch, guest.engine, DEPTH), 0);
	acquire_read(&fetch, 1);
	for (unsigned i = 1; i < DEPTH; i++)
		acquire_read(&fetch, 0);
	do {
		CHECK(n++ < ROUNDS);
		usleep(100);  /* all that are under way are due */
		nr_done = ts_fetch_reap(&fetch, done, REAP_MAX, 0);
	} while (!go_on(&fetch, done, nr_done));
	while (fetch.nr_busy) {
		nr_done = ts_fetch_reap(&fetch, done, DEPTH, 100);
		while (nr_done > 0)
			ts_fetch_release(&fetch, done[--nr_done]);
	}
	ts_fetch_finish(&fetch);
	guest_close(&guest);
}

CHECK_MAIN({ "a_busy_tier_lets_others_answer", a_busy_tier_lets_others_answer })
