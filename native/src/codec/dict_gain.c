/* SPDX-License-Identifier: Apache-2.0
 *
 * dict_gain.c — whether a dictionary is worth its keep (dict_gain.h).
 *
 * The sums are shared by several threads without a lock.  A sample that lands between the end of
 * one window and the start of the next may be counted in either: the verdict is a matter of
 * percents, and one frame in a window of 64 does not turn it.
 */
#include "codec/dict_gain.h"

#include <string.h>

#include "codec/encoder.h"
#include "util/base.h"

void ts_dict_gain_init(struct ts_dict_gain *gain)
{
	memset(gain, 0, sizeof(*gain));
	atomic_init(&gain->permille, INT32_MIN);
}

bool ts_dict_gain_is_off(const struct ts_dict_gain *gain)
{
	return atomic_load_explicit(&gain->is_off, memory_order_relaxed);
}

int32_t ts_dict_gain_permille(const struct ts_dict_gain *gain)
{
	return atomic_load_explicit(&gain->permille, memory_order_relaxed);
}

static uint64_t add(_Atomic uint64_t *sum, uint64_t by)
{
	return atomic_fetch_add_explicit(sum, by, memory_order_relaxed) + by;
}

/* Whether this frame is one of those that are encoded twice. */
static bool is_due(struct ts_dict_gain *gain)
{
	return atomic_fetch_add_explicit(&gain->nr_frames, 1, memory_order_relaxed) %
		       TS_DICT_GAIN_EVERY == 0;
}

static void judge(struct ts_dict_gain *gain)
{
	uint64_t with_bytes = atomic_exchange_explicit(&gain->with_bytes, 0, memory_order_relaxed);
	uint64_t without_bytes =
		atomic_exchange_explicit(&gain->without_bytes, 0, memory_order_relaxed);
	int32_t permille;

	if (without_bytes == 0)
		return;
	permille = (int32_t)(((double)without_bytes - (double)with_bytes) * 1000.0 /
			     (double)without_bytes);
	atomic_store_explicit(&gain->permille, permille, memory_order_relaxed);
	if (permille < TS_DICT_GAIN_MIN_PERMILLE)
		atomic_store_explicit(&gain->is_off, true, memory_order_relaxed);
}

static void count(struct ts_dict_gain *gain, int with_bytes, int without_bytes)
{
	uint32_t nr_before;

	add(&gain->with_bytes, (uint64_t)with_bytes);
	add(&gain->without_bytes, (uint64_t)without_bytes);
	nr_before = atomic_fetch_add_explicit(&gain->nr_doubled, 1, memory_order_relaxed);
	if ((nr_before + 1) % TS_DICT_GAIN_WINDOW == 0)
		judge(gain);
}

int ts_encode_with_gain(struct ts_encoder *encoder, const struct ts_codec_setting *setting,
			const struct ts_frame_owner *owner, const void *raw, void *dst,
			size_t cap_bytes, struct ts_dict_gain *gain)
{
	struct ts_codec_setting plain = { .codec = setting->codec, .level = setting->level };
	int with_bytes, without_bytes;

	if (setting->dict_id == 0 || setting->codec != TS_CODEC_ZSTD || ts_dict_gain_is_off(gain))
		return ts_encode(encoder, &plain, owner, raw, dst, cap_bytes);
	with_bytes = ts_encode(encoder, setting, owner, raw, dst, cap_bytes);
	if (with_bytes < 0 || !is_due(gain))
		return with_bytes;
	without_bytes = ts_encode(encoder, &plain, owner, raw, encoder->spare,
				  TS_ENCODER_SPARE_BYTES);
	if (without_bytes < 0) /* not possible where encoding with the dictionary was */
		return with_bytes;
	count(gain, with_bytes, without_bytes);
	if (without_bytes >= with_bytes)
		return with_bytes;
	memcpy(dst, encoder->spare, (size_t)without_bytes);
	return without_bytes;
}
