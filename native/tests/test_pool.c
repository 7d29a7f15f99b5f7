/* SPDX-License-Identifier: Apache-2.0
 * test_pool.c — the pool keeps every frame, keeps its limit, wastes little and gives RAM back. */
#include "store/pool.h"

#include <errno.h>
#include <pthread.h>

#include "check.h"
#include "content.h"
#include "store/pool_class.h"
#include "util/base.h"
#include "util/hook.h"
#include "util/limits.h"

enum { MODEL_KEYS = 3000, LEN_MAX = 70 * 1024, MIB = 1 << 20 };

static char data[TS_FRAME_BYTES_MAX], buf[TS_FRAME_BYTES_MAX];

static struct ts_pool *open_pool(uint64_t size_bytes)
{
	struct ts_pool_options options = { .name = "test", .size_bytes = size_bytes,
		.key_max = TS_KEY_MAX, .frame_max_bytes = TS_FRAME_BYTES_MAX };
	struct ts_pool *pool = NULL;

	CHECK_EQ(ts_pool_create(&options, &pool), 0);
	return pool;
}

static struct ts_pool_stat stat_of(struct ts_pool *pool)
{
	struct ts_pool_stat stat;

	ts_pool_stat_get(pool, &stat);
	return stat;
}

static int put(struct ts_pool *pool, uint64_t key, uint64_t version, uint32_t len_bytes)
{
	content_fill(data, len_bytes, key, version);
	return ts_pool_put(pool, key, data, len_bytes);
}

static void expect(struct ts_pool *pool, uint64_t key, uint64_t version, uint32_t len_bytes)
{
	uint32_t got_bytes = 0;

	CHECK_EQ(ts_pool_get(pool, key, buf, &got_bytes), len_bytes ? 0 : TS_ENOTFOUND);
	CHECK_EQ(got_bytes, len_bytes);
	CHECK(content_is(buf, len_bytes, key, version));
}

static uint32_t random_len(uint64_t *state, bool is_wide)
{
	uint64_t random = content_random(state) >> 11;

	if (!is_wide)
		return 200 + (uint32_t)(random % (4136 - 200 + 1));
	uint32_t low = 60u << (random % 11);
	return TS_MIN(low + (uint32_t)((random >> 8) % low), (uint32_t)LEN_MAX);
}

static void every_length_has_a_class_that_fits(void)
{
	for (uint32_t bytes = 1; bytes <= TS_FRAME_BYTES_MAX + POOL_OWNER_BYTES; bytes++) {
		unsigned cls = ts_pool_class_of(bytes);
		uint32_t slot_bytes = ts_pool_class_bytes(cls);

		CHECK(slot_bytes >= bytes);
		CHECK(slot_bytes - bytes <= TS_MAX(7u, bytes / 64));
		CHECK(cls == 0 || ts_pool_class_bytes(cls - 1) < bytes);
	}
}

static void slots_of_a_class_do_not_overlap(void)
{
	struct pool_budget budget = { .size_bytes = 64 * MIB };
	struct pool_class cls = { 0 };

	CHECK_EQ(ts_pool_class_init(&cls, ts_pool_class_of(1000)), 0);
	for (uint32_t i = 0; i < 5000; i++) {
		CHECK_EQ(ts_pool_class_hold(&cls, &budget), 0);
		content_fill(ts_pool_class_slot(&cls, i), cls.slot_bytes, i, 0);
		cls.nr_slots++;
	}
	for (uint32_t i = 0; i < 5000; i++)
		CHECK(content_is(ts_pool_class_slot(&cls, i), cls.slot_bytes, i, 0));
	cls.nr_slots = 0;
	ts_pool_class_shrink(&cls, &budget, true);
	CHECK_EQ(budget.used_bytes, 0);
	ts_pool_class_finish(&cls);
}

