/* SPDX-License-Identifier: Apache-2.0
 *
 * test_codec.c — frames: what goes in comes out, and nothing else ever does.
 */
#include <stdint.h>

#include "check.h"
#include "codec/frame.h"
#include "codec_fixture.h"

/* ---- Round trips ------------------------------------------------------------------------ */

static void round_trip(void)
{
	struct rng rng = { 1 };

	set_up();
	for (unsigned s = 0; s < NR_SETTINGS; s++)
		for (unsigned round = 0; round < (settings[s].level > 8 ? 4 : 24); round++) {
			struct ts_frame_owner owner = {
				.region = (uint32_t)rng_next(&rng),
				.base_page = (uint32_t)rng_next(&rng) >> 5,
				.page_bits = pick_bits(&rng, round),
			};
			size_t raw_bytes =
				(size_t)__builtin_popcountll(owner.page_bits) * TS_PAGE_BYTES;

			make_pages(raw, raw_bytes, (enum page_kind)(round / 4 % PAGE_KINDS), &rng);
			/* The least room allowed, and so much that nothing has to be cut off. */
			check_round_trip(&settings[s], &owner, TS_FRAME_HEAD_BYTES + raw_bytes);
			check_round_trip(&settings[s], &owner, sizeof(frame));
		}
	tear_down();
}

static void random_pages_stay_raw(void)
{
	struct ts_frame_owner owner = { 1, 2, 0xf };
	struct ts_frame_head head;
	struct rng rng = { 2 };

	set_up();
	make_pages(raw, 4 * TS_PAGE_BYTES, PAGE_RANDOM, &rng);
	for (unsigned s = 0; s < NR_SETTINGS; s++) {
		int len = ts_encode(encoder, &settings[s], &owner, raw, frame, sizeof(frame));

		CHECK_EQ(len, TS_FRAME_HEAD_BYTES + 4 * TS_PAGE_BYTES);
		CHECK_EQ(ts_frame_parse(frame, (size_t)len, &head), 0);
		CHECK_EQ(head.codec, TS_CODEC_RAW);
	}
	tear_down();
}

/* The bytes that FORMAT.md promises; if this fails, the format's version must change. */
static void header_bytes_are_fixed(void)
{
	static const unsigned char want[TS_FRAME_HEAD_BYTES] = {
		'T', 'S', 'F', '1', 1, 0, 12, 0, 0, 0, 0, 0, 0x00, 0x20, 0, 0,
		0x04, 0x03, 0x02, 0x01, 0x44, 0x33, 0x22, 0x01, 0x01, 0, 0, 0, 0, 0, 0, 0x80,
		0x67, 0xcf, 0x70, 0xc5, 0x5d, 0xd5, 0x1f, 0xea, /* by Python's xxhash */
	};
	struct ts_codec_setting setting = { TS_CODEC_RAW, 0, 0 };
	struct ts_frame_owner owner = { 0x01020304, 0x01223344, 0x8000000000000001ull };

	set_up();
	for (unsigned i = 0; i < 2 * TS_PAGE_BYTES; i++)
		raw[i] = (char)(i * 7 % 251);
	CHECK_EQ(ts_encode(encoder, &setting, &owner, raw, frame, sizeof(frame)),
		 TS_FRAME_HEAD_BYTES + 2 * TS_PAGE_BYTES);
	for (unsigned i = 0; i < TS_FRAME_HEAD_BYTES; i++)
		CHECK_EQ((unsigned char)frame[i], want[i]);
	CHECK(memcmp(frame + TS_FRAME_HEAD_BYTES, raw, 2 * TS_PAGE_BYTES) == 0);
	tear_down();
}

static void bad_settings_are_refused(void)
{
	struct ts_frame_owner owner = { 1, 2, 1 };
	struct ts_codec_setting no_codec = { 9, 0, 0 }, dict_codec = { TS_CODEC_DICT, 0, 1 };
	struct ts_codec_setting no_dict = { TS_CODEC_ZSTD, 1, 3 };

	set_up();
	CHECK_EQ(ts_encode(encoder, &no_codec, &owner, raw, frame, CAP), TS_ECONFIG);
	CHECK_EQ(ts_encode(encoder, &dict_codec, &owner, raw, frame, CAP), TS_ECONFIG);
	CHECK_EQ(ts_encode(encoder, &no_dict, &owner, raw, frame, CAP), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "no dictionary 3"));
	tear_down();
}

/* ---- Damage ----------------------------------------------------------------------------- */

/* Some payload bits say nothing about the contents, such as the size of zstd's window. */
static void must_fail_or_be_right(size_t len, int raw_bytes)
{
	struct ts_frame_head head;
	int got = ts_decode(decoder, frame, len, &head, back, sizeof(back));

	if (got == raw_bytes)
		CHECK(memcmp(raw, back, (size_t)raw_bytes) == 0);
	else
		CHECK_EQ(got, TS_ECORRUPT);
}

