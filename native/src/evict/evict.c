/* SPDX-License-Identifier: Apache-2.0
 * evict.c — a batch's way, step by step (evict.h). */
#include "evict/evict.h"

#include <errno.h>
#include <string.h>

#include "os/sys.h"
#include "track/track.h"
#include "util/hist.h"
#include "util/hook.h"

int ts_evictor_init(struct ts_evictor *evictor, struct ts_engine *engine, unsigned index)
{
	*evictor = (struct ts_evictor){ .engine = engine, .index = index };
	evictor->data_bytes = (size_t)TS_CHUNK_PAGES << TS_PAGE_SHIFT;
	evictor->gather_bytes = TS_FRAME_RAW_MAX;
	/* The worst case: each page a frame of its own that does not compress. */
	evictor->out_bytes = TS_STORE_BATCH_MAX * (size_t)(TS_PAGE_BYTES + TS_FRAME_HEAD_BYTES) +
			     TS_FRAME_BYTES_MAX;
	evictor->data = ts_sys_alloc_pages(evictor->data_bytes);
	evictor->gather = ts_sys_alloc_pages(evictor->gather_bytes);
	evictor->out = ts_sys_alloc_pages(evictor->out_bytes);
	evictor->stages = ts_stages_create(engine);
	int rc = evictor->data && evictor->gather && evictor->out && evictor->stages ? 0 : -ENOMEM;
	if (!rc)
		rc = ts_encoder_create(engine->dicts, &evictor->encoder);
	if (rc) {
		ts_evictor_finish(evictor);
		return rc;
	}
	atomic_fetch_add(&engine->buffer_bytes, evictor->data_bytes + evictor->gather_bytes +
			 evictor->out_bytes);
	return 0;
}

void ts_evictor_finish(struct ts_evictor *evictor)
{
	ts_encoder_destroy(evictor->encoder);
	ts_stages_release(evictor->stages);
	ts_sys_free_pages(evictor->data, evictor->data_bytes);
	ts_sys_free_pages(evictor->gather, evictor->gather_bytes);
	ts_sys_free_pages(evictor->out, evictor->out_bytes);
	*evictor = (struct ts_evictor){ 0 };
}

/* ---- Open, claim ------------------------------------------------------------------------ */

static struct ts_batch *open_batch(struct ts_evictor *evictor, struct ts_region *region,
				   uint32_t first_page)
{
	struct ts_engine *engine = evictor->engine;
	bool needs_segment = region->memfd < 0;
	int64_t segment = TS_SEGMENT_SCRATCH + evictor->index;
	struct ts_batch *batch = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*batch));

	if (!batch || !ts_region_enter(region)) {
		free(batch);
		return NULL;
	}
	if (needs_segment)
		segment = ts_staging_acquire(&engine->staging);
	if (segment < 0) {
		ts_region_leave(region);
		free(batch);
		return NULL;
	}
	batch->region = region;
	batch->frames = &engine->frames;
	batch->staging = &engine->staging;
	batch->first_page = first_page;
	uint32_t nr_left = region->nr_pages - first_page;
	batch->nr_pages = TS_MIN(nr_left, (uint32_t)TS_CHUNK_PAGES);
	batch->segment = (uint32_t)segment;
	batch->data = needs_segment ? ts_staging_slot(&engine->staging,
						      (uint32_t)segment * TS_CHUNK_PAGES) :
		      evictor->data;
	return batch;
}

static void close_batch(struct ts_batch *batch)
{
	struct ts_region *region = batch->region;

	TS_ASSERT(ts_pageset_count(&batch->owned) == 0);
	TS_ASSERT(ts_pageset_count(&batch->releasing) == 0);
	if (region->memfd < 0)
		ts_staging_release(batch->staging, batch->segment);
	ts_bump(&region->counters.nr_cancelled, batch->nr_cancelled);
	free(batch);
	ts_region_leave(region);
}

static bool is_due(const struct ts_batch *batch, unsigned i, unsigned age_min)
{
	uint16_t heat = ts_heat_load(&batch->region->heat[batch->first_page + i]);

	return ts_word_is(ts_word_load(ts_batch_word(batch, i)), TS_RESIDENT) &&
	       ts_heat_age(heat) >= age_min && (age_min == 0 || !ts_heat_guard(heat));
}

static bool try_claim(struct ts_batch *batch, unsigned i, unsigned age_min)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word word = ts_word_load(slot);

	if (!is_due(batch, i, age_min) || !ts_word_is(word, TS_RESIDENT) ||
	    !ts_word_swap(slot, &word, ts_batch_leaving(batch, i)))
		return false;
	batch->kept_frame[i] = word & TS_WORD_KEPT ? ts_word_payload(word) : 0;
	ts_pageset_add(&batch->owned, i);
	return true;
}

/* All of a unit or nothing, the first page first: it is the lock. */
static uint32_t claim_unit(struct ts_batch *batch, unsigned age_min)
{
	unsigned n = 0;

	while (n < batch->nr_pages && is_due(batch, n, age_min))
		n++;
	if (n < TS_CHUNK_PAGES)
		return 0;
	for (n = 0; n < TS_CHUNK_PAGES; n++)
		if (!try_claim(batch, n, age_min)) {
			batch->region->memory->give_back(batch);
			return 0;
		}
	batch->is_whole = true;
	return n;
}