/* Random puts, overwrites, deletes and gets against a table of what must be there. */
static void random_operations_match_a_model(void)
{
	static uint32_t lens[MODEL_KEYS];
	static uint64_t versions[MODEL_KEYS];
	struct ts_pool *pool = open_pool(16 * MIB);
	uint64_t empty = stat_of(pool).used_bytes, state = 7, nr_frames = 0, bytes = 0;

	memset(lens, 0, sizeof(lens));
	for (uint64_t i = 1; i <= 20000; i++) {
		uint32_t slot = (uint32_t)(content_random(&state) % MODEL_KEYS);
		uint64_t key = slot * 40009u; /* many index pages */
		uint32_t len_bytes = random_len(&state, true);

		switch (content_random(&state) % 4) {
		case 0:
		case 1:
			if (put(pool, key, i, len_bytes) == 0) {
				lens[slot] = len_bytes;
				versions[slot] = i;
			}
			break;
		case 2:
			ts_pool_del(pool, key);
			lens[slot] = 0;
			break;
		default:
			break;
		}
		expect(pool, key, versions[slot], lens[slot]);
		CHECK(stat_of(pool).used_bytes <= 16 * MIB);
	}
	for (uint32_t i = 0; i < MODEL_KEYS; i++) {
		expect(pool, i * 40009u, versions[i], lens[i]);
		nr_frames += lens[i] > 0;
		bytes += lens[i];
	}
	CHECK_EQ(stat_of(pool).nr_frames, nr_frames);
	CHECK_EQ(stat_of(pool).frame_bytes, bytes);
	CHECK(stat_of(pool).moved_bytes > 0);
	for (uint32_t i = 0; i < MODEL_KEYS; i++)
		ts_pool_del(pool, i * 40009u);
	/* The pages of counts are all that stays: one for each 2^20 keys. */
	CHECK(stat_of(pool).used_bytes <= empty + 115 * 4096);
	CHECK_EQ(stat_of(pool).frame_bytes, 0);
	ts_pool_destroy(pool);
}

static void full_loses_nothing(void)
{
	struct ts_pool *pool = open_pool(2 * MIB);
	uint64_t nr_keys = 0;

	while (put(pool, nr_keys, 0, 2000) == 0)
		nr_keys++;
	CHECK(nr_keys > 500);
	CHECK(stat_of(pool).used_bytes <= 2 * MIB);
	CHECK_EQ(put(pool, 0, 1, TS_FRAME_BYTES_MAX), TS_EFULL);
	CHECK_EQ(put(pool, TS_KEY_MAX, 1, 2000), TS_EFULL);
	expect(pool, TS_KEY_MAX, 0, 0);
	for (uint64_t key = 0; key < nr_keys; key++)
		expect(pool, key, 0, 2000);
	/* Replacing needs room for both for a moment; without it the old one stays. */
	for (uint64_t key = 0; key < nr_keys; key++) {
		int result = put(pool, key, 1, 2001);

		CHECK(result == 0 || result == TS_EFULL);
		expect(pool, key, result == 0, result == 0 ? 2001 : 2000);
	}
	for (uint64_t key = 0; key < 300; key++)
		ts_pool_del(pool, key);
	for (uint64_t key = 300; key < nr_keys; key++)
		CHECK_EQ(put(pool, key, 1, 2001), 0);
	CHECK_EQ(put(pool, 0, 2, 70000), 0);
	expect(pool, 0, 2, 70000);
	expect(pool, nr_keys - 1, 1, 2001);
	ts_pool_destroy(pool);
}

static void waste_after_churn(bool is_wide)
{
	struct ts_pool *pool = open_pool(64 * MIB);
	uint64_t nr_keys = 0, state = 3;

	while (stat_of(pool).frame_bytes < 32 * MIB)
		CHECK_EQ(ts_pool_put(pool, nr_keys++, data, random_len(&state, is_wide)), 0);
	for (uint64_t i = 0; i < 20 * nr_keys; i++) {
		uint64_t key = content_random(&state) % nr_keys;

		if (i % 3)
			ts_pool_del(pool, key);
		CHECK_EQ(ts_pool_put(pool, key, data, random_len(&state, is_wide)), 0);
	}
	struct ts_pool_stat stat = stat_of(pool);
	CHECK(stat.used_bytes <= stat.frame_bytes + stat.frame_bytes / 100 * 8);
	CHECK_EQ(stat.nr_frames, nr_keys);
	ts_pool_destroy(pool);
}

static void waste_is_small_for_frames_of_a_page(void)
{
	waste_after_churn(false);
}

static void waste_is_small_for_frames_of_all_sizes(void)
{
	waste_after_churn(true);
}

/* Of this process, from the kernel. */
static inline uint64_t resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	CHECK(file && fscanf(file, "%llu %llu", &size, &resident) == 2);
	fclose(file);
	return resident * TS_PAGE_BYTES;
}

