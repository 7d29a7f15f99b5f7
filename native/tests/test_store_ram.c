/* SPDX-License-Identifier: Apache-2.0
 * test_store_ram.c — the store "ram" through the forwarder, and what the forwarder refuses. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storekit.h"
#include "util/hook.h"

static struct ts_store *open_with(const char *kind, const char *wrap, int error, const char *text)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;

	CHECK_EQ(ts_store_open(kind, NULL, wrap, &config, &store), error);
	if (error && !strstr(ts_last_error(), text)) {
		fprintf(stderr, "'%s' does not say '%s'\n", ts_last_error(), text);
		exit(1);
	}
	return store;
}

static void frames_come_back(void)
{
	struct ts_store *store = kit_open("ram", "");
	struct kit_reader kit;
	struct ts_store_stat stat = { .size = sizeof(stat) };

	kit_reader_open(store, &kit);
	CHECK_EQ(ts_store_reader_fd(kit.reader), TS_EUNSUPPORTED);
	for (uint32_t key = 0; key < 500; key++)
		CHECK_EQ(kit_put(store, key, 0, 1 + key * 131), 0);
	for (uint32_t key = 0; key < 500; key++)
		kit_expect(&kit, key, 0, 1 + key * 131);
	CHECK_EQ(ts_store_stat_get(store, &stat), 0);
	CHECK_EQ(stat.nr_frames, 500);
	CHECK_EQ(stat.capacity_bytes, 64 << 20);
	CHECK_EQ(stat.frame_bytes, stat.written_bytes);
	CHECK(stat.memory_bytes >= stat.frame_bytes && stat.index_bytes > 0);

	uint64_t keys[] = { 3, 4, 1000 };
	CHECK_EQ(ts_store_del(store, keys, 3), 0);
	CHECK_EQ(ts_store_del(store, keys, 3), 0);
	CHECK_EQ(kit_get(&kit, 3), TS_ENOTFOUND);
	kit_expect(&kit, 5, 0, 1 + 5 * 131);
	CHECK_EQ(kit_put(store, 5, 1, 17), 0);
	kit_expect(&kit, 5, 1, 17);
	CHECK(ts_store_maintain(store) == 0);
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void a_batch_stores_what_fits(void)
{
	static char data[KIT_FRAME_MAX];
	struct ts_store_config config = kit_config();
	struct ts_store *store;
	struct ts_put items[KIT_BATCH];
	unsigned nr_full = 0;

	config.size_bytes = 1 << 20;
	CHECK_EQ(ts_store_open("ram", NULL, "", &config, &store), 0);
	for (unsigned i = 0; i < KIT_BATCH; i++)
		items[i] = (struct ts_put){ .key = i, .data = data, .len_bytes = KIT_FRAME_MAX };
	items[KIT_BATCH - 1].len_bytes = 10;
	CHECK_EQ(ts_store_put(store, items, KIT_BATCH), 0);
	for (unsigned i = 0; i < KIT_BATCH; i++) {
		CHECK(items[i].status == 0 || items[i].status == TS_EFULL);
		nr_full += items[i].status == TS_EFULL;
	}
	CHECK(nr_full > 40 && nr_full < 60);
	CHECK_EQ(items[0].status, 0);
	struct ts_store_stat stat = { .size = sizeof(stat) };
	CHECK_EQ(ts_store_stat_get(store, &stat), 0);
	CHECK(stat.used_bytes <= 1 << 20);
	CHECK_EQ(stat.nr_frames, KIT_BATCH - nr_full);
	CHECK_EQ(stat.nr_errors, 0);
	ts_store_close(store);
}

static void open_says_what_is_wrong(void)
{
	struct ts_store_config config = kit_config();
	struct ts_store_ops ops = *ts_store_find("ram");
	struct ts_store *store;

	open_with("rum", "", TS_ECONFIG, "ram, file, lmdb");
	open_with("ram", "verfy", TS_ECONFIG, "stats, delay, fault, verify");
	open_with("ram", "stats,delay:got=1ms", TS_ECONFIG, "get, put, del");
	open_with("ram", "delay:get=5", TS_ECONFIG, "5ms");
	open_with("ram", "fault:get=2", TS_ECONFIG, "0 to 1");
	open_with("ram", "fault:error=EVIL", TS_ECONFIG, "ENOSPC");
	open_with("ram", "fault:put=1,error=corrupt", TS_ECONFIG, "for get");
	open_with("ram", "thread:n=17", TS_ECONFIG, "0 to 16");
	open_with("ram", "thread:n=9", TS_ECONFIG, "readers");
	open_with("ram", "stats:x=1", TS_ECONFIG, "none");
	open_with("ram", "a,b,,", TS_ECONFIG, "'a'");
	open_with("ram", "stats,stats,stats,stats,stats,stats,stats,stats,stats", TS_ELIMIT, "8");
	config.options = "fast=1";
	CHECK_EQ(ts_store_open("ram", NULL, "", &config, &store), TS_ECONFIG);
	config = kit_config();
	config.depth_max = 0;
	CHECK_EQ(ts_store_open("ram", NULL, "", &config, &store), TS_ECONFIG);
	config = kit_config();
	config.size = 8;
	CHECK_EQ(ts_store_open("ram", NULL, "", &config, &store), TS_EVERSION);
	config = kit_config();
	ops.get = NULL;
	CHECK_EQ(ts_store_open("mine", &ops, "", &config, &store), TS_ECONFIG);
	ops.size = 3;
	CHECK_EQ(ts_store_open("mine", &ops, "", &config, &store), TS_EVERSION);
	ts_store_close(NULL);
	ts_store_reader_close(NULL);
}

/* They don't know the newest members. */
static void callers_of_an_older_header_work(void)
{
	struct ts_store_config config = kit_config();
	struct ts_store_ops ops = *ts_store_find("ram");
	struct ts_store_stat small = { .size = offsetof(struct ts_store_stat, frame_bytes) };
	struct ts_store *store;

	config.options = NULL;
	CHECK_EQ(ts_store_open("mine", &ops, NULL, &config, &store), 0);
	CHECK_EQ(kit_put(store, 1, 1, 100), 0);
	small.used_bytes = 77;
	CHECK_EQ(ts_store_stat_get(store, &small), 0);
	CHECK_EQ(small.nr_frames, 1);
	CHECK_EQ(small.used_bytes, 77); /* beyond what the caller knows */
	ts_store_close(store);
}

