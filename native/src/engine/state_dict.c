/* SPDX-License-Identifier: Apache-2.0
 * state_dict.c — dictionaries of the last process, out of the stores where they lie beside the
 * frames that need them (state.h). */
#include <errno.h>
#include <string.h>

#include "engine/state.h"
#include "os/sys.h"

static int read_frame(struct ts_reader *reader, uint64_t key, struct ts_get *request)
{
	struct ts_get *done = NULL;

	request->key = key;
	int rc = ts_store_get(reader, request);
	while (rc > 0 && ts_store_reap(reader, &done, 1, -1) == 0)
		;
	return rc < 0 ? rc : request->status;
}

int ts_state_load_dict(struct ts_engine *engine, struct ts_tier *tier, uint32_t dict_id)
{
	size_t cap_bytes = (TS_FRAME_BUF_BYTES + TS_PAGE_BYTES - 1) & ~(size_t)(TS_PAGE_BYTES - 1);
	struct ts_get request = { .cap_bytes = (uint32_t)cap_bytes };
	struct ts_reader *reader = NULL;
	struct ts_frame_head head;

	request.buf = ts_sys_alloc_pages(cap_bytes);
	int rc = request.buf ? ts_store_reader_open(tier->store, &reader) : -ENOMEM;
	if (!rc)
		rc = read_frame(reader, (uint64_t)TS_KEY_DICT + dict_id, &request);
	const uint8_t *frame = (const uint8_t *)request.buf + request.off_bytes;
	if (!rc)
		rc = ts_frame_parse(frame, request.len_bytes, &head);
	if (!rc && (head.codec != TS_CODEC_DICT || head.dict_id != dict_id))
		rc = TS_ECORRUPT;
	if (!rc)
		rc = ts_dict_restore(engine->dicts, dict_id, frame + TS_FRAME_HEAD_BYTES,
				     head.stored_len, tier->level);
	ts_store_reader_close(reader);
	ts_sys_free_pages(request.buf, cap_bytes);
	return rc ? ts_fail(rc, "tier %s: dictionary %u, which frames of guests may need, can't be "
			    "read: %s", tier->name, dict_id, ts_strerror(rc)) : 0;
}
