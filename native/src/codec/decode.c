/* SPDX-License-Identifier: Apache-2.0
 *
 * decode.c — a frame back to pages, on the fault path: no allocation, no lock, no log.
 *
 * A frame may be damaged or forged.  Neither library writes outside the destination it is given,
 * which is exactly as long as the header says; both may read what they like of the payload and
 * nothing beyond.  Then the checksum decides.  What is in `raw` after a failure is undefined and
 * must not reach the guest.
 */
#include "codec/frame.h"

#include <endian.h>
#include <errno.h>
#include <lz4.h>
#include <string.h>

#include "util/base.h"
#include "util/hook.h"

struct ts_decoder {
	struct ts_dict_table *table;
	ZSTD_DCtx *zstd; /* allocates all it needs for whole-frame decoding when created */
};

int ts_decoder_create(struct ts_dict_table *table, struct ts_decoder **decoder_out)
{
	struct ts_decoder *decoder = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*decoder));

	if (decoder)
		decoder->zstd = TS_INJECT(TS_SITE_ALLOC) ? NULL : ZSTD_createDCtx();
	if (!decoder || !decoder->zstd) {
		free(decoder);
		return ts_fail(-ENOMEM, "no memory for a decoder");
	}
	decoder->table = table;
	*decoder_out = decoder;
	return 0;
}

void ts_decoder_destroy(struct ts_decoder *decoder)
{
	if (!decoder)
		return;
	ZSTD_freeDCtx(decoder->zstd);
	free(decoder);
}

/* Exactly one frame of today's zstd format.  The library would also take several in a row,
 * frames to be skipped, and (with memory allocated on the way) formats of its first years. */
static bool is_one_zstd_frame(const void *payload, size_t len_bytes)
{
	uint32_t magic;

	if (len_bytes < sizeof(magic))
		return false;
	memcpy(&magic, payload, sizeof(magic));
	return le32toh(magic) == ZSTD_MAGICNUMBER &&
	       ZSTD_findFrameCompressedSize(payload, len_bytes) == len_bytes;
}

static bool zstd_payload(struct ts_decoder *decoder, const struct ts_frame_head *head,
			 const void *payload, void *raw, size_t raw_bytes)
{
	const struct ts_dict *dict = NULL;
	size_t len_bytes;

	if (!is_one_zstd_frame(payload, head->stored_len))
		return false;
	if (head->dict_id) {
		dict = ts_dict_find(decoder->table, head->dict_id);
		if (!dict)
			return false;
		len_bytes = ZSTD_decompress_usingDDict(decoder->zstd, raw, raw_bytes, payload,
						       head->stored_len, dict->for_decode);
	} else {
		len_bytes = ZSTD_decompressDCtx(decoder->zstd, raw, raw_bytes, payload,
						head->stored_len);
	}
	return len_bytes == raw_bytes; /* an error is larger than any length */
}

static bool decode_payload(struct ts_decoder *decoder, const struct ts_frame_head *head,
			   const void *payload, void *raw, size_t raw_bytes)
{
	switch (head->codec) {
	case TS_CODEC_RAW:
	case TS_CODEC_DICT:
		memcpy(raw, payload, raw_bytes);
		return true;
	case TS_CODEC_LZ4:
		return LZ4_decompress_safe(payload, raw, (int)head->stored_len, (int)raw_bytes) ==
		       (int)raw_bytes;
	case TS_CODEC_ZSTD:
		return zstd_payload(decoder, head, payload, raw, raw_bytes);
	default: /* ts_frame_parse lets nothing else through */
		return false;
	}
}

int ts_decode(struct ts_decoder *decoder, const void *frame, size_t len_bytes,
	      struct ts_frame_head *head_out, void *raw, size_t cap_bytes)
{
	const char *payload = (const char *)frame + TS_FRAME_HEAD_BYTES;
	int error = ts_frame_parse(frame, len_bytes, head_out);
	size_t raw_bytes;

	if (error)
		return error;
	raw_bytes = ts_frame_raw_bytes(head_out);
	if (raw_bytes > cap_bytes)
		return TS_ECORRUPT;
	if (!decode_payload(decoder, head_out, payload, raw, raw_bytes))
		return TS_ECORRUPT;
	if (ts_frame_checksum(frame, raw, raw_bytes) != head_out->checksum)
		return TS_ECORRUPT;
	return (int)raw_bytes;
}
