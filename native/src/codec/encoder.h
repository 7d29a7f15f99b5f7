/* SPDX-License-Identifier: Apache-2.0
 *
 * encoder.h — the inside of an encoder, for encode.c and dict_gain.c.
 */
#ifndef TS_CODEC_ENCODER_H
#define TS_CODEC_ENCODER_H

#include "codec/frame.h"

enum { TS_ENCODER_SPARE_BYTES = TS_FRAME_RAW_MAX + TS_PAGE_BYTES };

struct ts_encoder {
	struct ts_dict_table *table;
	void *lz4_state;
	ZSTD_CCtx *zstd;      /* in zstd_arena */
	void *zstd_arena;
	struct ts_codec_setting applied; /* what zstd's parameters were set for last */
	bool is_applied;
	void *spare;          /* room for a second encoding of the same pages (dict_gain.c) */
};

_Static_assert((int)TS_ENCODER_SPARE_BYTES >= (int)TS_FRAME_BYTES_MAX, "room for any frame");

#endif