static void readers_are_bounded(void)
{
	struct ts_store *store = kit_open("ram", "");
	struct kit_reader kits[8];
	struct ts_reader *reader;

	for (int i = 0; i < 8; i++)
		kit_reader_open(store, &kits[i]);
	CHECK_EQ(ts_store_reader_open(store, &reader), TS_ELIMIT);
	for (int i = 0; i < 8; i++)
		kit_reader_close(&kits[i]);
	kit_reader_open(store, &kits[0]);
	kit_reader_close(&kits[0]);
	ts_store_close(store);
}

/* What a caller does wrong, each in a child of its own. */
static void key_too_large(struct ts_store *store, struct kit_reader *kit)
{
	uint64_t key = KIT_KEY_MAX + 1;

	ts_store_del(store, &key, 1);
}

static void frame_too_long(struct ts_store *store, struct kit_reader *kit)
{
	static char data[KIT_FRAME_MAX + 1];
	struct ts_put item = { .data = data, .len_bytes = sizeof(data) };

	ts_store_put(store, &item, 1);
}

static void batch_too_large(struct ts_store *store, struct kit_reader *kit)
{
	static const uint64_t keys[KIT_BATCH + 1];

	ts_store_del(store, keys, KIT_BATCH + 1);
}

static void buffer_not_aligned(struct ts_store *store, struct kit_reader *kit)
{
	kit->gets[0].buf = kit->arena + 1;
	kit_get(kit, 0);
}

