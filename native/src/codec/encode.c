/* SPDX-License-Identifier: Apache-2.0
 *
 * encode.c — pages to a frame.
 *
 * An encoder owns all the memory that both codecs need at any level, so that encoding never
 * allocates: zstd works in a fixed arena (ZSTD_initStaticCCtx), because with its own allocator it
 * would grow and shrink its workspace as frames of different sizes and levels come by.  The arena
 * is sized for the greediest level; only what a level touches becomes resident.
 *
 * The zstd frame inside carries no size, checksum or dictionary id of its own: our header has
 * them, and 4 KiB frames feel every byte.
 */
#include "codec/frame.h"

#include <errno.h>
#include <string.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <lz4.h>
#include <zstd.h>

#include "codec/encoder.h"
#include "util/base.h"
#include "util/hook.h"

/* The most that zstd asks for at any level for our raw lengths, with or without a dictionary.
 * Negative levels need less than level 1. */
static size_t zstd_arena_bytes(void)
{
	size_t most = 0;

	for (int level = 1; level <= ZSTD_maxCLevel(); level++) {
		ZSTD_compressionParameters params =
			ZSTD_getCParams(level, TS_FRAME_RAW_MAX, TS_DICT_BYTES_MAX);
		size_t bytes = ZSTD_estimateCCtxSize_usingCParams(params);

		most = TS_MAX(most, bytes);
	}
	/* Whole pages, and one to spare: the estimate has been short by some bytes before. */
	return (most + 2 * TS_PAGE_BYTES - 1) & ~(size_t)(TS_PAGE_BYTES - 1);
}

int ts_encoder_create(struct ts_dict_table *table, struct ts_encoder **encoder_out)
{
	struct ts_encoder *encoder = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*encoder));
	size_t arena_bytes = zstd_arena_bytes();

	if (!encoder)
		return ts_fail(-ENOMEM, "no memory for an encoder");
	encoder->table = table;
	encoder->lz4_state = aligned_alloc(64, ((size_t)LZ4_sizeofState() + 63) & ~(size_t)63);
	encoder->zstd_arena = TS_INJECT(TS_SITE_ALLOC) ? NULL
						       : aligned_alloc(TS_PAGE_BYTES, arena_bytes);
	encoder->spare = aligned_alloc(TS_PAGE_BYTES, TS_ENCODER_SPARE_BYTES);
	if (encoder->zstd_arena)
		encoder->zstd = ZSTD_initStaticCCtx(encoder->zstd_arena, arena_bytes);
	if (!encoder->lz4_state || !encoder->zstd || !encoder->spare) {
		ts_encoder_destroy(encoder);
		return ts_fail(-ENOMEM, "no memory for an encoder's arena of %zu bytes",
			       arena_bytes);
	}
	*encoder_out = encoder;
	return 0;
}

void ts_encoder_destroy(struct ts_encoder *encoder)
{
	if (!encoder)
		return;
	/* The zstd context lies in the arena; it has nothing of its own to free. */
	free(encoder->zstd_arena);
	free(encoder->lz4_state);
	free(encoder->spare);
	free(encoder);
}

static bool is_same_setting(const struct ts_codec_setting *a, const struct ts_codec_setting *b)
{
	return a->codec == b->codec && a->level == b->level && a->dict_id == b->dict_id;
}

/* These calls fail for values out of range, which ours are not. */
static void must(size_t zstd_result)
{
	TS_ASSERT(!ZSTD_isError(zstd_result));
}

/* Zstd's parameters live on in its context; set them when they change and not for each frame. */
static int zstd_apply(struct ts_encoder *encoder, const struct ts_codec_setting *setting)
{
	ZSTD_CCtx *zstd = encoder->zstd;
	const struct ts_dict *dict = NULL;

	if (encoder->is_applied && is_same_setting(&encoder->applied, setting))
		return 0;
	if (setting->dict_id) {
		dict = ts_dict_find(encoder->table, setting->dict_id);
		if (!dict)
			return ts_fail(TS_ECONFIG, "no dictionary %u", setting->dict_id);
	}
	encoder->is_applied = false;
	must(ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters));
	must(ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0));
	must(ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 0));
	must(ZSTD_CCtx_setParameter(zstd, ZSTD_c_dictIDFlag, 0));
	/* With a dictionary the level is the one that it was prepared for.  zstd brings a level
	 * outside its range to the nearest one inside. */
	must(ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel,
				    setting->level ? setting->level : 1));
	must(ZSTD_CCtx_refCDict(zstd, dict ? dict->for_encode : NULL));
	encoder->applied = *setting;
	encoder->is_applied = true;
	return 0;
}

