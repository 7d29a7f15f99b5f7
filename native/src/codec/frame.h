/* SPDX-License-Identifier: Apache-2.0
 *
 * frame.h — what encode.c, decode.c and dict.c share; not for other folders (they use codec.h).
 */
#ifndef TS_CODEC_FRAME_H
#define TS_CODEC_FRAME_H

#include <zstd.h>

#include "codec/codec.h"
#include "util/limits.h"

enum { TS_FRAME_SUMMED_BYTES = 32 }; /* of the header: all but the checksum itself */

/* Length of the pages that @head announces, or of its payload if that is a dictionary. */
static inline size_t ts_frame_raw_bytes(const struct ts_frame_head *head)
{
	if (head->codec == TS_CODEC_DICT)
		return head->stored_len;
	return (size_t)__builtin_popcountll(head->page_bits) << TS_PAGE_SHIFT;
}

/* Writes the header, its checksum included, over the first TS_FRAME_HEAD_BYTES of @frame.
 * head->checksum is ignored. */
void ts_frame_seal(void *frame, const struct ts_frame_head *head, const void *raw,
		   size_t raw_bytes);

/* XXH3-64 of @raw, then of the first TS_FRAME_SUMMED_BYTES of @frame, as one stream. */
uint64_t ts_frame_checksum(const void *frame, const void *raw, size_t raw_bytes);

/* The same and ts_page_hash(), built for AVX2; only where the CPU has it. */
uint64_t ts_frame_checksum_avx2(const void *frame, const void *raw, size_t raw_bytes);
uint64_t ts_page_hash_avx2(const void *page, uint64_t seed);

/* A dictionary, ready for use; immutable once published in its table. */
struct ts_dict {
	void *bytes;
	size_t len_bytes;
	ZSTD_CDict *for_encode;
	ZSTD_DDict *for_decode;
};

static inline bool ts_dict_id_is_valid(uint32_t id)
{
	return id >= 1 && id <= TS_DICT_MAX;
}

/* NULL if @table is NULL, or has no dictionary @id.  Any thread; no lock. */
const struct ts_dict *ts_dict_find(struct ts_dict_table *table, uint32_t id);

#endif
