/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_life.c — opening and closing the store "file": what is ours, what is not, what
 * a crash or another process leaves, and what outlives a close. */
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "file_rig.h"
#include "store/file_format.h"

enum { SIZE_BYTES = 8 * RIG_MIB };

/* Opening must fail with this error, and the text must name the path and hold the word. */
static void expect_refused(const char *path, const char *options, int error, const char *word)
{
	struct ts_store *store = NULL;

	CHECK_EQ(rig_try_open(path, SIZE_BYTES, options, &store), error);
	if (!strstr(ts_last_error(), path) || !strstr(ts_last_error(), word)) {
		fprintf(stderr, "text: %s\n", ts_last_error());
		CHECK(!"the text names the path and the remedy");
	}
}

static void foreign_files_stay_untouched(void)
{
	char path[300], bytes[8192], back[8192];
	int fd;

	snprintf(path, sizeof(path), "%s", rig_path("foreign"));
	memset(bytes, 'x', sizeof(bytes));
	rig_write_file(path, bytes, sizeof(bytes), 0);
	expect_refused(path, "", TS_EWRONGFILE, "init=1");
	expect_refused(path, "keep=1", TS_EWRONGFILE, "init=1");
	fd = open(path, O_RDONLY);
	CHECK_EQ(read(fd, back, sizeof(back)), sizeof(back));
	CHECK(!memcmp(bytes, back, sizeof(back)));
	CHECK_EQ(lseek(fd, 0, SEEK_END), sizeof(back));
	close(fd);
	/* On explicit demand only. */
	ts_store_close(rig_open(path, SIZE_BYTES, "init=1"));
	unlink(path);
	/* A small file; and data behind a hole: a disk image may well start with one. */
	rig_write_file(path, "hello", 5, 0);
	expect_refused(path, "", TS_EWRONGFILE, "untouched");
	unlink(path);
	rig_write_file(path, "hello", 5, 4 * RIG_MIB);
	expect_refused(path, "", TS_EWRONGFILE, "untouched");
	unlink(path);
}

static void prepared_files_are_taken(void)
{
	char path[300];

	/* Somebody else's, empty: it is used, and not removed. */
	snprintf(path, sizeof(path), "%s", rig_path("prepared"));
	rig_write_file(path, "", 0, 0);
	ts_store_close(rig_open(path, SIZE_BYTES, ""));
	CHECK_EQ(access(path, F_OK), 0);
	CHECK_EQ(unlink(path), 0);
	rig_write_file(path, "", 0, 0);
	CHECK_EQ(truncate(path, 5 * RIG_MIB), 0);
	ts_store_close(rig_open(path, SIZE_BYTES, ""));
	CHECK_EQ(unlink(path), 0);
}

static void bad_paths_and_options_are_explained(void)
{
	struct ts_store *store;
	char path[300];

	snprintf(path, sizeof(path), "%s", rig_path("none/file"));
	expect_refused(path, "", -ENOENT, "create the folder");
	snprintf(path, sizeof(path), "%s", rig_path("."));
	expect_refused(path, "", -EISDIR, "folder");
	expect_refused("/dev/null", "", TS_EWRONGFILE, "block device");
	snprintf(path, sizeof(path), "%s", rig_path("options"));
	CHECK_EQ(rig_try_open(path, SIZE_BYTES, "keep=2", &store), TS_ECONFIG);
	CHECK_EQ(rig_try_open(path, SIZE_BYTES, "keep", &store), TS_ECONFIG);
	CHECK_EQ(rig_try_open(path, SIZE_BYTES, "direct=maybe", &store), TS_ECONFIG);
	CHECK_EQ(rig_try_open(path, SIZE_BYTES, "depth=0", &store), TS_ECONFIG);
	CHECK_EQ(rig_try_open(path, SIZE_BYTES, "colour=red", &store), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "colour") != NULL);
	CHECK_EQ(rig_try_open(path, 3 * RIG_MIB, "", &store), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "at least 4 MiB") != NULL);
	CHECK_EQ(rig_try_open(NULL, SIZE_BYTES, "", &store), TS_ECONFIG);
	CHECK_EQ(access(path, F_OK), -1);
}

static void other_versions_are_refused(void)
{
	char path[300];
	uint32_t version = 77;

	snprintf(path, sizeof(path), "%s", rig_path("version"));
	ts_store_close(rig_open(path, SIZE_BYTES, "keep=1"));
	rig_write_file(path, &version, sizeof(version), offsetof(struct ts_file_super, version));
	expect_refused(path, "keep=1", TS_EVERSION, "77");
	version = TS_FILE_VERSION;
	rig_write_file(path, &version, sizeof(version), offsetof(struct ts_file_super, version));
	ts_store_close(rig_open(path, SIZE_BYTES, "keep=1"));
	rig_write_file(path, "?", 1, offsetof(struct ts_file_super, uuid));
	expect_refused(path, "keep=1", TS_ECORRUPT, "superblock");
	ts_store_close(rig_open(path, SIZE_BYTES, "init=1"));
}

static void a_path_has_one_user(void)
{
	char path[300];
	struct ts_store *store;

	snprintf(path, sizeof(path), "%s", rig_path("locked"));
	store = rig_open(path, SIZE_BYTES, "");
	CHECK_EQ(rig_put(store, 1, 1, 100), 0);
	expect_refused(path, "", TS_ELOCKED, "in use");
	expect_refused(path, "init=1", TS_ELOCKED, "in use");
	CHECK_EQ(access(path, F_OK), 0);
	ts_store_close(store);
}

