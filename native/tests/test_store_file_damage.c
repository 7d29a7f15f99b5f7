/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_damage.c — the store "file" on a medium that is going bad, or whose host ends at
 * a bad time: what is still good comes back, and nothing else stands still for what is not. */
#include <stddef.h>

#include "file_rig.h"
#include "store/file_format.h"
#include "store/forward.h"
#include "util/hook.h"

#define SITE(name) (UINT64_C(1) << TS_SITE_##name)

/* ---- Damage ------------------------------------------------------------------------------ */

/* Where a key's record lies, found by its head. */
static off_t find_record(const char *path, uint32_t key, uint32_t len_bytes)
{
	struct ts_file_super super;
	struct ts_file_head head;
	int fd = open(path, O_RDONLY);

	CHECK(fd >= 0);
	CHECK_EQ(pread(fd, &super, sizeof(super), 0), sizeof(super));
	for (off_t at = TS_FILE_BLOCK_BYTES;; at += super.unit_bytes) {
		CHECK_EQ(pread(fd, &head, sizeof(head), at), sizeof(head));
		if (head.magic != super.record_magic || head.key != key ||
		    head.len_bytes != len_bytes)
			continue;
		close(fd);
		return at;
	}
}

/* Frames of one length, one put each, until the store is full; the key after the last one. */
static uint64_t fill(struct ts_store *store, uint64_t key, uint32_t len_bytes)
{
	int status;

	while ((status = rig_put(store, key, 1, len_bytes)) == 0)
		key++;
	CHECK_EQ(status, TS_EFULL);
	return key;
}

