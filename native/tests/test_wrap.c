/* SPDX-License-Identifier: Apache-2.0
 * test_wrap.c — the wrappers do what they say, around stores that answer at once and others. */
#include <poll.h>

#include "gatestore.h"
#include "util/base.h"

/* Each test runs around both kinds of store. */
static struct ts_store *open_ram(const char *wrap)
{
	return kit_open("ram", wrap);
}

static struct ts_store *open_async(const char *wrap)
{
	return gate_store_open(wrap);
}

typedef struct ts_store *(*open_fn)(const char *wrap);

/* ---- stats -------------------------------------------------------------------------------- */

static void stats_count_around(open_fn open)
{
	struct ts_store *store = open("stats");
	struct ts_store_wrap_stat stat = { .size = sizeof(stat) };
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	for (uint64_t key = 0; key < 10; key++)
		CHECK_EQ(kit_put(store, key, 0, 1000), 0);
	for (uint64_t key = 0; key < 12; key++)
		CHECK_EQ(kit_get(&kit, key), key < 10 ? 0 : TS_ENOTFOUND);
	CHECK_EQ(ts_store_del(store, (uint64_t[]){ 1, 2, 3 }, 3), 0);
	CHECK_EQ(ts_store_wrap_stats(store, &stat), 0);
	CHECK_EQ(stat.nr_puts, 10);
	CHECK_EQ(stat.put_bytes, 10000);
	CHECK_EQ(stat.nr_put_failures, 0);
	CHECK_EQ(stat.nr_gets, 10);
	CHECK_EQ(stat.get_bytes, 10000);
	CHECK_EQ(stat.nr_get_failures, 2);
	CHECK_EQ(stat.nr_dels, 3);
	CHECK_EQ(stat.put_ns.count, 10);
	CHECK_EQ(stat.get_ns.count, 12);
	CHECK_EQ(stat.del_ns.count, 1);
	CHECK(stat.get_ns.max_ns > 0 && stat.get_ns.sum_ns >= stat.get_ns.max_ns);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void stats_count(void)
{
	stats_count_around(open_ram);
	stats_count_around(open_async);
}

static void control_functions_want_their_wrapper(void)
{
	struct ts_store *store = open_ram("verify,delay");
	struct ts_store_wrap_stat stat = { .size = sizeof(stat) };
	struct ts_store_fault fault = { .size = sizeof(fault) };
	uint64_t nr_faults;

	CHECK_EQ(ts_store_wrap_stats(store, &stat), TS_ENOTFOUND);
	CHECK(strstr(ts_last_error(), "stats"));
	CHECK_EQ(ts_store_fault_set(store, &fault), TS_ENOTFOUND);
	CHECK_EQ(ts_store_fault_count(store, &nr_faults), TS_ENOTFOUND);
	CHECK(strcmp(store->ops->name, "ram") == 0); /* whatever is around it */
	ts_store_close(store);
}

/* ---- delay -------------------------------------------------------------------------------- */

static void delays_overlap_around(open_fn open)
{
	struct ts_store *store = open("delay:get=100ms");
	struct ts_get *done[KIT_DEPTH];
	struct kit_reader kit;
	int nr_done = 0;

	kit_reader_open(store, &kit);
	for (uint64_t key = 0; key < KIT_DEPTH; key++)
		CHECK_EQ(kit_put(store, key, key, 500), 0);
	ts_mono_ns start_ns = ts_now_ns();
	for (unsigned i = 0; i < KIT_DEPTH; i++) {
		kit.gets[i].key = i;
		CHECK_EQ(ts_store_get(kit.reader, &kit.gets[i]), 1);
	}
	struct pollfd poll_fd = { .fd = ts_store_reader_fd(kit.reader), .events = POLLIN };
	CHECK(poll_fd.fd >= 0);
	CHECK_EQ(ts_store_reap(kit.reader, done, KIT_DEPTH, 0), 0);
	while (nr_done < KIT_DEPTH) {
		CHECK_EQ(poll(&poll_fd, 1, 10000), 1);
		int result = ts_store_reap(kit.reader, done, KIT_DEPTH, 0);
		CHECK(result >= 0);
		for (int i = 0; i < result; i++)
			CHECK(done[i]->status == 0 &&
			      content_is(kit_frame(done[i]), 500, done[i]->key, done[i]->key));
		nr_done += result;
	}
	CHECK_EQ(poll(&poll_fd, 1, 0), 0);
	uint64_t took_ns = ts_now_ns() - start_ns;
	CHECK(took_ns >= 100000000);
	CHECK(took_ns < KIT_DEPTH * UINT64_C(100000000)); /* one after the other */
	/* And when reap() is what waits. */
	start_ns = ts_now_ns();
	CHECK_EQ(kit_get(&kit, 0), 0);
	CHECK(ts_now_ns() - start_ns >= 100000000);
	CHECK_EQ(ts_store_get(kit.reader, &kit.gets[1]), 1);
	CHECK_EQ(ts_store_reap(kit.reader, done, 1, 1), 0);
	CHECK_EQ(ts_store_reap(kit.reader, done, 1, -1), 1);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void delays_overlap(void)
{
	delays_overlap_around(open_ram);
	delays_overlap_around(open_async);
}

static void puts_and_dels_take_longer(void)
{
	struct ts_store *store = open_ram("delay:put=20ms,del=30ms");
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	ts_mono_ns start_ns = ts_now_ns();
	CHECK_EQ(kit_put(store, 1, 0, 100), 0);
	CHECK(ts_now_ns() - start_ns >= 20000000);
	CHECK_EQ(ts_store_get(kit.reader, &kit.gets[0]), 0); /* no delay: at once */
	start_ns = ts_now_ns();
	CHECK_EQ(ts_store_del(store, &(uint64_t){ 1 }, 1), 0);
	CHECK(ts_now_ns() - start_ns >= 30000000);
	kit_reader_close(&kit);
	ts_store_close(store);
}

/* ---- fault -------------------------------------------------------------------------------- */

static void set_fault(struct ts_store *store, struct ts_store_fault fault)
{
	fault.size = sizeof(fault);
	CHECK_EQ(ts_store_fault_set(store, &fault), 0);
}

static void faults_come_as_often_as_asked(void)
{
	struct ts_store *store = open_ram("fault:get=0.25,seed=9");
	struct kit_reader kit;
	uint64_t nr_failed = 0, nr_faults;
	int first[100];

	kit_reader_open(store, &kit);
	CHECK_EQ(kit_put(store, 1, 0, 100), 0);
	for (int i = 0; i < 2000; i++) {
		int status = kit_get(&kit, 1);

		CHECK(status == 0 || status == -EIO);
		nr_failed += status != 0;
		if (i < 100)
			first[i] = status;
	}
	CHECK(nr_failed > 400 && nr_failed < 600);
	CHECK_EQ(ts_store_fault_count(store, &nr_faults), 0);
	CHECK_EQ(nr_faults, nr_failed);
	/* The same seed, the same failures; another, others. */
	set_fault(store, (struct ts_store_fault){ .get_share = 0.25, .seed = 9 });
	for (int i = 0; i < 100; i++)
		CHECK_EQ(kit_get(&kit, 1), first[i]);
	unsigned nr_same = 0;
	set_fault(store, (struct ts_store_fault){ .get_share = 0.25, .seed = 10 });
	for (int i = 0; i < 100; i++)
		nr_same += kit_get(&kit, 1) == first[i];
	CHECK(nr_same < 100);
	set_fault(store, (struct ts_store_fault){ 0 });
	for (int i = 0; i < 100; i++)
		kit_expect(&kit, 1, 0, 100);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void the_nth_call_fails(void)
{
	struct ts_store *store = open_ram("fault:get=1,nth=3,error=notfound");
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	for (uint64_t key = 0; key < 6; key++)
		CHECK_EQ(kit_put(store, key, 0, 100), 0);
	for (uint64_t key = 0; key < 6; key++)
		CHECK_EQ(kit_get(&kit, key), key == 2 ? TS_ENOTFOUND : 0);
	set_fault(store, (struct ts_store_fault){ .del_share = 1, .nth = 2 });
	CHECK_EQ(ts_store_del(store, &(uint64_t){ 0 }, 1), 0);
	CHECK_EQ(ts_store_del(store, &(uint64_t){ 1 }, 1), -EIO);
	kit_expect(&kit, 1, 0, 100);
	kit_reader_close(&kit);
	ts_store_close(store);
}

/* A batch of which some frames fail: the others are stored, and nothing else. */
static void puts_fail_frame_by_frame(void)
{
	static char data[KIT_BATCH][128];
	struct ts_store *store = open_ram("fault:put=0.3,error=ENOSPC");
	struct ts_put items[KIT_BATCH];
	struct ts_store_stat stat = { .size = sizeof(stat) };
	struct kit_reader kit;
	unsigned nr_failed = 0;

	kit_reader_open(store, &kit);
	for (unsigned i = 0; i < KIT_BATCH; i++) {
		content_fill(data[i], sizeof(data[i]), i, 0);
		items[i] = (struct ts_put){ .key = i, .data = data[i],
					    .len_bytes = sizeof(data[i]) };
	}
	CHECK_EQ(ts_store_put(store, items, KIT_BATCH), 0);
	for (unsigned i = 0; i < KIT_BATCH; i++) {
		if (items[i].status == 0) {
			kit_expect(&kit, i, 0, sizeof(data[i]));
		} else {
			CHECK_EQ(items[i].status, -ENOSPC);
			CHECK_EQ(kit_get(&kit, i), TS_ENOTFOUND);
			nr_failed++;
		}
	}
	CHECK(nr_failed > 5 && nr_failed < 40);
	CHECK_EQ(ts_store_stat_get(store, &stat), 0);
	CHECK_EQ(stat.nr_frames, KIT_BATCH - nr_failed);
	set_fault(store, (struct ts_store_fault){ .put_share = 1, .error = TS_EFULL });
	CHECK_EQ(kit_put(store, 0, 1, 10), TS_EFULL);
	kit_reader_close(&kit);
	ts_store_close(store);
}

/* ---- verify ------------------------------------------------------------------------------- */

/* How many bits two frames of the same length differ in. */
static unsigned nr_bits_differ(const char *a, const char *b, size_t len_bytes)
{
	unsigned nr_bits = 0;

	for (size_t i = 0; i < len_bytes; i++)
		nr_bits += (unsigned)__builtin_popcount((unsigned char)(a[i] ^ b[i]));
	return nr_bits;
}

static void verify_sees_what_fault_spoils_around(open_fn open)
{
	struct ts_store *store = open("verify,fault");
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	for (uint64_t key = 0; key < 20; key++)
		CHECK_EQ(kit_put(store, key, 1, 700 + (uint32_t)key), 0);
	for (uint64_t key = 0; key < 20; key++)
		kit_expect(&kit, key, 1, 700 + (uint32_t)key);
	set_fault(store, (struct ts_store_fault){ .get_share = 1, .is_corrupt = 1 });
	for (uint64_t key = 0; key < 20; key++)
		CHECK_EQ(kit_get(&kit, key), TS_ECORRUPT);
	set_fault(store, (struct ts_store_fault){ .get_share = 1, .is_short = 1 });
	for (uint64_t key = 0; key < 20; key++)
		CHECK_EQ(kit_get(&kit, key), TS_ECORRUPT);
	/* A put that fails leaves the old frame, and the old frame is right. */
	set_fault(store, (struct ts_store_fault){ .put_share = 1 });
	CHECK_EQ(kit_put(store, 3, 2, 50), -EIO);
	kit_expect(&kit, 3, 1, 703);
	set_fault(store, (struct ts_store_fault){ 0 });
	CHECK_EQ(kit_put(store, 3, 2, 50), 0);
	kit_expect(&kit, 3, 2, 50);
	CHECK_EQ(ts_store_del(store, &(uint64_t){ 3 }, 1), 0);
	CHECK_EQ(kit_get(&kit, 3), TS_ENOTFOUND);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void verify_sees_what_fault_spoils(void)
{
	verify_sees_what_fault_spoils_around(open_ram);
	verify_sees_what_fault_spoils_around(open_async);
}

static void corrupt_flips_one_bit(void)
{
	struct ts_store *store = open_async("fault:get=1,error=corrupt");
	static char want[1000];
	struct kit_reader kit;

	kit_reader_open(store, &kit);
	content_fill(want, sizeof(want), 4, 0);
	CHECK_EQ(kit_put(store, 4, 0, sizeof(want)), 0);
	for (int i = 0; i < 50; i++) {
		CHECK_EQ(kit_get(&kit, 4), 0);
		CHECK_EQ(kit.gets[0].len_bytes, sizeof(want));
		CHECK_EQ(nr_bits_differ(kit_frame(&kit.gets[0]), want, sizeof(want)), 1);
	}
	kit_reader_close(&kit);
	ts_store_close(store);
}

/* ---- All of them -------------------------------------------------------------------------- */

static void a_tall_stack_works(void)
{
	struct ts_store *store = open_async("stats,verify,delay:get=100us,"
					    "fault:get=0.2,seed=3,stats,delay,thread:n=2");
	struct ts_store_wrap_stat stat = { .size = sizeof(stat) };
	struct kit_reader kit;
	struct ts_get *done[KIT_DEPTH];
	uint64_t nr_pending = 0, nr_done = 0, nr_good = 0, nr_faults;

	kit_reader_open(store, &kit);
	for (uint64_t key = 0; key < 32; key++)
		CHECK_EQ(kit_put(store, key, 0, 900), 0);
	struct ts_get *spare[KIT_DEPTH];
	unsigned nr_spare = KIT_DEPTH;
	for (unsigned i = 0; i < KIT_DEPTH; i++)
		spare[i] = &kit.gets[i];
	for (uint64_t nr_started = 0; nr_done < 500;) {
		int nr_reaped = 0;

		while (nr_spare > 0 && nr_started < 500) {
			struct ts_get *request = spare[--nr_spare];

			request->key = nr_started++ % 32;
			CHECK_EQ(ts_store_get(kit.reader, request), 1);
			nr_pending++;
		}
		nr_reaped = ts_store_reap(kit.reader, done, KIT_DEPTH, -1);
		CHECK(nr_reaped > 0);
		for (int i = 0; i < nr_reaped; i++) {
			CHECK(done[i]->status == 0 || done[i]->status == -EIO);
			CHECK(done[i]->status ||
			      content_is(kit_frame(done[i]), 900, done[i]->key, 0));
			nr_good += done[i]->status == 0;
			spare[nr_spare++] = done[i];
		}
		nr_done += (uint64_t)nr_reaped;
	}
	CHECK_EQ(nr_pending, 500);
	CHECK_EQ(ts_store_wrap_stats(store, &stat), 0);
	CHECK_EQ(stat.nr_gets, nr_good);
	CHECK_EQ(stat.nr_get_failures, 500 - nr_good);
	CHECK_EQ(ts_store_fault_count(store, &nr_faults), 0);
	CHECK_EQ(nr_faults, 500 - nr_good);
	CHECK(nr_faults > 50 && nr_faults < 150);
	kit_reader_close(&kit);
	ts_store_close(store);
}

CHECK_MAIN({ "stats_count", stats_count },
	   { "control_functions_want_their_wrapper", control_functions_want_their_wrapper },
	   { "delays_overlap", delays_overlap },
	   { "puts_and_dels_take_longer", puts_and_dels_take_longer },
	   { "faults_come_as_often_as_asked", faults_come_as_often_as_asked },
	   { "the_nth_call_fails", the_nth_call_fails },
	   { "puts_fail_frame_by_frame", puts_fail_frame_by_frame },
	   { "verify_sees_what_fault_spoils", verify_sees_what_fault_spoils },
	   { "corrupt_flips_one_bit", corrupt_flips_one_bit },
	   { "a_tall_stack_works", a_tall_stack_works })