static void files_are_private_and_temporary(void)
{
	char path[300];
	struct stat info;

	snprintf(path, sizeof(path), "%s", rig_path("private"));
	umask(0);
	struct ts_store *store = rig_open(path, SIZE_BYTES, "");
	CHECK_EQ(stat(path, &info), 0);
	CHECK_EQ(info.st_mode & 0777, 0600);
	CHECK_EQ(info.st_size, SIZE_BYTES);
	ts_store_close(store);
	CHECK_EQ(access(path, F_OK), -1);
	rig_write_file(path, "", 0, 0);
	CHECK_EQ(chmod(path, 0644), 0);
	store = rig_open(path, SIZE_BYTES, "");
	CHECK_EQ(stat(path, &info), 0);
	CHECK_EQ(info.st_mode & 0777, 0600);
	ts_store_close(store);
	ts_store_close(NULL);
}

/* Puts keys 0 .. nr-1, several versions of some, deletes some; then what must be left is known:
 * key k is there with version k % 3 unless k % 5 == 4. */
static void fill_kept(struct ts_store *store, uint64_t nr)
{
	for (uint64_t version = 0; version < 3; version++)
		for (uint64_t key = 0; key < nr; key++)
			if (version <= key % 3)
				CHECK_EQ(rig_put(store, key, version, (uint32_t)(500 + key * 13)),
					 0);
	for (uint64_t key = 4; key < nr; key += 5)
		CHECK_EQ(rig_del(store, key), 0);
}

static void expect_kept(struct ts_store *store, uint64_t nr)
{
	struct ts_reader *reader;
	struct ts_get request;
	void *buf = rig_buffer(RIG_BUF_BYTES);

	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	for (uint64_t key = 0; key < nr; key++)
		if (key % 5 == 4)
			CHECK_EQ(rig_get(reader, &request, key, buf), TS_ENOTFOUND);
		else
			rig_expect(reader, buf, key, key % 3, (uint32_t)(500 + key * 13));
	ts_store_reader_close(reader);
	munmap(buf, RIG_BUF_BYTES);
}

static void kept_stores_come_back(void)
{
	struct ts_store *store;
	char path[300];

	snprintf(path, sizeof(path), "%s", rig_path("kept"));
	store = rig_open(path, SIZE_BYTES, "keep=1");
	fill_kept(store, 300);
	ts_store_close(store);
	expect_refused(path, "", TS_EWRONGFILE, "keep=1");
	CHECK_EQ(rig_try_open(path, 2 * SIZE_BYTES, "keep=1", &store), TS_ECONFIG);
	for (unsigned turn = 0; turn < 3; turn++) {
		store = rig_open(path, SIZE_BYTES, "keep=1");
		CHECK_EQ(rig_stat(store).nr_frames, 240);
		expect_kept(store, 300);
		/* More of life, so that segments get reused between two closes. */
		for (unsigned i = 0; i < 400; i++)
			CHECK_EQ(rig_put(store, 1000 + i % 40, i, 9000), 0);
		for (uint64_t key = 1000; key < 1040; key++)
			CHECK_EQ(rig_del(store, key), 0);
		expect_kept(store, 300);
		ts_store_close(store);
	}
	store = rig_open(path, SIZE_BYTES, "init=1");
	CHECK_EQ(rig_stat(store).nr_frames, 0);
	ts_store_close(store);
}

static _Noreturn void die_while_putting(const char *path, int ready_fd)
{
	struct ts_store *store = rig_open(path, SIZE_BYTES, "keep=1");

	for (uint64_t i = 0;; i++) {
		CHECK_EQ(rig_put(store, i % 200, i, 10000), 0);
		if (i == 500)
			CHECK_EQ(write(ready_fd, "x", 1), 1);
	}
}

static void a_crash_is_recognised_and_reclaimed(void)
{
	int status, fds[2];
	char path[300], byte;

	snprintf(path, sizeof(path), "%s", rig_path("crashed"));
	for (unsigned turn = 0; turn < 3; turn++) {
		CHECK_EQ(pipe(fds), 0);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0)
			die_while_putting(path, fds[1]);
		CHECK_EQ(read(fds[0], &byte, 1), 1);
		expect_refused(path, "", TS_ELOCKED, "in use");
		CHECK_EQ(kill(child, SIGKILL), 0);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status));
		close(fds[0]);
		close(fds[1]);
		CHECK(rig_disk_bytes(path) > RIG_MIB);
		struct ts_store *store = rig_open(path, SIZE_BYTES, "");
		CHECK(strstr(ts_last_error(), "discarded") != NULL);
		CHECK_EQ(rig_stat(store).nr_frames, 0);
		CHECK(rig_disk_bytes(path) < RIG_MIB);
		fill_kept(store, 100);
		expect_kept(store, 100);
		/* It was ours from the start: it goes. */
		ts_store_close(store);
		CHECK_EQ(access(path, F_OK), -1);
	}
}

static void buffered_works_where_asked_for(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s", rig_path("buffered"));
	struct ts_store *store = rig_open(path, SIZE_BYTES, "direct=off,depth=4");
	fill_kept(store, 200);
	expect_kept(store, 200);
	ts_store_close(store);
}

CHECK_MAIN({ "foreign_files_stay_untouched", foreign_files_stay_untouched },
	   { "prepared_files_are_taken", prepared_files_are_taken },
	   { "bad_paths_and_options_are_explained", bad_paths_and_options_are_explained },
	   { "other_versions_are_refused", other_versions_are_refused },
	   { "a_path_has_one_user", a_path_has_one_user },
	   { "files_are_private_and_temporary", files_are_private_and_temporary },
	   { "kept_stores_come_back", kept_stores_come_back },
	   { "a_crash_is_recognised_and_reclaimed", a_crash_is_recognised_and_reclaimed },
	   { "buffered_works_where_asked_for", buffered_works_where_asked_for })
