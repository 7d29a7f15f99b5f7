/* SPDX-License-Identifier: Apache-2.0
 *
 * codec.h — pages to frames and back.
 *
 * A frame says what it is, so that offline tools and garbage collection need no index.  Layout,
 * little-endian, 40 bytes, then the payload (FORMAT.md is the normative text):
 *
 *   off size
 *    0   4   magic       0x31465354 "TSF1"
 *    4   1   version     1
 *    5   1   codec       0 raw, 1 lz4 block, 2 zstd frame, 3 dictionary (payload is the dictionary)
 *    6   1   page_shift  12
 *    7   1   flags       0
 *    8   4   dict_id     0: none
 *   12   4   stored_len  bytes of payload
 *   16   4   region      the owner's number
 *   20   4   base_page   index in the region of the page that bit 0 of page_bits stands for
 *   24   8   page_bits   bit i: page base_page + i is in the payload; ascending order
 *   32   8   checksum    XXH3-64 (seed 0) of the raw contents, then of the first 32 bytes of this
 *                        header, as one stream
 *
 * raw length = popcount(page_bits) << page_shift.  For a dictionary page_bits is 0 and the raw
 * contents are the payload.
 */
#ifndef TS_CODEC_CODEC_H
#define TS_CODEC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tierstore/tierstore.h>

enum { TS_FRAME_MAGIC = 0x31465354, TS_FRAME_VERSION = 1, TS_FRAME_HEAD_BYTES = 40 };
enum { TS_CODEC_DICT = 3 };

struct ts_frame_head {
	uint32_t magic;
	uint8_t version, codec, page_shift, flags;
	uint32_t dict_id;
	uint32_t stored_len;
	uint32_t region;
	uint32_t base_page;
	uint64_t page_bits;
	uint64_t checksum;
};

/* Whose pages a frame holds. */
struct ts_frame_owner {
	uint32_t region;
	uint32_t base_page;
	uint64_t page_bits;
};

/* ---- Dictionaries: one table an engine, shared by its tiers ----------------------------- */

struct ts_dict_table;
int ts_dict_table_create(struct ts_dict_table **table_out);
void ts_dict_table_destroy(struct ts_dict_table *table);
/* Copies a ZDICT dictionary in, for compression at `level`.  Returns its id (1 ..) or an error
 * (TS_ECONFIG: no dictionary; TS_ELIMIT: table full).  Readers never take a lock. */
int ts_dict_add(struct ts_dict_table *table, const void *data, size_t len_bytes, int level);
/* Puts one back under the id that it had in an earlier process.  0, or an error as above; one that
 * is there already is no error. */
int ts_dict_restore(struct ts_dict_table *table, uint32_t id, const void *data, size_t len_bytes,
		    int level);
/* The dictionary's bytes as added, valid until destroy; NULL if unknown. */
const void *ts_dict_bytes_borrow(struct ts_dict_table *table, uint32_t id, size_t *len_out);

/* ---- Encoding: one encoder a thread ----------------------------------------------------- */

struct ts_codec_setting {
	uint32_t codec;    /* enum ts_codec */
	int32_t level;     /* as in ts_tier_options */
	uint32_t dict_id;  /* zstd only; 0: none */
};

struct ts_encoder;
int ts_encoder_create(struct ts_dict_table *table, struct ts_encoder **encoder_out);
void ts_encoder_destroy(struct ts_encoder *encoder);

/* Encodes popcount(owner->page_bits) pages at raw, contiguous, into a whole frame at dst (header
 * included).  Falls back to raw where the codec gains nothing (payload not shorter than raw).
 * cap_bytes must be at least TS_FRAME_HEAD_BYTES + raw length.  No allocation, no lock.
 * Returns the frame's length (> 0), or a negative error. */
int ts_encode(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
	      const struct ts_frame_owner *owner, const void *raw, void *dst, size_t cap_bytes);

/* A frame that carries a dictionary, for the offline tools; same return. */
int ts_encode_dict_frame(const void *dict, size_t len_bytes, uint32_t dict_id, void *dst,
			 size_t cap_bytes);

/* ---- Decoding: one decoder a thread ----------------------------------------------------- */

struct ts_decoder;
int ts_decoder_create(struct ts_dict_table *table, struct ts_decoder **decoder_out);
void ts_decoder_destroy(struct ts_decoder *decoder);

/* Checks magic, version, lengths against len_bytes.  0 or TS_ECORRUPT / TS_EVERSION. */
int ts_frame_parse(const void *frame, size_t len_bytes, struct ts_frame_head *head_out);

/* Decodes and verifies a whole frame into raw (cap_bytes, page-aligned).  No allocation, no lock.
 * Returns the raw length, TS_ECORRUPT (checksum, format, unknown dictionary) or TS_EVERSION. */
int ts_decode(struct ts_decoder *decoder, const void *frame, size_t len_bytes,
	      struct ts_frame_head *head_out, void *raw, size_t cap_bytes);

/* ---- Pages that need no frame ----------------------------------------------------------- */

/* True if the page is one 8-byte value repeated; then *value_out is it.  Stops at the first
 * difference, so it costs next to nothing on ordinary pages. */
bool ts_page_is_filled(const void *page, uint64_t *value_out);
void ts_page_fill(void *page, uint64_t value);

/* XXH3-64 of one page under a secret seed: compares a page with its kept copy. */
uint64_t ts_page_hash(const void *page, uint64_t seed);

#endif
