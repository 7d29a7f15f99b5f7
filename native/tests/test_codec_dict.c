/* SPDX-License-Identifier: Apache-2.0
 *
 * test_codec_dict.c — dictionaries: found, needed, switched off; and the codec's promises about
 * memory, which depend on them.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "codec/dict_gain.h"
#include "codec_fixture.h"
#include "count_allocations.h"
#include "util/hook.h"

static void dictionaries_help_and_are_needed(void)
{
	struct ts_frame_owner owner = { 3, 64, 1 };
	struct ts_frame_head head;
	struct rng rng = { 99 };
	size_t dict_len = train_dict(PAGE_TEXT, 1), got_len;
	struct ts_dict_table *others;
	struct ts_decoder *stranger;
	int with, without;

	set_up();
	CHECK_EQ(ts_dict_add(table, dict, dict_len, 3), 1);
	CHECK(memcmp(ts_dict_bytes_borrow(table, 1, &got_len), dict, dict_len) == 0);
	CHECK_EQ(got_len, dict_len);
	CHECK(ts_dict_bytes_borrow(table, 2, &got_len) == NULL);
	make_pages(raw, sizeof(raw), PAGE_TEXT, &rng);
	without = ts_encode(encoder, &(struct ts_codec_setting){ TS_CODEC_ZSTD, 3, 0 }, &owner, raw,
			    frame, sizeof(frame));
	with = ts_encode(encoder, &(struct ts_codec_setting){ TS_CODEC_ZSTD, 3, 1 }, &owner, raw,
			 frame, sizeof(frame));
	CHECK(with < without);
	for (uint64_t bits = 1; bits; bits = bits << 7 | bits >> 60) {
		owner.page_bits = bits;
		check_round_trip(&(struct ts_codec_setting){ TS_CODEC_ZSTD, 3, 1 }, &owner, CAP);
		if (bits > 1ull << 62)
			break;
	}
	/* Who has no dictionary of that id, or another one, gets no page. */
	owner.page_bits = 1;
	with = ts_encode(encoder, &(struct ts_codec_setting){ TS_CODEC_ZSTD, 3, 1 }, &owner, raw,
			 frame, sizeof(frame));
	CHECK_EQ(ts_dict_table_create(&others), 0);
	CHECK_EQ(ts_decoder_create(others, &stranger), 0);
	CHECK_EQ(ts_decode(stranger, frame, (size_t)with, &head, back, CAP), TS_ECORRUPT);
	dict_len = train_dict(PAGE_TEXT, 5);
	CHECK_EQ(ts_dict_add(others, dict, dict_len, 3), 1);
	CHECK_EQ(ts_decode(stranger, frame, (size_t)with, &head, back, CAP), TS_ECORRUPT);
	ts_decoder_destroy(stranger);
	ts_dict_table_destroy(others);
	tear_down();
}

static void only_dictionaries_are_taken(void)
{
	size_t dict_len = train_dict(PAGE_TEXT, 1);

	set_up();
	CHECK_EQ(ts_dict_add(table, NULL, 0, 1), TS_ECONFIG);
	CHECK_EQ(ts_dict_add(table, raw, 4096, 1), TS_ECONFIG);
	CHECK_EQ(ts_dict_add(table, dict, 4, 1), TS_ECONFIG);
	CHECK_EQ(ts_dict_add(table, dict, 40, 1), TS_ECONFIG);
	for (int i = 1; i <= TS_DICT_MAX; i++)
		CHECK_EQ(ts_dict_add(table, dict, dict_len, 1), i);
	CHECK_EQ(ts_dict_add(table, dict, dict_len, 1), TS_ELIMIT);
	tear_down();
}

static void dictionary_frames_come_back(void)
{
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct ts_frame_head head;
	int len;

	set_up();
	len = ts_encode_dict_frame(dict, dict_len, 7, frame, sizeof(frame));
	CHECK_EQ(len, TS_FRAME_HEAD_BYTES + (int)dict_len);
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, sizeof(back)), dict_len);
	CHECK_EQ(head.codec, TS_CODEC_DICT);
	CHECK_EQ(head.dict_id, 7);
	CHECK(memcmp(back, dict, dict_len) == 0);
	frame[100] ^= 1;
	must_fail((size_t)len);
	CHECK_EQ(ts_encode_dict_frame(dict, dict_len, 0, frame, sizeof(frame)), TS_ECONFIG);
	tear_down();
}

