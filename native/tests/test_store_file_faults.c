/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_faults.c — every system call of the store "file" fails once, the first, the
 * second, ... until a run passes untouched; after each run what was acknowledged is there with
 * the right bytes, and nothing else is. */
#include <stdbool.h>

#include "file_rig.h"
#include "util/hook.h"

#ifdef TS_HOOKS
enum { SIZE_BYTES = 5 * RIG_MIB, NR_KEYS = 32 };
#define SITE(name) (UINT64_C(1) << TS_SITE_##name)

static uint64_t versions[NR_KEYS]; /* acknowledged; 0: none */
static void *buf;
static uint64_t nr_failed;          /* calls that were made to fail in this run */

static uint32_t length_of(uint64_t key, uint64_t version)
{
	return (uint32_t)(key % 4 == 0 ? 180000 + version * 100 : 700 + key * 50 + version);
}

/* Puts every key that is absent, in one batch; believes the statuses. */
static void put_absent(struct ts_store *store, uint64_t version)
{
	struct ts_put items[NR_KEYS] = { { 0 } };
	unsigned nr = 0;

	for (uint64_t key = 0; key < NR_KEYS; key++) {
		if (versions[key])
			continue;
		uint32_t len_bytes = length_of(key, version);
		items[nr] = (struct ts_put){ .key = key, .data = malloc(len_bytes),
					     .len_bytes = len_bytes, .status = 1 };
		content_fill((void *)items[nr].data, len_bytes, key, version);
		nr++;
	}
	int ret = nr ? ts_store_put(store, items, nr) : 0;
	for (unsigned i = 0; i < nr; i++) {
		CHECK(ret < 0 || items[i].status <= 0);
		if (ret == 0 && items[i].status == 0)
			versions[items[i].key] = version;
		free((void *)items[i].data);
	}
}

/* In the midst of failures a get may fail, but not bring anything else than was put. */
static void get_all(struct ts_store *store, bool is_calm)
{
	struct ts_reader *reader;
	struct ts_get request;

	if (ts_store_reader_open(store, &reader)) {
		CHECK(!is_calm);
		return;
	}
	CHECK_EQ(ts_store_reader_arena(reader, buf, RIG_BUF_BYTES), 0);
	for (uint64_t key = 0; key < NR_KEYS; key++) {
		int status = rig_get(reader, &request, key, buf);

		if (!versions[key])
			CHECK_EQ(status, TS_ENOTFOUND);
		else if (is_calm)
			CHECK_EQ(status, 0);
		if (status)
			continue;
		CHECK_EQ(request.len_bytes, length_of(key, versions[key]));
		CHECK(content_is((char *)buf + request.off_bytes, request.len_bytes, key,
				 versions[key]));
	}
	ts_store_reader_close(reader);
}

static void del_some(struct ts_store *store, uint64_t turn)
{
	for (uint64_t key = turn % 3; key < NR_KEYS; key += 3) {
		CHECK_EQ(rig_del(store, key), 0);
		versions[key] = 0;
	}
}

static void calm_down(void)
{
	ts_hook_inject_count(&nr_failed);
	ts_hook_inject(0, 0, 0, 0);
}

/* Open, and enough life for collections and discards; nothing if the open fails. */
static void live(const char *path, const char *options)
{
	struct ts_store *store = NULL;

	memset(versions, 0, sizeof(versions));
	if (rig_try_open(path, SIZE_BYTES, options, &store)) {
		CHECK(ts_last_error()[0] != '\0');
		calm_down();
		return;
	}
	for (uint64_t turn = 1; turn < 9; turn++) {
		put_absent(store, turn);
		if (turn == 5)
			get_all(store, false);
		del_some(store, turn);
		for (unsigned i = 0; i < 4 && ts_store_maintain(store) > 0; i++)
			;
	}
	put_absent(store, 99);
	calm_down();
	/* Else nothing would be said about collections. */
	if (nr_failed == 0)
		CHECK(rig_stat(store).moved_bytes > 0);
	get_all(store, true);
	CHECK(rig_stat(store).used_bytes <= SIZE_BYTES);
	/* It has not lost room for good: all of it can be had again. */
	for (uint64_t key = 0; key < NR_KEYS; key++) {
		CHECK_EQ(rig_del(store, key), 0);
		versions[key] = 0;
	}
	for (uint64_t turn = 200; turn < 203; turn++) {
		put_absent(store, turn);
		get_all(store, true);
	}
	for (uint64_t key = 0; key < NR_KEYS; key++)
		CHECK_EQ(versions[key], 200);
	ts_store_close(store);
}