/* Of a record whose head is damaged nothing can be moved; all other segments are collected. */
static void one_damaged_head_stops_no_collection(void)
{
	enum { LEN_BYTES = 100000, PER_SEGMENT = 10 };
	const uint32_t wrong_len = RIG_FRAME_MAX + 1;
	char path[300];
	struct ts_reader *reader;
	struct ts_get request;
	void *buf = rig_buffer(RIG_BUF_BYTES);

	snprintf(path, sizeof(path), "%s", rig_path("head"));
	struct ts_store *store = rig_open(path, 8 * RIG_MIB, "");
	uint64_t nr_keys = fill(store, 0, LEN_BYTES), nr_deleted = 0;
	CHECK(nr_keys > 4 * PER_SEGMENT);
	rig_write_file(path, &wrong_len, sizeof(wrong_len), find_record(path, 0, LEN_BYTES) +
		       (off_t)offsetof(struct ts_file_head, len_bytes));
	/* Its segment is the one whose collection would win most. */
	for (uint64_t key = 1; key < nr_keys; key++)
		if (key < PER_SEGMENT || key % 2) {
			CHECK_EQ(rig_del(store, key), 0);
			nr_deleted++;
		}
	uint64_t end = fill(store, nr_keys, LEN_BYTES);
	CHECK(end - nr_keys > nr_deleted / 2);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	CHECK_EQ(rig_get(reader, &request, 0, buf), TS_ECORRUPT);
	for (uint64_t key = PER_SEGMENT; key < end; key++)
		if (key >= nr_keys || key % 2 == 0)
			rig_expect(reader, buf, key, 1, LEN_BYTES);
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

/* A bad block beside a frame's own costs nothing but what would have been brought along. */
static void a_bad_neighbour_costs_no_frame(void)
{
	enum { NR_KEYS = 64, LEN_BYTES = 3000 };
	struct ts_store *store = rig_open(rig_path("wide"), 8 * RIG_MIB, "");
	struct ts_reader *reader;
	struct ts_get request;
	void *buf = rig_buffer(RIG_BUF_BYTES);

	for (uint64_t key = 0; key < NR_KEYS; key++)
		CHECK_EQ(rig_put(store, key, 1, LEN_BYTES), 0);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	ts_store_reader_around(reader, 65536);
	for (uint64_t key = 0; key < NR_KEYS; key++) {
		ts_hook_inject(SITE(URING_RESULT), 1, EIO, 0);
		rig_expect(reader, buf, key, 1, LEN_BYTES);
	}
	ts_hook_inject(0, 0, 0, 0);
	CHECK_EQ(rig_stat(store).nr_errors, 0);
	/* Its own are bad, too. */
	ts_hook_inject(SITE(URING_RESULT), 1, EIO, 1);
	CHECK_EQ(rig_get(reader, &request, 7, buf), -EIO);
	ts_hook_inject(0, 0, 0, 0);
	rig_expect(reader, buf, 7, 1, LEN_BYTES);
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

/* "Closed in order" must be gone from the medium before anything else is written; where that can't
 * be had the store is not opened, and its frames are as they were. */
static void a_kept_store_is_opened_durably(void)
{
	const char *path = rig_path("kept");
	struct ts_reader *reader;
	struct ts_store *store = rig_open(path, 8 * RIG_MIB, "keep=1");
	void *buf = rig_buffer(RIG_BUF_BYTES);

	CHECK_EQ(rig_put(store, 3, 1, 5000), 0);
	ts_store_close(store);
	ts_hook_inject(SITE(PWRITE), 1, EIO, 0);
	CHECK_EQ(rig_try_open(path, 8 * RIG_MIB, "keep=1", &store), -EIO);
	ts_hook_inject(0, 0, 0, 0);
	store = rig_open(path, 8 * RIG_MIB, "keep=1");
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	rig_expect(reader, buf, 3, 1, 5000);
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

/* ---- The serial numbers' end ------------------------------------------------------------- */

static struct ts_store *open_held(int is_resume)
{
	static char path[300], state_path[300];
	struct ts_store_config config = {
		.size = sizeof(config), .name = "test", .path = path,
		.size_bytes = 8 * RIG_MIB, .frame_max_bytes = RIG_FRAME_MAX,
		.key_max = RIG_KEY_MAX, .batch_max = RIG_BATCH_MAX, .reader_max = 8,
		.depth_max = RIG_DEPTH_MAX, .options = "", .state_path = state_path,
		.is_resume = (uint8_t)is_resume,
	};
	struct ts_store *store = NULL;

	snprintf(path, sizeof(path), "%s", rig_path("serial"));
	snprintf(state_path, sizeof(state_path), "%s", rig_path("state"));
	int ret = ts_store_open("file", NULL, "", &config, &store);
	if (ret)
		fprintf(stderr, "%s\n", ts_last_error());
	CHECK_EQ(ret, 0);
	return store;
}

/* 0 means that a segment was never used, so none gets it when the numbers have run once around. */
static void serial_numbers_come_around(void)
{
	const uint32_t last = UINT32_MAX;
	void *buf = rig_buffer(RIG_BUF_BYTES);
	struct ts_reader *reader;

	ts_store_close(open_held(0));
	/* Segment 0 was used last, and is empty. */
	rig_write_file(rig_path("state.index"), &last, sizeof(last), TS_FILE_BLOCK_BYTES);
	struct ts_store *store = open_held(1);
	for (uint64_t key = 0; key < 40; key++)
		CHECK_EQ(rig_put(store, key, 1, 100000), 0);
	ts_store_close(store);
	store = open_held(1);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	for (uint64_t key = 0; key < 40; key++)
		rig_expect(reader, buf, key, 1, 100000);
	ts_store_reader_close(reader);
	ts_store_close(store);
	munmap(buf, RIG_BUF_BYTES);
}

CHECK_MAIN({ "one_damaged_head_stops_no_collection", one_damaged_head_stops_no_collection },
	   { "a_bad_neighbour_costs_no_frame", a_bad_neighbour_costs_no_frame },
	   { "a_kept_store_is_opened_durably", a_kept_store_is_opened_durably },
	   { "serial_numbers_come_around", serial_numbers_come_around })