struct ts_batch *ts_batch_claim(struct ts_evictor *evictor, struct ts_region *region,
				uint32_t first_page, unsigned age_min, uint32_t pages_max,
				bool *is_blocked)
{
	uint32_t nr_claimed = 0;

	*is_blocked = false;
	struct ts_batch *batch = open_batch(evictor, region, first_page);
	if (!batch) {
		*is_blocked = true;
		return NULL;
	}
	batch->skip_touched = region->tracker->can_recheck && age_min > 0;
	batch->has_minor = region->tracker->uffd_modes & UFFDIO_REGISTER_MODE_MINOR;
	if (region->unit_pages > 1)
		nr_claimed = pages_max < region->unit_pages ? 0 : claim_unit(batch, age_min);
	else
		for (unsigned i = 0; i < batch->nr_pages && nr_claimed < pages_max; i++)
			nr_claimed += try_claim(batch, i, age_min);
	if (!nr_claimed) {
		close_batch(batch);
		return NULL;
	}
	TS_PHASE(TS_PHASE_CLAIMED);
	return batch;
}

void ts_batch_take(struct ts_evictor *evictor, struct ts_batch *batch)
{
	ts_mono_ns start_ns = ts_now_ns();

	batch->region->memory->take(batch);
	ts_hist_add(&evictor->stages->hist[TS_STAGE_TAKE], ts_now_ns() - start_ns);
	TS_PHASE(TS_PHASE_TAKEN);
}

/* ---- Store ------------------------------------------------------------------------------ */

static const uint8_t *contents_of(const struct ts_batch *batch, unsigned i)
{
	return batch->data + ((size_t)i << TS_PAGE_SHIFT);
}

/* A page that is as it was when it came back leaves without being encoded or written. */
static void reuse_kept(struct ts_engine *engine, struct ts_batch *batch,
		       struct ts_evict_tally *tally)
{
	struct ts_region *region = batch->region;

	TS_PAGESET_EACH(i, &batch->owned) {
		uint32_t page = batch->first_page + i, frame = batch->kept_frame[i];
		if (!frame)
			continue;
		uint64_t hash = ts_page_hash(contents_of(batch, i),
					     ts_kept_seed(&region->kept, page, frame));
		bool is_same = ts_kept_matches(&region->kept, page, hash);
		if (is_same && ts_evict_publish(engine, batch, i, frame)) {
			ts_bump(&region->counters.nr_reused, 1);
			ts_bump(&tally->nr_reused, 1);
			ts_bump(&tally->nr_evicted, 1);
		} else if (is_same) {
			batch->nr_cancelled++;
		}
		/* Published or not, the batch's own reference ends here. */
		ts_batch_drop_kept(batch, i);
		if (is_same)
			ts_pageset_remove(&batch->owned, i);
	}
}

static void publish_fill(struct ts_batch *batch, unsigned i, uint32_t fill,
			 struct ts_evict_tally *tally)
{
	bool is_late = batch->region->memory->releases_late;
	ts_word zero = ts_word_make(TS_ZERO, is_late ? TS_WORD_RELEASING : 0, fill);

	if (ts_batch_swap_owned(batch, i, zero)) {
		if (is_late)
			ts_pageset_add(&batch->releasing, i);
		ts_bump(&batch->region->counters.nr_evicted, 1);
		ts_bump(&tally->nr_evicted, 1);
		ts_bump(&tally->nr_filled, 1);
	} else {
		batch->nr_cancelled++;
	}
	ts_pageset_remove(&batch->owned, i);
}

static void publish_fills(struct ts_engine *engine, struct ts_batch *batch,
			  struct ts_evict_tally *tally)
{
	TS_PAGESET_EACH(i, &batch->owned) {
		uint64_t value;
		if (!ts_page_is_filled(contents_of(batch, i), &value))
			continue;
		int fill = ts_fills_find(&engine->fills, value);
		if (fill >= 0)
			publish_fill(batch, i, (uint32_t)fill, tally);
	}
}

static void release(struct ts_evictor *evictor, struct ts_batch *batch)
{
	ts_mono_ns start_ns = ts_now_ns();

	TS_PHASE(TS_PHASE_PUBLISHED);
	batch->windows = &evictor->stages->hist[TS_STAGE_WINDOW];
	batch->region->memory->release(batch);
	TS_PHASE(TS_PHASE_RELEASED);
	ts_mono_ns end_ns = ts_now_ns();
	ts_hist_add(&evictor->stages->hist[TS_STAGE_RELEASE], end_ns - start_ns);
	if (batch->window_start_ns)
		ts_hist_add(&evictor->stages->hist[TS_STAGE_WINDOW],
			    end_ns - batch->window_start_ns);
}

void ts_batch_store(struct ts_evictor *evictor, struct ts_batch *batch,
		    struct ts_evict_tally *tally)
{
	struct ts_engine *engine = evictor->engine;

	ts_batch_drop_cancelled(batch);
	reuse_kept(engine, batch, tally);
	publish_fills(engine, batch, tally);
	ts_evict_put(evictor, batch, tally);
	release(evictor, batch);
	/* Published, and taken back because they were touched or their RAM could not be released:
	 * not evicted after all. */
	atomic_fetch_sub(&batch->region->counters.nr_evicted, batch->nr_back);
	atomic_fetch_sub(&tally->nr_evicted, batch->nr_back);
	unsigned nr_left = ts_pageset_count(&batch->owned);
	ts_bump(&batch->region->counters.failures[TS_FAIL_FULL], nr_left);
	ts_bump(&tally->nr_failed, nr_left + batch->nr_failed);
	ts_bump(&tally->nr_cancelled, batch->nr_cancelled);
	ts_region_drop_heat(batch->region, batch->first_page, batch->nr_pages);
	ts_batch_abort(batch);
}

void ts_batch_abort(struct ts_batch *batch)
{
	batch->region->memory->give_back(batch);
	close_batch(batch);
}
