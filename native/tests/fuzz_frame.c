/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_frame.c — hostile frames against the parser and the decoder.
 *
 *     fuzz_frame [seconds] [seed]      a mutator of its own; prints the seed
 *     cc -fsanitize=fuzzer,address -DTS_LIBFUZZER fuzz_frame.c ...   LLVMFuzzerTestOneInput alone
 *
 * Build it with address and undefined-behaviour sanitizers: what is looked for is a read or write
 * out of bounds, and a decode that succeeds on contents that don't match their checksum.  Half of
 * the mutated frames get a sound header again, so that damage reaches the codecs.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/frame.h"
#include "codec_pages.h"
#include "util/base.h"
#include "util/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes);

static struct ts_dict_table *table;
static struct ts_decoder *decoder;

/* The frame is copied to the end of an allocation of its exact length, and raw has exactly the
 * length announced: one byte beyond either is seen. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	struct ts_frame_head head;
	size_t raw_bytes = 0;
	uint8_t *frame = malloc(len_bytes ? len_bytes : 1), *raw;
	int got;

	if (!decoder)
		TS_ASSERT(ts_decoder_create(table, &decoder) == 0);
	TS_ASSERT(frame != NULL);
	memcpy(frame, data, len_bytes);
	if (ts_frame_parse(frame, len_bytes, &head) == 0)
		raw_bytes = ts_frame_raw_bytes(&head);
	raw = malloc(raw_bytes ? raw_bytes : 1);
	TS_ASSERT(raw != NULL);
	got = ts_decode(decoder, frame, len_bytes, &head, raw, raw_bytes);
	TS_ASSERT(got == TS_ECORRUPT || got == TS_EVERSION || got == (int)raw_bytes);
	if (got > 0)
		TS_ASSERT(ts_frame_checksum(frame, raw, raw_bytes) == head.checksum);
	free(raw);
	free(frame);
	return 0;
}

#ifndef TS_LIBFUZZER

#include <zdict.h>

enum { NR_SEEDS = 48, FRAME_CAP = TS_FRAME_BUF_BYTES };

static uint8_t *seeds[NR_SEEDS];
static int seed_lens[NR_SEEDS];

static void add_dictionary(struct rng *rng)
{
	enum { NR = 200 };
	static char pages[NR * TS_PAGE_BYTES], dict[32 * 1024];
	size_t lens[NR], len_bytes;

	make_pages(pages, sizeof(pages), PAGE_TEXT, rng);
	for (unsigned i = 0; i < NR; i++)
		lens[i] = TS_PAGE_BYTES;
	len_bytes = ZDICT_trainFromBuffer(dict, sizeof(dict), pages, lens, NR);
	TS_ASSERT(!ZDICT_isError(len_bytes));
	TS_ASSERT(ts_dict_add(table, dict, len_bytes, 1) == 1);
}

/* Good frames of all kinds to start from. */
static void make_seeds(struct rng *rng)
{
	static char raw[TS_FRAME_RAW_MAX];
	struct ts_encoder *encoder;

	TS_ASSERT(ts_dict_table_create(&table) == 0);
	add_dictionary(rng);
	TS_ASSERT(ts_encoder_create(table, &encoder) == 0);
	for (unsigned i = 0; i < NR_SEEDS; i++) {
		struct ts_codec_setting setting = { i % 3, i % 5 ? 1 : 3, i % 3 == 2 && i & 4 };
		struct ts_frame_owner owner = { i, i * 64, i & 8 ? 0xffff : 1ull << i };

		make_pages(raw, sizeof(raw), (enum page_kind)(i % PAGE_KINDS), rng);
		seeds[i] = malloc(FRAME_CAP);
		TS_ASSERT(seeds[i] != NULL);
		seed_lens[i] = i == 7 ? ts_encode_dict_frame(raw, 9999, 3, seeds[i], FRAME_CAP)
				      : ts_encode(encoder, &setting, &owner, raw, seeds[i],
						  FRAME_CAP);
		TS_ASSERT(seed_lens[i] > 0);
	}
	ts_encoder_destroy(encoder);
}

/* Changes bytes near the start more often than others: there is where the structure is. */
static void damage(uint8_t *frame, size_t *len_bytes, struct rng *rng)
{
	unsigned nr_changes = 1 + (unsigned)(rng_next(rng) % 8);

	for (unsigned i = 0; i < nr_changes; i++) {
		size_t span = rng_next(rng) % 2 ? TS_MIN(*len_bytes, 64u) : *len_bytes;
		size_t at = rng_next(rng) % span, run;

		switch (rng_next(rng) % 6) {
		case 0:
			frame[at] ^= (uint8_t)(1u << rng_next(rng) % 8);
			break;
		case 1:
			frame[at] = (uint8_t)rng_next(rng);
			break;
		case 2:
			frame[at] = rng_next(rng) % 2 ? 0xff : 0;
			break;
		case 3: /* a piece of another frame */
			run = TS_MIN(rng_next(rng) % 64, *len_bytes - at);
			memcpy(frame + at, seeds[rng_next(rng) % NR_SEEDS], run);
			break;
		case 4:
			*len_bytes = at + 1;
			break;
		default:
			run = TS_MIN(rng_next(rng) % 64, *len_bytes - at);
			memset(frame + at, (int)rng_next(rng), run);
			break;
		}
	}
}

/* Makes the header agree with the damaged frame, as far as that can be, so that it gets past the
 * parser.  The checksum over what will be decoded can't be known; the decoder must refuse. */
static void mend_header(uint8_t *frame, size_t len_bytes, const uint8_t *original)
{
	uint32_t stored_len;

	if (len_bytes <= TS_FRAME_HEAD_BYTES)
		return;
	memcpy(frame, original, TS_FRAME_HEAD_BYTES);
	stored_len = (uint32_t)(len_bytes - TS_FRAME_HEAD_BYTES);
	memcpy(frame + 12, &stored_len, sizeof(stored_len));
}

static uint64_t fuzz(unsigned seconds, struct rng *rng)
{
	static uint8_t frame[FRAME_CAP];
	ts_mono_ns end = ts_now_ns() + seconds * 1000000000ull;
	uint64_t nr_runs = 0;

	for (; nr_runs % 256 != 0 || ts_now_ns() < end; nr_runs++) {
		unsigned seed = (unsigned)(rng_next(rng) % NR_SEEDS);
		size_t len_bytes = (size_t)seed_lens[seed];

		memcpy(frame, seeds[seed], len_bytes);
		if (rng_next(rng) % 64)
			damage(frame, &len_bytes, rng);
		if (rng_next(rng) % 2)
			mend_header(frame, len_bytes, seeds[seed]);
		(void)LLVMFuzzerTestOneInput(frame, len_bytes);
	}
	return nr_runs;
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 5;
	struct rng rng = { argc > 2 ? strtoull(argv[2], NULL, 0) : 1 };

	printf("seed %llu\n", (unsigned long long)rng.state);
	make_seeds(&rng);
	printf("%llu frames, none got through that should not\n",
	       (unsigned long long)fuzz(seconds, &rng));
	for (unsigned i = 0; i < NR_SEEDS; i++)
		free(seeds[i]);
	ts_decoder_destroy(decoder);
	ts_dict_table_destroy(table);
	return 0;
}
#endif