/* Readers decode with dictionaries as they appear; nothing but the id is handed over. */
static _Atomic int announced;
static char sealed[TS_DICT_MAX][8192];
static int sealed_len[TS_DICT_MAX];

static void *decode_announced(void *arg)
{
	static _Thread_local char page[TS_PAGE_BYTES];
	struct ts_decoder *own;
	struct ts_frame_head head;
	int seen;

	(void)arg;
	CHECK_EQ(ts_decoder_create(table, &own), 0);
	do {
		seen = atomic_load_explicit(&announced, memory_order_acquire);
		for (int i = 0; i < seen; i++)
			CHECK_EQ(ts_decode(own, sealed[i], (size_t)sealed_len[i], &head, page,
					   sizeof(page)), TS_PAGE_BYTES);
	} while (seen < TS_DICT_MAX);
	ts_decoder_destroy(own);
	return NULL;
}

static void dictionaries_appear_while_others_decode(void)
{
	pthread_t threads[2];
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct ts_frame_owner owner = { 3, 64, 1 };
	struct rng rng = { 8 };

	set_up();
	atomic_store(&announced, 0);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, decode_announced, NULL), 0);
	for (int i = 0; i < TS_DICT_MAX; i++) {
		struct ts_codec_setting setting = { TS_CODEC_ZSTD, 1, (uint32_t)i + 1 };

		CHECK_EQ(ts_dict_add(table, dict, dict_len, 1), i + 1);
		make_pages(raw, TS_PAGE_BYTES, PAGE_TEXT, &rng);
		sealed_len[i] = ts_encode(encoder, &setting, &owner, raw, sealed[i],
					  sizeof(sealed[i]));
		CHECK(sealed_len[i] > 0);
		atomic_store_explicit(&announced, i + 1, memory_order_release);
	}
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	tear_down();
}

/* ---- The dictionary that gains nothing -------------------------------------------------- */

/* Encodes a window of pages of `kind`; returns how many frames used the dictionary. */
static unsigned encode_window(struct ts_dict_gain *gain, enum page_kind kind)
{
	struct ts_codec_setting setting = { TS_CODEC_ZSTD, 1, 1 };
	struct ts_frame_owner owner = { 1, 0, 1 };
	struct ts_frame_head head;
	struct rng rng = { 77 };
	unsigned nr_used = 0;

	for (unsigned i = 0; i < TS_DICT_GAIN_EVERY * TS_DICT_GAIN_WINDOW; i++) {
		int len;

		make_pages(raw, TS_PAGE_BYTES, kind, &rng);
		len = ts_encode_with_gain(encoder, &setting, &owner, raw, frame, CAP, gain);
		CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, CAP), TS_PAGE_BYTES);
		CHECK(memcmp(raw, back, TS_PAGE_BYTES) == 0);
		nr_used += head.dict_id == 1;
	}
	return nr_used;
}

static void useless_dictionary_goes_off(void)
{
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct ts_dict_gain gain;

	set_up();
	CHECK_EQ(ts_dict_add(table, dict, dict_len, 1), 1);
	ts_dict_gain_init(&gain);
	CHECK_EQ(ts_dict_gain_permille(&gain), INT32_MIN);
	CHECK(encode_window(&gain, PAGE_TEXT) > 0);
	CHECK(!ts_dict_gain_is_off(&gain));
	CHECK(ts_dict_gain_permille(&gain) >= TS_DICT_GAIN_MIN_PERMILLE);
	/* The guest's pages change, and the dictionary fits no more. */
	encode_window(&gain, PAGE_STRUCTS);
	CHECK(ts_dict_gain_permille(&gain) < TS_DICT_GAIN_MIN_PERMILLE);
	CHECK(ts_dict_gain_is_off(&gain));
	CHECK_EQ(encode_window(&gain, PAGE_TEXT), 0);
	tear_down();
}

/* ---- Promises --------------------------------------------------------------------------- */