/* Fails call 1, 2, ... of the sites until none is left to fail. */
static void fail_each(const char *name, uint64_t sites, int error, bool is_sticky)
{
	uint64_t nth = 0, nr_runs = 0;
	char path[300];

	buf = buf ? buf : rig_buffer(RIG_BUF_BYTES);
	snprintf(path, sizeof(path), "%s", rig_path(name));
	do {
		/* Once all later calls fail, too, one run says much about its neighbours. */
		nth += is_sticky ? 1 + nth / 3 : 1;
		CHECK(nth < 5000);
		ts_hook_inject(sites, nth, error, is_sticky);
		live(path, "");
		CHECK_EQ(access(path, F_OK), -1);
		nr_runs++;
	} while (nr_failed > 0);
	CHECK(nr_runs > 1);
	printf("     %s: untouched at call %llu\n", name, (unsigned long long)nth);
}

static void opening_fails(void)
{
	fail_each("open", SITE(OPEN) | SITE(MMAP), EACCES, false);
	fail_each("pread", SITE(PREAD), EIO, false);
}

static void submissions_fail(void)
{
	fail_each("submit-enomem", SITE(URING_SUBMIT), ENOMEM, false);
	fail_each("submit-eagain", SITE(URING_SUBMIT), EAGAIN, true);
	fail_each("submit-all", SITE(URING_SUBMIT), EBUSY, true);
}

static void transfers_fail(void)
{
	fail_each("result-eio", SITE(URING_RESULT), EIO, false);
	fail_each("result-full", SITE(URING_RESULT), ENOSPC, true);
}

/* Interrupted transfers are tried again, so that nobody sees them. */
static void interruptions_are_not_seen(void)
{
	buf = buf ? buf : rig_buffer(RIG_BUF_BYTES);
	struct ts_store *store = rig_open(rig_path("eintr"), SIZE_BYTES, "");
	memset(versions, 0, sizeof(versions));
	for (uint64_t nth = 1; nth < 40; nth++) {
		ts_hook_inject(SITE(URING_RESULT), nth, nth % 2 ? EINTR : EAGAIN, 0);
		put_absent(store, nth);
		get_all(store, true);
		del_some(store, nth);
	}
	calm_down();
	CHECK_EQ(rig_stat(store).nr_errors, 0);
	ts_store_close(store);
}

static void discards_fail(void)
{
	fail_each("discard-eio", SITE(FALLOCATE), EIO, false);
	fail_each("discard-unsupported", SITE(FALLOCATE), EOPNOTSUPP, true);
}

static void a_missing_io_uring_is_explained(void)
{
	struct ts_store *store;

	ts_hook_inject(SITE(URING_SUBMIT), 1, EPERM, 1);
	CHECK_EQ(rig_try_open(rig_path("noring"), SIZE_BYTES, "", &store), TS_EPERMISSION);
	CHECK(strstr(ts_last_error(), "kernel.io_uring_disabled=0") != NULL);
	ts_hook_inject(SITE(URING_SUBMIT), 1, ENOSYS, 1);
	CHECK_EQ(rig_try_open(rig_path("noring"), SIZE_BYTES, "", &store), TS_EUNSUPPORTED);
	ts_hook_inject(0, 0, 0, 0);
	CHECK_EQ(access(rig_path("noring"), F_OK), -1);
}

CHECK_MAIN({ "opening_fails", opening_fails }, { "submissions_fail", submissions_fail },
	   { "transfers_fail", transfers_fail },
	   { "interruptions_are_not_seen", interruptions_are_not_seen },
	   { "discards_fail", discards_fail },
	   { "a_missing_io_uring_is_explained", a_missing_io_uring_is_explained })
#else
static void needs_hooks(void)
{
	SKIP("a build without hooks: meson setup -Dhooks=true");
}

CHECK_MAIN({ "needs_hooks", needs_hooks })
#endif
