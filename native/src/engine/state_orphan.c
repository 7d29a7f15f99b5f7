/* SPDX-License-Identifier: Apache-2.0
 * state_orphan.c — regions in the state folder that nobody has attached again (state.h). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine/state.h"

int ts_orphan_list(struct ts_engine *engine, struct ts_orphan_info *infos, unsigned nr_max)
{
	size_t size = nr_max ? infos[0].size : 0;
	unsigned i = 0;

	TS_SCOPED_LOCK(&engine->control);
	for (; engine->state && i < engine->state->nr_orphans && i < nr_max; i++) {
		const struct ts_state_orphan *orphan = &engine->state->orphans[i];
		struct ts_orphan_info info = {
			.size = size, .nr_away = orphan->nr_away,
			.len_bytes = (uint64_t)orphan->region.nr_pages << TS_PAGE_SHIFT,
		};
		memcpy(info.name, orphan->region.name, sizeof(info.name));
		memcpy(info.identity, orphan->region.identity, sizeof(info.identity));
		memcpy((char *)infos + i * size, &info, TS_MIN(size, sizeof(info)));
	}
	return engine->state ? (int)engine->state->nr_orphans : 0;
}

static void free_frames(struct ts_engine *engine, ts_word_slot *words, uint32_t nr_pages)
{
	for (uint32_t page = 0; page < nr_pages; page++) {
		uint32_t frame = ts_state_frame_of(ts_word_load(&words[page]));
		if (frame && frame < engine->frames.nr_ids &&
		    ts_frame_refs(ts_frames_load(&engine->frames, frame)))
			ts_frames_drop_page(&engine->frames, frame);
	}
}

int ts_orphan_forget(struct ts_engine *engine, const char *name)
{
	struct ts_mapfile map;
	char path[4096];

	TS_SCOPED_LOCK(&engine->control);
	struct ts_state_orphan *orphan = engine->state ?
					 ts_state_find_orphan(engine->state, name) : NULL;
	if (!orphan)
		return ts_fail(TS_ENOTFOUND, "nothing is left of a region %s", name);
	int rc = ts_state_region_path(engine->state, orphan->region.id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_open(path, TS_STATE_HEAD_BYTES +
				     (size_t)orphan->region.nr_pages * sizeof(ts_word), &map);
	if (rc)
		return rc;
	/* The file first: while it is there its words count. */
	if (unlink(path))
		rc = ts_fail(-errno, "unlink %s: %m", path);
	/* One that can't be trusted is freed by the next process, which counts anew. */
	else if (engine->is_started && !orphan->why[0])
		free_frames(engine, (ts_word_slot *)((char *)map.base + TS_STATE_HEAD_BYTES),
			    orphan->region.nr_pages);
	ts_mapfile_close(&map);
	if (!rc)
		ts_state_remove_orphan(engine->state, orphan);
	return rc;
}
