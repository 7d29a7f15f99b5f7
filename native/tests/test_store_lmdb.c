/* SPDX-License-Identifier: Apache-2.0
 * test_store_lmdb.c — what is special to the store "lmdb": its folder, a map that may be full, and
 * gets that neither allocate nor pin pages.  What every store must do is in tests/contract. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storekit.h"
#include "util/hook.h"

static char folder[64], store_path[80];

static void folder_make(void)
{
	snprintf(folder, sizeof(folder), "/tmp/test_store_lmdb.XXXXXX");
	CHECK(mkdtemp(folder));
	snprintf(store_path, sizeof(store_path), "%s/store", folder);
}

/* The files that a test may have made. */
static void folder_remove(void)
{
	static const char *const names[] = { "data.mdb", "lock.mdb", "tierstore-lmdb", "theirs" };
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", store_path, names[i]);
		unlink(path);
	}
	rmdir(store_path);
	CHECK_EQ(rmdir(folder), 0);
}

static int open_sized(const char *options, uint64_t size_bytes, struct ts_store **store_out)
{
	struct ts_store_config config = kit_config();

	config.path = store_path;
	config.options = options;
	config.size_bytes = size_bytes;
	return ts_store_open("lmdb", NULL, "", &config, store_out);
}

static struct ts_store *open_new(const char *options)
{
	struct ts_store *store = NULL;
	int result = open_sized(options, 8 << 20, &store);

	if (result < 0)
		fprintf(stderr, "%s\n", ts_last_error());
	CHECK_EQ(result, 0);
	return store;
}

static void file_write(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", store_path, name);
	FILE *file = fopen(path, "w");
	CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static bool file_exists(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", store_path, name);
	return access(path, F_OK) == 0;
}

static void expect_refused(int error, const char *text)
{
	struct ts_store *store = NULL;

	CHECK_EQ(open_sized("", 8 << 20, &store), error);
	if (!strstr(ts_last_error(), text)) {
		fprintf(stderr, "'%s' does not say '%s'\n", ts_last_error(), text);
		exit(1);
	}
}

static void other_peoples_folders_are_left_alone(void)
{
	folder_make();
	CHECK_EQ(mkdir(store_path, 0755), 0);
	file_write("data.mdb", "somebody's environment");
	expect_refused(TS_EWRONGFILE, "empty folder");
	file_write("tierstore-lmdb", "not a marker");
	expect_refused(TS_EWRONGFILE, "marker");
	file_write("tierstore-lmdb", "tierstore-lmdb 2 kept\n");
	expect_refused(TS_EVERSION, "version 2");
	CHECK(file_exists("data.mdb"));
	folder_remove();
}

static void what_else_lies_in_our_folder_stays(void)
{
	folder_make();
	ts_store_close(open_new(""));
	file_write("tierstore-lmdb", "tierstore-lmdb 1 open\n");
	file_write("data.mdb", "what a crash left");
	file_write("theirs", "a note");
	ts_store_close(open_new(""));
	CHECK(file_exists("theirs"));
	CHECK(!file_exists("data.mdb") && !file_exists("tierstore-lmdb"));
	folder_remove();
}

static void options_are_checked(void)
{
	static const char *const bad[] = { "keep=2", "kept=1", "sync" };
	struct ts_store *store = NULL;

	folder_make();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK_EQ(open_sized(bad[i], 8 << 20, &store), TS_ECONFIG);
	CHECK_EQ(open_sized("", 100000, &store), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "the least is"));
	CHECK(access(store_path, F_OK) < 0); /* nothing was made */
	folder_remove();
}

static void one_store_a_folder(void)
{
	folder_make();
	struct ts_store *store = open_new("");
	expect_refused(TS_ELOCKED, "another store");
	ts_store_close(store);
	ts_store_close(open_new(""));
	folder_remove();
}

