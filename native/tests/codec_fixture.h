/* SPDX-License-Identifier: Apache-2.0
 *
 * codec_fixture.h — what the codec's tests share: one table, encoder and decoder, buffers, the
 * settings worth trying, and a dictionary on demand.
 */
#ifndef TS_TESTS_CODEC_FIXTURE_H
#define TS_TESTS_CODEC_FIXTURE_H

#include <stdint.h>
#include <stdlib.h>
#include <zdict.h>

#include "check.h"
#include "codec/codec.h"
#include "codec_pages.h"
#include "util/limits.h"

enum { CAP = TS_FRAME_BUF_BYTES, NR_SETTINGS = 12 };

static struct ts_dict_table *table;
static struct ts_encoder *encoder;
static struct ts_decoder *decoder;
static char raw[TS_FRAME_RAW_MAX] __attribute__((aligned(4096)));
static char back[CAP] __attribute__((aligned(4096)));
static char frame[2 * CAP];

static inline void set_up(void)
{
	CHECK_EQ(ts_dict_table_create(&table), 0);
	CHECK_EQ(ts_encoder_create(table, &encoder), 0);
	CHECK_EQ(ts_decoder_create(table, &decoder), 0);
}

static inline void tear_down(void)
{
	ts_encoder_destroy(encoder);
	ts_decoder_destroy(decoder);
	ts_dict_table_destroy(table);
}

static const struct ts_codec_setting settings[NR_SETTINGS] = {
	{ TS_CODEC_RAW, 0, 0 },	  { TS_CODEC_LZ4, 0, 0 },    { TS_CODEC_LZ4, 8, 0 },
	{ TS_CODEC_ZSTD, -5, 0 }, { TS_CODEC_ZSTD, -1, 0 },  { TS_CODEC_ZSTD, 0, 0 },
	{ TS_CODEC_ZSTD, 3, 0 },  { TS_CODEC_ZSTD, 9, 0 },   { TS_CODEC_ZSTD, 19, 0 },
	{ TS_CODEC_ZSTD, 22, 0 }, { TS_CODEC_ZSTD, -999999, 0 }, { TS_CODEC_ZSTD, 999999, 0 },
};

static inline uint64_t pick_bits(struct rng *rng, unsigned round)
{
	switch (round % 4) {
	case 0: return 1;
	case 1: return ~0ull;
	case 2: return 0xffffull << rng_next(rng) % 48;
	default: return rng_next(rng) | 1ull << rng_next(rng) % 64;
	}
}

static inline void check_round_trip(const struct ts_codec_setting *setting,
			     const struct ts_frame_owner *owner, size_t cap_bytes)
{
	size_t raw_bytes = (size_t)__builtin_popcountll(owner->page_bits) * TS_PAGE_BYTES;
	struct ts_frame_head head;
	int len = ts_encode(encoder, setting, owner, raw, frame, cap_bytes);

	CHECK(len > TS_FRAME_HEAD_BYTES);
	CHECK((size_t)len <= TS_FRAME_HEAD_BYTES + raw_bytes);
	memset(back, 0x5a, sizeof(back));
	CHECK_EQ(ts_decode(decoder, frame, (size_t)len, &head, back, sizeof(back)), raw_bytes);
	CHECK(memcmp(raw, back, raw_bytes) == 0);
	CHECK_EQ(back[raw_bytes], 0x5a);
	CHECK_EQ(head.region, owner->region);
	CHECK_EQ(head.base_page, owner->base_page);
	CHECK_EQ(head.page_bits, owner->page_bits);
	CHECK(head.codec == setting->codec || head.codec == TS_CODEC_RAW);
	CHECK_EQ(head.dict_id, head.codec == TS_CODEC_ZSTD ? setting->dict_id : 0);
}

static inline void must_fail(size_t len)
{
	struct ts_frame_head head;
	int error = ts_decode(decoder, frame, len, &head, back, sizeof(back));

	CHECK(error == TS_ECORRUPT || error == TS_EVERSION);
}

static char dict[64 * 1024];

/* Trains a dictionary on pages of `kind`; returns its length. */
static inline size_t train_dict(enum page_kind kind, uint64_t seed)
{
	enum { NR = 400 };
	size_t lens[NR], len;
	struct rng rng = { seed };
	char *pages = malloc(NR * TS_PAGE_BYTES);

	make_pages(pages, NR * TS_PAGE_BYTES, kind, &rng);
	for (unsigned i = 0; i < NR; i++)
		lens[i] = TS_PAGE_BYTES;
	len = ZDICT_trainFromBuffer(dict, sizeof(dict), pages, lens, NR);
	free(pages);
	CHECK(!ZDICT_isError(len));
	return len;
}

#endif