static void buffer_too_small(struct ts_store *store, struct kit_reader *kit)
{
	kit->gets[0].cap_bytes = KIT_FRAME_MAX / 4096 * 4096;
	kit_get(kit, 0);
}

static void reader_left_open(struct ts_store *store, struct kit_reader *kit)
{
	ts_store_close(store);
}

static void wrong_calls_are_caught(void)
{
	static void (*const mistakes[])(struct ts_store *, struct kit_reader *) = {
		key_too_large, frame_too_long, batch_too_large,
		buffer_not_aligned, buffer_too_small, reader_left_open,
	};
	struct ts_store *store = kit_open("ram", "");
	struct kit_reader kit;
	int status;

	kit_reader_open(store, &kit);
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			signal(SIGABRT, SIG_DFL);
			CHECK(freopen("/dev/null", "w", stderr));
			mistakes[i](store, &kit);
			_exit(0);
		}
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
	kit_reader_close(&kit);
	ts_store_close(store);
}

static void injected_failures_reach_the_caller(void)
{
#ifndef TS_HOOKS
	SKIP("a build without hooks");
#else
	struct ts_store *store = kit_open("ram", "verify,stats");
	struct kit_reader kit;
	uint64_t key = 1;

	kit_reader_open(store, &kit);
	CHECK_EQ(kit_put(store, 1, 0, 100), 0);
	ts_hook_inject(UINT64_C(1) << TS_SITE_STORE_PUT, 1, ENOSPC, 0);
	CHECK_EQ(kit_put(store, 1, 1, 200), -ENOSPC);
	CHECK_EQ(ts_hook_inject_count(NULL), 1); /* once a call, not once a layer */
	ts_hook_inject(UINT64_C(1) << TS_SITE_STORE_GET, 1, EIO, 0);
	CHECK_EQ(kit_get(&kit, 1), -EIO);
	ts_hook_inject(UINT64_C(1) << TS_SITE_STORE_DEL, 1, EIO, 0);
	CHECK_EQ(ts_store_del(store, &key, 1), -EIO);
	kit_expect(&kit, 1, 0, 100);
	ts_hook_inject(0, 0, 0, 0);
	kit_reader_close(&kit);
	ts_store_close(store);
#endif
}

/* Fails the Nth allocation or thread of opening a full stack, for every N. */
static void open_cleans_up_after_itself(void)
{
#ifndef TS_HOOKS
	SKIP("a build without hooks");
#else
	const uint64_t sites = UINT64_C(1) << TS_SITE_ALLOC | UINT64_C(1) << TS_SITE_THREAD |
			       UINT64_C(1) << TS_SITE_MMAP | UINT64_C(1) << TS_SITE_OPEN;
	uint64_t failed = 1, nth = 0;

	while (failed) {
		struct ts_store_config config = kit_config();
		struct ts_store *store = NULL;
		struct ts_reader *reader = NULL;

		CHECK(++nth < 100);
		ts_hook_inject(sites, nth, EAGAIN, 0);
		int result = ts_store_open("ram", NULL, "verify,stats,delay,fault,thread:n=3",
					   &config, &store);
		if (result == 0) {
			result = ts_store_reader_open(store, &reader);
			ts_store_reader_close(result == 0 ? reader : NULL);
		}
		ts_hook_inject_count(&failed);
		ts_hook_inject(0, 0, 0, 0);
		CHECK_EQ(result < 0, failed);
		ts_store_close(store);
	}
	CHECK(nth > 15);
#endif
}

CHECK_MAIN({ "frames_come_back", frames_come_back },
	   { "a_batch_stores_what_fits", a_batch_stores_what_fits },
	   { "open_says_what_is_wrong", open_says_what_is_wrong },
	   { "callers_of_an_older_header_work", callers_of_an_older_header_work },
	   { "readers_are_bounded", readers_are_bounded },
	   { "wrong_calls_are_caught", wrong_calls_are_caught },
	   { "injected_failures_reach_the_caller", injected_failures_reach_the_caller },
	   { "open_cleans_up_after_itself", open_cleans_up_after_itself })