static void keep_keeps_over_a_close_but_not_over_a_crash(void)
{
	struct kit_reader kit;

	folder_make();
	struct ts_store *store = open_new("keep=1,sync=1");
	CHECK_EQ(kit_put(store, 7, 0, 30000), 0);
	ts_store_close(store);
	store = open_new("keep=1");
	kit_reader_open(store, &kit);
	kit_expect(&kit, 7, 0, 30000);
	kit_reader_close(&kit);
	ts_store_close(store);

	pid_t child = fork();
	if (child == 0) {
		store = open_new("keep=1");
		_exit(kit_put(store, 8, 0, 100) == 0 ? 0 : 1);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	store = open_new("keep=1");
	kit_reader_open(store, &kit);
	CHECK_EQ(kit_get(&kit, 7), TS_ENOTFOUND);
	CHECK_EQ(kit_get(&kit, 8), TS_ENOTFOUND);
	kit_reader_close(&kit);
	ts_store_close(store);
	store = open_new("");
	ts_store_close(store);
	folder_remove();
}

static void kept_frames_that_are_too_many_are_not_dropped(void)
{
	struct ts_store *store;
	struct kit_reader kit;

	folder_make();
	store = open_new("keep=1");
	for (uint64_t key = 0; key < 60; key++)
		CHECK_EQ(kit_put(store, key, 0, 60000), 0);
	ts_store_close(store);
	CHECK_EQ(open_sized("keep=1", 2 << 20, &store), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "kept frames need"));
	store = open_new("keep=1");
	kit_reader_open(store, &kit);
	kit_expect(&kit, 59, 0, 60000);
	kit_reader_close(&kit);
	ts_store_close(store);
	store = open_new("");
	ts_store_close(store);
	folder_remove();
}

static void a_file_that_was_cut_off_is_no_sigbus(void)
{
	struct ts_store *store = NULL;
	struct kit_reader kit;
	char path[128];

	folder_make();
	store = open_new("keep=1");
	for (uint64_t key = 0; key < 60; key++)
		CHECK_EQ(kit_put(store, key, 0, 60000), 0);
	ts_store_close(store);
	snprintf(path, sizeof(path), "%s/data.mdb", store_path);
	CHECK_EQ(truncate(path, 8 * 4096), 0);
	if (open_sized("keep=1", 8 << 20, &store) == 0) {
		kit_reader_open(store, &kit);
		CHECK(kit_get(&kit, 59) <= 0);
		kit_reader_close(&kit);
		ts_store_close(store);
	}
	ts_store_close(open_new(""));
	folder_remove();
}

static uint64_t fill(struct ts_store *store, uint32_t len_bytes)
{
	uint64_t nr_frames = 0;

	while (kit_put(store, nr_frames, 0, len_bytes) == 0)
		nr_frames++;
	return nr_frames;
}

static uint64_t used_bytes(struct ts_store *store)
{
	struct ts_store_stat stat = { .size = sizeof(stat) };

	CHECK_EQ(ts_store_stat_get(store, &stat), 0);
	CHECK(stat.used_bytes <= stat.capacity_bytes);
	return stat.used_bytes;
}

static void delete_all(struct ts_store *store, uint64_t nr_frames)
{
	uint64_t keys[KIT_BATCH];

	for (uint64_t first = 0; first < nr_frames; first += KIT_BATCH) {
		for (uint64_t i = 0; i < KIT_BATCH; i++)
			keys[i] = first + i;
		CHECK_EQ(ts_store_del(store, keys, KIT_BATCH), 0);
	}
}

/* Filled to the brim, a map has no page left for a delete to begin with, unless some were kept. */
static void a_full_map_can_be_emptied_again_and_again(void)
{
	static const uint32_t lengths[] = { 400, 1500, 2100, 4060, 60000 };
	struct stat file;
	char path[128];

	folder_make();
	struct ts_store *store = open_new("");
	uint64_t empty_bytes = used_bytes(store);
	for (unsigned round = 0; round < 10; round++) {
		uint64_t nr_frames = fill(store, lengths[round % 5]);
		CHECK(nr_frames > 100);
		delete_all(store, nr_frames);
		/* What stays is the list of free pages. */
		CHECK(used_bytes(store) <= empty_bytes + 16 * 4096);
	}
	snprintf(path, sizeof(path), "%s/data.mdb", store_path);
	CHECK_EQ(stat(path, &file), 0);
	CHECK(file.st_size <= 8 << 20);
	CHECK_EQ(file.st_mode & 0777, 0600);
	ts_store_close(store);
	folder_remove();
}