static void nothing_is_allocated_after_create(void)
{
#ifdef COUNTS_ALLOCATIONS
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct rng rng = { 4 };
	unsigned long before;

	set_up();
	CHECK_EQ(ts_dict_add(table, dict, dict_len, 3), 1);
	before = nr_allocations;
	CHECK(before > 0);
	for (unsigned round = 0; round < 600; round++) {
		struct ts_codec_setting setting = settings[round % 12];
		struct ts_frame_owner owner = { 1, 2, round < 200 ? pick_bits(&rng, round) : 1 };
		struct ts_frame_head head;
		int len;

		if (setting.codec == TS_CODEC_ZSTD && round % 2)
			setting.dict_id = 1;
		make_pages(raw, sizeof(raw), round % 5 ? PAGE_TEXT : PAGE_RANDOM, &rng);
		len = ts_encode(encoder, &setting, &owner, raw, frame, CAP);
		CHECK(ts_decode(decoder, frame, (size_t)len, &head, back, CAP) > 0);
		frame[len / 2] ^= 1; /* nearly always found; what counts is the way there */
		(void)ts_decode(decoder, frame, (size_t)len, &head, back, CAP);
	}
	CHECK_EQ(nr_allocations, before);
	tear_down();
#else
	SKIP("a sanitizer owns malloc");
#endif
}

/* Every size and level fits the fixed arena, or random_pages_stay_raw's fallback would hide it. */
static void arena_holds_every_level(void)
{
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct rng rng = { 6 };

	set_up();
	make_pages(raw, sizeof(raw), PAGE_TEXT, &rng);
	for (int level = -7; level <= 22; level++) {
		int id = level <= 8 ? ts_dict_add(table, dict, dict_len, level) : 0;

		for (unsigned nr_pages = 1; nr_pages <= 64; nr_pages *= 4) {
			struct ts_codec_setting setting = { TS_CODEC_ZSTD, level, 0 };
			struct ts_frame_owner owner = { 1, 2, ~0ull >> (64 - nr_pages) };
			struct ts_frame_head head;
			int len = ts_encode(encoder, &setting, &owner, raw, frame, sizeof(frame));

			CHECK_EQ(ts_frame_parse(frame, (size_t)len, &head), 0);
			CHECK_EQ(head.codec, TS_CODEC_ZSTD);
			setting.dict_id = id > 0 ? (uint32_t)id : 0;
			len = ts_encode(encoder, &setting, &owner, raw, frame, sizeof(frame));
			CHECK_EQ(ts_frame_parse(frame, (size_t)len, &head), 0);
			CHECK_EQ(head.codec, TS_CODEC_ZSTD);
		}
	}
	tear_down();
}

static void failed_allocations_leave_nothing(void)
{
#ifdef TS_HOOKS
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	unsigned nth = 0;
	uint64_t failed;

	do {
		int errors[4] = { 0 };

		table = NULL;
		encoder = NULL;
		decoder = NULL;
		ts_hook_inject(1ull << TS_SITE_ALLOC, ++nth, ENOMEM, 0);
		errors[0] = ts_dict_table_create(&table);
		if (table)
			errors[1] = ts_dict_add(table, dict, dict_len, 1);
		errors[2] = ts_encoder_create(table, &encoder);
		errors[3] = ts_decoder_create(table, &decoder);
		(void)ts_hook_inject_count(&failed);
		for (unsigned i = 0; i < 4; i++)
			CHECK(errors[i] >= 0 || errors[i] == -ENOMEM);
		CHECK_EQ(errors[0] < 0, !table);
		CHECK_EQ(errors[2] < 0, !encoder);
		CHECK_EQ(errors[3] < 0, !decoder);
		CHECK_EQ(failed > 0,
			 errors[0] < 0 || errors[1] < 0 || errors[2] < 0 || errors[3] < 0);
		tear_down();
	} while (failed > 0);
	CHECK(nth > 4);
	ts_hook_inject(0, 0, 0, 0);
#else
	SKIP("built without hooks");
#endif
}

CHECK_MAIN({ "dictionaries_help_and_are_needed", dictionaries_help_and_are_needed },
	   { "only_dictionaries_are_taken", only_dictionaries_are_taken },
	   { "dictionary_frames_come_back", dictionary_frames_come_back },
	   { "dictionaries_appear_while_others_decode", dictionaries_appear_while_others_decode },
	   { "useless_dictionary_goes_off", useless_dictionary_goes_off },
	   { "nothing_is_allocated_after_create", nothing_is_allocated_after_create },
	   { "arena_holds_every_level", arena_holds_every_level },
	   { "failed_allocations_leave_nothing", failed_allocations_leave_nothing })