static void memory_goes_back_to_the_host(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("a sanitizer's shadow memory counts, too");
#else
	struct ts_pool *pool = open_pool(128 * MIB);
	uint64_t before = resident_bytes(), nr_keys = 0, state = 11;

	while (stat_of(pool).frame_bytes < 64 * MIB)
		CHECK_EQ(put(pool, nr_keys++, 0, random_len(&state, false)), 0);
	uint64_t full = resident_bytes() - before, used = stat_of(pool).used_bytes;
	/* What it says it uses is what the kernel counts. */
	CHECK(full > used - 2 * MIB && full < used + 2 * MIB);
	for (uint64_t key = 0; key < nr_keys; key++)
		if (key % 16)
			ts_pool_del(pool, key);
	CHECK(resident_bytes() - before < 64 * MIB / 16 + 3 * MIB);
	CHECK(stat_of(pool).discarded_bytes > 50 * MIB);
	for (uint64_t key = 0; key < nr_keys; key += 16)
		CHECK_EQ(ts_pool_get(pool, key, buf, &(uint32_t){ 0 }), 0);
	ts_pool_destroy(pool);
#endif
}

static void sizes_that_make_no_sense_are_refused(void)
{
	struct ts_pool_options options = { .name = "test", .size_bytes = 1000,
		.key_max = TS_KEY_MAX, .frame_max_bytes = TS_FRAME_BYTES_MAX };
	struct ts_pool *pool = NULL;

	CHECK_EQ(ts_pool_create(&options, &pool), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "too small"));
	options.size_bytes = 1 << 30;
	options.key_max = UINT64_C(1) << 32;
	CHECK_EQ(ts_pool_create(&options, &pool), TS_ELIMIT);
	ts_pool_destroy(NULL);
}

/* ---- Threads ------------------------------------------------------------------------------ */

enum { SHARED_KEYS = 400, WRITER_OPS = 15000, NR_WRITERS = 2, NR_READERS = 2 };

static struct ts_pool *shared_pool;
static _Atomic bool writers_done;

/* Frames say which version they are in their first 8 bytes.  A class or two, so that the frames
 * of one writer move all the time that the other one's are read. */
static void *writer_main(void *context)
{
	uint64_t id = (uintptr_t)context, state = id + 100;
	char frame[4200];

	for (uint64_t i = 1; i <= WRITER_OPS; i++) {
		uint64_t key = content_random(&state) % SHARED_KEYS * NR_WRITERS + id;
		uint32_t len_bytes = 4000 + (uint32_t)(content_random(&state) % 100);

		if (i % 3 == 0) {
			ts_pool_del(shared_pool, key);
			continue;
		}
		memcpy(frame, &i, sizeof(i));
		content_fill(frame + sizeof(i), len_bytes - (uint32_t)sizeof(i), key, i);
		CHECK_EQ(ts_pool_put(shared_pool, key, frame, len_bytes), 0);
	}
	return NULL;
}

static void *reader_main(void *context)
{
	uint64_t state = (uintptr_t)context + 200, nr_found = 0, version;
	char frame[4200];

	while (!writers_done || nr_found == 0) {
		uint64_t key = content_random(&state) % (SHARED_KEYS * NR_WRITERS);
		uint32_t len_bytes = 0;
		int result = ts_pool_get(shared_pool, key, frame, &len_bytes);

		if (result == TS_ENOTFOUND)
			continue;
		CHECK_EQ(result, 0);
		nr_found++;
		memcpy(&version, frame, sizeof(version));
		CHECK(content_is(frame + sizeof(version), len_bytes - (uint32_t)sizeof(version),
				 key, version));
	}
	return NULL;
}

static void gets_see_whole_frames_while_others_write(void)
{
	pthread_t writers[NR_WRITERS], readers[NR_READERS];

	shared_pool = open_pool(16 * MIB);
	writers_done = false;
	for (uintptr_t i = 0; i < NR_WRITERS; i++)
		CHECK_EQ(pthread_create(&writers[i], NULL, writer_main, (void *)i), 0);
	for (uintptr_t i = 0; i < NR_READERS; i++)
		CHECK_EQ(pthread_create(&readers[i], NULL, reader_main, (void *)i), 0);
	for (int i = 0; i < NR_WRITERS; i++)
		CHECK_EQ(pthread_join(writers[i], NULL), 0);
	writers_done = true;
	for (int i = 0; i < NR_READERS; i++)
		CHECK_EQ(pthread_join(readers[i], NULL), 0);
	ts_pool_destroy(shared_pool);
}