struct getter {
	struct ts_store *store;
	uint64_t nr_frames;
	_Atomic bool is_over;
};

static void *get_on(void *arg)
{
	struct getter *getter = arg;
	struct kit_reader kit;
	uint64_t state = 5;

	kit_reader_open(getter->store, &kit);
	while (!atomic_load(&getter->is_over)) {
		int status = kit_get(&kit, content_random(&state) % getter->nr_frames);
		CHECK(status == 0 || status == TS_ENOTFOUND);
	}
	kit_reader_close(&kit);
	return NULL;
}

/* A reader that kept its old state would pin pages, and the map would fill up for good. */
static void gets_do_not_keep_a_full_map_from_being_churned(void)
{
	pthread_t thread;

	folder_make();
	struct ts_store *store = open_new("");
	struct getter getter = { .store = store, .nr_frames = fill(store, 3000) };
	CHECK_EQ(pthread_create(&thread, NULL, get_on, &getter), 0);
	for (uint64_t round = 0; round < 300; round++) {
		uint64_t keys[16];

		for (uint64_t i = 0; i < 16; i++)
			keys[i] = (round * 16 + i) % getter.nr_frames;
		CHECK_EQ(ts_store_del(store, keys, 16), 0);
		for (uint64_t i = 0; i < 8; i++) {
			int status = kit_put(store, keys[i], round, 3000);
			CHECK(status == 0 || status == TS_EFULL);
		}
	}
	atomic_store(&getter.is_over, true);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	delete_all(store, getter.nr_frames);
	CHECK(fill(store, 3000) >= getter.nr_frames * 9 / 10);
	ts_store_close(store);
	folder_remove();
}

#ifdef TS_HOOKS
/* What a run with one failing call must not do: leak (the sanitizer build sees it), hang, or leave
 * a folder that can't be opened.  What is in the frames is tests/contract's. */
static void any_one_call_may_fail(void)
{
	uint64_t nth = 0, nr_failed, keys[] = { 1, 2, 3 };

	folder_make();
	do {
		struct ts_store *store = NULL;
		struct kit_reader kit = { 0 };

		ts_hook_inject(UINT64_MAX, ++nth, EIO, 0);
		if (open_sized("keep=1", 8 << 20, &store) == 0) {
			bool can_read = ts_store_reader_open(store, &kit.reader) == 0;

			for (uint64_t key = 0; key < 3; key++)
				kit_put(store, key, nth, 5000);
			(void)ts_store_del(store, keys, 3);
			(void)ts_store_maintain(store);
			if (can_read)
				ts_store_reader_close(kit.reader);
			ts_store_close(store);
		}
		ts_hook_inject_count(&nr_failed);
		ts_hook_inject(0, 0, 0, 0);
		ts_store_close(open_new("keep=1"));
	} while (nr_failed > 0 && nth < 1000);
	CHECK(nth > 20 && nth < 1000);
	ts_store_close(open_new(""));
	folder_remove();
}
#else
static void any_one_call_may_fail(void)
{
	SKIP("needs a build with -Dhooks=true");
}
#endif

CHECK_MAIN({ "other_peoples_folders_are_left_alone", other_peoples_folders_are_left_alone },
	   { "what_else_lies_in_our_folder_stays", what_else_lies_in_our_folder_stays },
	   { "options_are_checked", options_are_checked },
	   { "one_store_a_folder", one_store_a_folder },
	   { "keep_keeps_over_a_close_but_not_over_a_crash",
	     keep_keeps_over_a_close_but_not_over_a_crash },
	   { "kept_frames_that_are_too_many_are_not_dropped",
	     kept_frames_that_are_too_many_are_not_dropped },
	   { "a_file_that_was_cut_off_is_no_sigbus", a_file_that_was_cut_off_is_no_sigbus },
	   { "any_one_call_may_fail", any_one_call_may_fail },
	   { "a_full_map_can_be_emptied_again_and_again",
	     a_full_map_can_be_emptied_again_and_again },
	   { "gets_do_not_keep_a_full_map_from_being_churned",
	     gets_do_not_keep_a_full_map_from_being_churned })
