/* SPDX-License-Identifier: Apache-2.0
 *
 * dict_gain.h — a dictionary that gains nothing switches itself off.
 *
 * Whether a dictionary helps depends on what the guest holds today, so it is measured on the
 * frames themselves: one in TS_DICT_GAIN_EVERY is encoded twice, with and without.  After each
 * TS_DICT_GAIN_WINDOW of such frames the saving decides.  Off is for good: a dictionary that
 * stopped to fit is replaced by one trained on what the guest holds now, which starts afresh.
 *
 * One struct for each tier and dictionary, shared by all that tier's encoding threads.
 */
#ifndef TS_CODEC_DICT_GAIN_H
#define TS_CODEC_DICT_GAIN_H

#include <stdatomic.h>

#include "codec/codec.h"

enum {
	TS_DICT_GAIN_EVERY = 32,  /* the second encoding costs about 3 % of encoding time */
	TS_DICT_GAIN_WINDOW = 64, /* double encodings to a verdict: 2048 frames */
	/* Less saving than this, in thousandths, does not pay for the dictionary's 3 copies of some
	 * 110 KiB and the cache misses that encoding with it costs. */
	TS_DICT_GAIN_MIN_PERMILLE = 10,
};

struct ts_dict_gain {
	_Atomic uint32_t nr_frames, nr_doubled;
	_Atomic uint64_t with_bytes, without_bytes; /* of this window's doubled frames */
	_Atomic int32_t permille;                   /* the last verdict's saving */
	_Atomic bool is_off;
};

/* For a dictionary that is new in its tier.  Nobody else uses @gain meanwhile. */
void ts_dict_gain_init(struct ts_dict_gain *gain);

/* Any thread. */
bool ts_dict_gain_is_off(const struct ts_dict_gain *gain);
/* What the dictionary saved in the last whole window, in thousandths of the length without it;
 * negative if it did harm.  INT32_MIN before the first verdict. */
int32_t ts_dict_gain_permille(const struct ts_dict_gain *gain);

/* ts_encode(), with the dictionary of @setting unless @gain has switched it off; counts, measures
 * and judges.  A frame that was encoded twice is the shorter of both.  No allocation, no lock. */
int ts_encode_with_gain(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
			const struct ts_frame_owner *owner, const void *raw, void *dst,
			size_t cap_bytes, struct ts_dict_gain *gain);

#endif