static void every_flipped_bit_is_found(void)
{
	struct ts_frame_owner owner = { 3, 64, 0x3 };
	struct rng rng = { 3 };

	set_up();
	make_pages(raw, 2 * TS_PAGE_BYTES, PAGE_TEXT, &rng);
	for (unsigned s = 0; s < 7; s++) {
		int len = ts_encode(encoder, &settings[s], &owner, raw, frame, sizeof(frame));

		for (int bit = 0; bit < len * 8; bit += bit < 512 ? 1 : 13) {
			frame[bit / 8] ^= (char)(1 << bit % 8);
			if (bit < 8 * TS_FRAME_HEAD_BYTES)
				must_fail((size_t)len);
			else
				must_fail_or_be_right((size_t)len, 2 * TS_PAGE_BYTES);
			frame[bit / 8] ^= (char)(1 << bit % 8);
		}
		for (int cut = 1; cut <= len; cut += cut < 64 ? 1 : 97)
			must_fail((size_t)(len - cut));
		must_fail((size_t)len + 1);
	}
	tear_down();
}

static void newer_versions_are_told_apart(void)
{
	struct ts_frame_owner owner = { 3, 64, 1 };
	struct ts_frame_head head;
	int len;

	set_up();
	len = ts_encode(encoder, &settings[0], &owner, raw, frame, sizeof(frame));
	frame[4] = 2;
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, sizeof(back)), TS_EVERSION);
	frame[0] = 'X';
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, sizeof(back)), TS_ECORRUPT);
	tear_down();
}

/* Frames with a right checksum and a payload that zstd would accept but we never write. */
static void forged_payloads_are_refused(void)
{
	static const unsigned char skip[] = { 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0 };
	struct ts_frame_owner owner = { 3, 64, 1 };
	struct ts_codec_setting setting = { TS_CODEC_ZSTD, 1, 0 };
	struct ts_frame_head head;
	int len;

	set_up();
	memset(raw, 7, TS_PAGE_BYTES);
	len = ts_encode(encoder, &setting, &owner, raw, frame, sizeof(frame));
	CHECK_EQ(ts_frame_parse(frame, (size_t)len, &head), 0);
	memcpy(frame + len, skip, sizeof(skip));
	head.stored_len += sizeof(skip);
	ts_frame_seal(frame, &head, raw, TS_PAGE_BYTES);
	must_fail((size_t)len + sizeof(skip));
	/* The frame alone, sealed again, is good: it was the tail that was refused. */
	head.stored_len -= (uint32_t)sizeof(skip);
	ts_frame_seal(frame, &head, raw, TS_PAGE_BYTES);
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, sizeof(back)), TS_PAGE_BYTES);
	/* No room for what it says it holds. */
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, TS_PAGE_BYTES - 1),
		 TS_ECORRUPT);
	tear_down();
}

/* ---- Filled pages ----------------------------------------------------------------------- */

static void filled_pages_are_found(void)
{
	static const uint64_t values[] = { 0, ~0ull, 0x0101010101010101ull, 0x123456789abcdef0ull };
	uint64_t *words = (uint64_t *)(void *)raw, value;

	for (unsigned v = 0; v < 4; v++) {
		ts_page_fill(raw, values[v]);
		value = 42;
		CHECK(ts_page_is_filled(raw, &value));
		CHECK_EQ(value, values[v]);
		for (unsigned i = 0; i < TS_PAGE_BYTES / 8; i++)
			for (unsigned bit = 0; bit < 64; bit += 9) {
				words[i] ^= 1ull << bit;
				CHECK(!ts_page_is_filled(raw, &value));
				words[i] ^= 1ull << bit;
			}
	}
}

static void page_hash_tells_pages_apart(void)
{
	uint64_t plain, seeded;

	memset(raw, 0, TS_PAGE_BYTES);
	plain = ts_page_hash(raw, 0);
	seeded = ts_page_hash(raw, 1);
	CHECK(plain != seeded);
	CHECK_EQ(plain, ts_page_hash(raw, 0));
	for (unsigned i = 0; i < TS_PAGE_BYTES; i++) {
		raw[i] = 1;
		CHECK(ts_page_hash(raw, 0) != plain);
		CHECK(ts_page_hash(raw, 1) != seeded);
		raw[i] = 0;
	}
}

CHECK_MAIN({ "round_trip", round_trip },
	   { "random_pages_stay_raw", random_pages_stay_raw },
	   { "header_bytes_are_fixed", header_bytes_are_fixed },
	   { "bad_settings_are_refused", bad_settings_are_refused },
	   { "every_flipped_bit_is_found", every_flipped_bit_is_found },
	   { "newer_versions_are_told_apart", newer_versions_are_told_apart },
	   { "forged_payloads_are_refused", forged_payloads_are_refused },
	   { "filled_pages_are_found", filled_pages_are_found },
	   { "page_hash_tells_pages_apart", page_hash_tells_pages_apart })