/* Returns the payload's length, 0 if it is no shorter than raw, or a negative error. */
static int lz4_payload(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
		       const void *raw, size_t raw_bytes, void *dst, size_t cap_bytes)
{
	int len_bytes = LZ4_compress_fast_extState(encoder->lz4_state, raw, dst, (int)raw_bytes,
						   (int)cap_bytes,
						   setting->level ? setting->level : 1);

	return len_bytes > 0 && (size_t)len_bytes < raw_bytes ? len_bytes : 0;
}

static int zstd_payload(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
			const void *raw, size_t raw_bytes, void *dst, size_t cap_bytes)
{
	int error = zstd_apply(encoder, setting);
	size_t len_bytes;

	if (error)
		return error;
	len_bytes = ZSTD_compress2(encoder->zstd, dst, cap_bytes, raw, raw_bytes);
	/* The only error that a valid call with fixed memory can meet is that dst is full, which
	 * means: no gain.  Others would be ours; raw is the right answer to them as well. */
	if (ZSTD_isError(len_bytes) || len_bytes >= raw_bytes)
		return 0;
	return (int)len_bytes;
}

static int encode_payload(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
			  const void *raw, size_t raw_bytes, void *dst, size_t cap_bytes)
{
	switch ((enum ts_codec)setting->codec) {
	case TS_CODEC_RAW:
		return 0;
	case TS_CODEC_LZ4:
		return lz4_payload(encoder, setting, raw, raw_bytes, dst, cap_bytes);
	case TS_CODEC_ZSTD:
		return zstd_payload(encoder, setting, raw, raw_bytes, dst, cap_bytes);
	}
	return ts_fail(TS_ECONFIG, "no codec %u", setting->codec);
}

int ts_encode(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
	      const struct ts_frame_owner *owner, const void *raw, void *dst, size_t cap_bytes)
{
	size_t raw_bytes = (size_t)__builtin_popcountll(owner->page_bits) << TS_PAGE_SHIFT;
	char *payload = (char *)dst + TS_FRAME_HEAD_BYTES;
	struct ts_frame_head head = {
		.magic = TS_FRAME_MAGIC,
		.version = TS_FRAME_VERSION,
		.page_shift = TS_PAGE_SHIFT,
		.region = owner->region,
		.base_page = owner->base_page,
		.page_bits = owner->page_bits,
	};
	int len_bytes;

	TS_ASSERT(raw_bytes > 0);
	TS_ASSERT(cap_bytes >= TS_FRAME_HEAD_BYTES + raw_bytes);
	len_bytes = encode_payload(encoder, setting, raw, raw_bytes, payload,
				   cap_bytes - TS_FRAME_HEAD_BYTES);
	if (len_bytes < 0)
		return len_bytes;
	if (len_bytes > 0) {
		head.codec = (uint8_t)setting->codec;
		head.dict_id = setting->codec == TS_CODEC_ZSTD ? setting->dict_id : 0;
	} else {
		head.codec = TS_CODEC_RAW;
		memcpy(payload, raw, raw_bytes);
		len_bytes = (int)raw_bytes;
	}
	head.stored_len = (uint32_t)len_bytes;
	ts_frame_seal(dst, &head, raw, raw_bytes);
	return TS_FRAME_HEAD_BYTES + len_bytes;
}

int ts_encode_dict_frame(const void *dict, size_t len_bytes, uint32_t dict_id, void *dst,
			 size_t cap_bytes)
{
	struct ts_frame_head head = {
		.magic = TS_FRAME_MAGIC,
		.version = TS_FRAME_VERSION,
		.codec = TS_CODEC_DICT,
		.page_shift = TS_PAGE_SHIFT,
		.dict_id = dict_id,
		.stored_len = (uint32_t)len_bytes,
	};

	if (!ts_dict_id_is_valid(dict_id) || len_bytes == 0 || len_bytes > TS_DICT_BYTES_MAX)
		return ts_fail(TS_ECONFIG, "dictionary %u of %zu bytes: not one that a frame can "
			       "carry", dict_id, len_bytes);
	TS_ASSERT(cap_bytes >= TS_FRAME_HEAD_BYTES + len_bytes);
	memcpy((char *)dst + TS_FRAME_HEAD_BYTES, dict, len_bytes);
	ts_frame_seal(dst, &head, dict, len_bytes);
	return TS_FRAME_HEAD_BYTES + (int)len_bytes;
}
