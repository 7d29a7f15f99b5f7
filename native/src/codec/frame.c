/* SPDX-License-Identifier: Apache-2.0
 *
 * frame.c — the frame header: bytes to struct and back, and what a valid one looks like.
 *
 * Parsing trusts nothing: a frame comes from a disk, a network, or another program.  It rejects
 * whatever the encoder would not have written, so that a damaged header is found before any
 * length in it is used.  FORMAT.md states the same rules for other readers.
 */
#include "codec/frame.h"

#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "util/base.h"

/* The struct in memory is the header on disk, but for the byte order on big-endian machines. */
_Static_assert(sizeof(struct ts_frame_head) == TS_FRAME_HEAD_BYTES, "no padding");
_Static_assert(offsetof(struct ts_frame_head, dict_id) == 8, "layout");
_Static_assert(offsetof(struct ts_frame_head, page_bits) == 24, "layout");
_Static_assert(offsetof(struct ts_frame_head, checksum) == TS_FRAME_SUMMED_BYTES, "layout");

void ts_frame_seal(void *frame, const struct ts_frame_head *head, const void *raw,
		   size_t raw_bytes)
{
	struct ts_frame_head le = *head;
	uint64_t checksum;

	le.magic = htole32(head->magic);
	le.dict_id = htole32(head->dict_id);
	le.stored_len = htole32(head->stored_len);
	le.region = htole32(head->region);
	le.base_page = htole32(head->base_page);
	le.page_bits = htole64(head->page_bits);
	memcpy(frame, &le, TS_FRAME_SUMMED_BYTES);
	checksum = htole64(ts_frame_checksum(frame, raw, raw_bytes));
	memcpy((char *)frame + TS_FRAME_SUMMED_BYTES, &checksum, sizeof(checksum));
}

static void load_head(const void *frame, struct ts_frame_head *head)
{
	memcpy(head, frame, sizeof(*head));
	head->magic = le32toh(head->magic);
	head->dict_id = le32toh(head->dict_id);
	head->stored_len = le32toh(head->stored_len);
	head->region = le32toh(head->region);
	head->base_page = le32toh(head->base_page);
	head->page_bits = le64toh(head->page_bits);
	head->checksum = le64toh(head->checksum);
}

/* Whether codec, lengths and page map fit together as the encoder writes them. */
static bool is_consistent(const struct ts_frame_head *head)
{
	size_t raw_bytes = ts_frame_raw_bytes(head);

	switch (head->codec) {
	case TS_CODEC_RAW:
		return raw_bytes > 0 && head->stored_len == raw_bytes && head->dict_id == 0;
	case TS_CODEC_LZ4:
		return head->stored_len > 0 && head->stored_len < raw_bytes && head->dict_id == 0;
	case TS_CODEC_ZSTD:
		return head->stored_len > 0 && head->stored_len < raw_bytes;
	case TS_CODEC_DICT:
		return head->page_bits == 0 && ts_dict_id_is_valid(head->dict_id) &&
		       head->stored_len > 0 && head->stored_len <= TS_DICT_BYTES_MAX;
	default: /* a byte from outside, not an enum */
		return false;
	}
}

int ts_frame_parse(const void *frame, size_t len_bytes, struct ts_frame_head *head_out)
{
	struct ts_frame_head head;

	if (len_bytes < TS_FRAME_HEAD_BYTES)
		return TS_ECORRUPT;
	load_head(frame, &head);
	if (head.magic != TS_FRAME_MAGIC)
		return TS_ECORRUPT;
	if (head.version != TS_FRAME_VERSION)
		return TS_EVERSION;
	if (head.page_shift != TS_PAGE_SHIFT || head.flags != 0)
		return TS_ECORRUPT;
	if (head.stored_len != len_bytes - TS_FRAME_HEAD_BYTES || !is_consistent(&head))
		return TS_ECORRUPT;
	*head_out = head;
	return 0;
}