static void *same_key_main(void *context)
{
	uint64_t state = (uintptr_t)context + 300;
	char frame[4200] = { 0 };

	for (int i = 0; i < 20000; i++) {
		uint64_t key = content_random(&state) % 3;

		if (i % 4 == 3)
			ts_pool_del(shared_pool, key);
		else
			CHECK_EQ(ts_pool_put(shared_pool, key, frame,
					     1 + (uint32_t)(content_random(&state) % 4200)), 0);
	}
	return NULL;
}

/* The engine doesn't do this; a pool that mixed up its books over it would be a trap. */
static void writers_of_the_same_key_leave_one_frame(void)
{
	pthread_t threads[3];

	shared_pool = open_pool(4 * MIB);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, same_key_main, (void *)i), 0);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	uint64_t bytes = 0, nr_frames = 0;
	for (uint64_t key = 0; key < 3; key++) {
		uint32_t len_bytes = 0;

		nr_frames += ts_pool_get(shared_pool, key, buf, &len_bytes) == 0;
		bytes += len_bytes;
	}
	CHECK_EQ(stat_of(shared_pool).nr_frames, nr_frames);
	CHECK_EQ(stat_of(shared_pool).frame_bytes, bytes);
	ts_pool_destroy(shared_pool);
}

/* ---- Failures ----------------------------------------------------------------------------- */

#ifdef TS_HOOKS
/* Returns the length, or 0 if it could not be stored. */
static uint32_t put_or_none(struct ts_pool *pool, uint64_t key, uint32_t len_bytes)
{
	return put(pool, key, 1, len_bytes) == 0 ? len_bytes : 0;
}
#endif

/* Fails the Nth system call of a short life, for every N: nothing is lost, nothing leaks. */
static void every_system_call_may_fail(void)
{
#ifndef TS_HOOKS
	SKIP("a build without hooks");
#else
	const uint64_t sites = UINT64_C(1) << TS_SITE_MMAP | UINT64_C(1) << TS_SITE_MADVISE |
			       UINT64_C(1) << TS_SITE_ALLOC;
	struct ts_pool_options options = { .name = "test", .size_bytes = 8 * MIB,
		.key_max = TS_KEY_MAX, .frame_max_bytes = TS_FRAME_BYTES_MAX };
	uint64_t failed = 1;

	for (uint64_t nth = 1; failed; nth++) {
		struct ts_pool *pool = NULL;
		uint32_t lens[20];

		CHECK(nth < 1000);
		ts_hook_inject(sites, nth, ENOMEM, 0);
		if (ts_pool_create(&options, &pool) == 0) {
			for (uint64_t key = 0; key < 20; key++)
				lens[key] = put_or_none(pool, key, 3000 + (uint32_t)key * 200);
			for (uint64_t key = 0; key < 20; key += 3) {
				ts_pool_del(pool, key);
				lens[key] = 0;
			}
			for (uint64_t key = 0; key < 20; key++)
				expect(pool, key, 1, lens[key]);
		}
		ts_hook_inject_count(&failed);
		ts_hook_inject(0, 0, 0, 0);
		CHECK(pool || failed);
		if (pool) {
			for (uint64_t key = 0; key < 20; key++)
				ts_pool_del(pool, key);
			ts_pool_trim(pool);
			CHECK(stat_of(pool).used_bytes < 256 * 1024);
		}
		ts_pool_destroy(pool);
	}
#endif
}

CHECK_MAIN({ "every_length_has_a_class_that_fits", every_length_has_a_class_that_fits },
	   { "slots_of_a_class_do_not_overlap", slots_of_a_class_do_not_overlap },
	   { "random_operations_match_a_model", random_operations_match_a_model },
	   { "full_loses_nothing", full_loses_nothing },
	   { "waste_is_small_for_frames_of_a_page", waste_is_small_for_frames_of_a_page },
	   { "waste_is_small_for_frames_of_all_sizes", waste_is_small_for_frames_of_all_sizes },
	   { "memory_goes_back_to_the_host", memory_goes_back_to_the_host },
	   { "sizes_that_make_no_sense_are_refused", sizes_that_make_no_sense_are_refused },
	   { "gets_see_whole_frames_while_others_write", gets_see_whole_frames_while_others_write },
	   { "writers_of_the_same_key_leave_one_frame", writers_of_the_same_key_leave_one_frame },
	   { "every_system_call_may_fail", every_system_call_may_fail })
