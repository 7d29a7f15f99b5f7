/* SPDX-License-Identifier: Apache-2.0
 * fetch.c — frames out of the stores (fetch.h). */
#include "core/fetch.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "os/sys.h"
#include "store/forward.h"
#include "util/hist.h"
#include "util/hook.h"

/* Reads of one slot: so many at once after an error that may pass, and, where the host is short of
 * something, so many more after pauses that double from a millisecond: a quarter of a second. */
enum { TRIES_MAX = 3, PAUSES_MAX = 8, PAUSE_NS = 1000000 };

static int open_readers(struct ts_fetch *fetch)
{
	struct ts_engine *engine = fetch->engine;

	for (unsigned t = 0; t < engine->nr_tiers; t++) {
		int rc = ts_store_reader_open(engine->tiers[t].store, &fetch->readers[t]);
		if (!rc)
			rc = ts_store_reader_arena(fetch->readers[t], fetch->arena,
						   fetch->buf_bytes * fetch->depth);
		if (rc)
			return rc;
	}
	return 0;
}

int ts_fetch_init(struct ts_fetch *fetch, struct ts_engine *engine, unsigned depth)
{
	*fetch = (struct ts_fetch){ .engine = engine, .depth = depth };
	fetch->buf_bytes = engine->frame_buf_bytes;
	fetch->arena_bytes = fetch->buf_bytes * depth + engine->frame_raw_max;
	fetch->arena = ts_sys_alloc_pages(fetch->arena_bytes);
	fetch->slots = calloc(depth, sizeof(*fetch->slots));
	fetch->stages = ts_stages_create(engine);
	int rc = fetch->arena && fetch->slots && fetch->stages ? 0 : -ENOMEM;
	if (!rc)
		rc = ts_decoder_create(engine->dicts, &fetch->decoder);
	if (!rc)
		rc = open_readers(fetch);
	if (rc) {
		ts_fetch_finish(fetch);
		return rc;
	}
	fetch->raw = fetch->arena + fetch->buf_bytes * depth;
	for (unsigned i = 0; i < depth; i++) {
		fetch->slots[i].get.buf = fetch->arena + fetch->buf_bytes * i;
		fetch->slots[i].get.cap_bytes = (uint32_t)fetch->buf_bytes;
	}
	atomic_fetch_add(&engine->buffer_bytes, fetch->arena_bytes);
	return 0;
}

void ts_fetch_finish(struct ts_fetch *fetch)
{
	TS_ASSERT(fetch->nr_busy == 0);
	for (unsigned t = 0; t < TS_TIER_MAX; t++)
		if (fetch->readers[t])
			ts_store_reader_close(fetch->readers[t]);
	ts_decoder_destroy(fetch->decoder);
	ts_stages_release(fetch->stages);
	if (fetch->raw)
		atomic_fetch_sub(&fetch->engine->buffer_bytes, fetch->arena_bytes);
	ts_sys_free_pages(fetch->arena, fetch->arena_bytes);
	free(fetch->slots);
	*fetch = (struct ts_fetch){ 0 };
}

struct ts_fetch_slot *ts_fetch_acquire(struct ts_fetch *fetch)
{
	if (fetch->nr_busy == fetch->depth)
		return NULL;
	for (unsigned i = 0; i < fetch->depth; i++) {
		struct ts_fetch_slot *slot = &fetch->slots[i];
		if (slot->is_busy)
			continue;
		slot->is_busy = true;
		slot->nr_tries = 0;
		slot->is_decoded = false;
		slot->around_bytes = 0;
		slot->unit = NULL;
		fetch->nr_busy++;
		return slot;
	}
	TS_ASSERT(!"nr_busy counts the busy slots");
	return NULL;
}

void ts_fetch_release(struct ts_fetch *fetch, struct ts_fetch_slot *slot)
{
	TS_ASSERT(slot->is_busy && fetch->nr_busy > 0);
	slot->is_busy = false;
	fetch->nr_busy--;
}

void ts_fetch_expect(struct ts_fetch *fetch, uint32_t frame)
{
	struct ts_reader *reader = fetch->readers[fetch->last_tier];

	__builtin_prefetch(&fetch->engine->frames.entries[frame]);
	if (reader)
		ts_store_reader_expect(reader, frame);
}

/* Any errno: what a store or a network says may have a reason that is gone by now, and the other
 * way is to lose the page.  That a frame is not there, or wrong, does not pass. */
static bool may_pass(int status)
{
	return status < 0 && status > TS_EFULL;
}

/* The frame is as it was; the kernel had no room for the request. */
static bool is_shortage(int status)
{
	return status == -ENOMEM || status == -EAGAIN || status == -EBUSY || status == -ENOBUFS;
}

/* A pause holds up this thread's other faults, so a shortage that has outlasted all of them is
 * waited for again only after a read has come through. */
static bool should_try_again(struct ts_fetch *fetch, const struct ts_fetch_slot *slot)
{
	int status = slot->get.status;

	if (!status)
		fetch->is_starved = false;
	if (!may_pass(status))
		return false;
	if (slot->nr_tries < TRIES_MAX)
		return true;
	if (!is_shortage(status) || fetch->is_starved)
		return false;
	unsigned nr_pauses = slot->nr_tries - TRIES_MAX;
	fetch->is_starved = nr_pauses == PAUSES_MAX;
	if (fetch->is_starved)
		return false;
	struct timespec pause = { .tv_nsec = (long)PAUSE_NS << nr_pauses };
	TS_PHASE(TS_PHASE_SHORTAGE);
	nanosleep(&pause, NULL);
	return true;
}

int ts_fetch_start(struct ts_fetch *fetch, struct ts_fetch_slot *slot)
{
	for (;;) {
		slot->get.key = slot->frame;
		slot->get.status = 0;
		slot->get.user = slot;
		slot->get_ns = ts_now_ns();
		slot->got_ns = 0;
		slot->nr_tries++;
		fetch->last_tier = slot->tier;
		ts_store_reader_around(fetch->readers[slot->tier], slot->around_bytes);
		int rc = ts_store_get(fetch->readers[slot->tier], &slot->get);
		if (rc > 0) {
			fetch->nr_busy_tier[slot->tier]++;
			return 1;
		}
		if (rc < 0)
			slot->get.status = rc;
		slot->got_ns = ts_now_ns();
		ts_hist_add(&fetch->stages->hist[TS_STAGE_GET], slot->got_ns - slot->get_ns);
		if (!should_try_again(fetch, slot))
			return 0;
	}
}

unsigned ts_fetch_reap(struct ts_fetch *fetch, struct ts_fetch_slot **slots, unsigned slots_max,
		       int wait_ms)
{
	struct ts_get *done[TS_FAULT_DEPTH_MAX];
	unsigned nr_slots = 0, nr_busy_tiers = 0, nr_tiers = fetch->engine->nr_tiers;

	for (unsigned t = 0; t < nr_tiers; t++)
		nr_busy_tiers += fetch->nr_busy_tier[t] > 0;
	/* In turn: one that always has an answer must not keep others from theirs. */
	unsigned first = fetch->reap_tier++ % nr_tiers;
	for (unsigned n = 0; n < nr_tiers && nr_slots < slots_max; n++) {
		unsigned t = (first + n) % nr_tiers;
		if (!fetch->nr_busy_tier[t])
			continue;
		unsigned max = TS_MIN(slots_max - nr_slots, (unsigned)TS_FAULT_DEPTH_MAX);
		int nr = ts_store_reap(fetch->readers[t], done, max,
				       nr_busy_tiers == 1 && !nr_slots ? wait_ms : 0);
		for (int i = 0; i < nr; i++) {
			struct ts_fetch_slot *slot = done[i]->user;
			fetch->nr_busy_tier[t]--;
			ts_hist_add(&fetch->stages->hist[TS_STAGE_GET], ts_now_ns() - slot->get_ns);
			if (should_try_again(fetch, slot) && ts_fetch_start(fetch, slot) > 0)
				continue;
			slots[nr_slots++] = slot;
		}
	}
	return nr_slots;
}

int ts_fetch_poll_fd(struct ts_fetch *fetch, unsigned tier)
{
	return ts_store_reader_fd(fetch->readers[tier]);
}

int ts_fetch_wait(struct ts_fetch *fetch, struct ts_fetch_slot *slot)
{
	TS_ASSERT(fetch->nr_busy == 1);
	if (ts_fetch_start(fetch, slot) > 0) {
		struct ts_fetch_slot *done = NULL;
		while (ts_fetch_reap(fetch, &done, 1, -1) == 0)
			;
		TS_ASSERT(done == slot);
	}
	return slot->get.status;
}

/* The order: an id is freed, counted, and only then made to name another frame.  The caller has
 * seen a page's word with the name, so it sees the count as well, if it is another frame's. */
bool ts_fetch_is_decoded(struct ts_fetch *fetch, struct ts_fetch_slot *slot)
{
	uint64_t nr_freed = atomic_load_explicit(&fetch->engine->frames.nr_freed,
						 memory_order_acquire);

	slot->is_decoded = slot->frame == fetch->raw_frame && fetch->raw_nr_freed == nr_freed;
	slot->get.status = 0;
	if (slot->is_decoded)
		fetch->raw_ns = ts_now_ns();
	return slot->is_decoded;
}

/* A mean of what is short: that this thread was put aside once says nothing. */
static void note_decoding(struct ts_fetch *fetch, unsigned tier, ts_mono_ns took_ns)
{
	uint64_t mean_ns = fetch->decode_ns[tier];

	ts_hist_add(&fetch->stages->hist[TS_STAGE_DECODE], took_ns);
	took_ns = mean_ns ? TS_MIN(took_ns, 2 * mean_ns) : took_ns;
	fetch->decode_ns[tier] = mean_ns ? (7 * mean_ns + took_ns) / 8 : took_ns;
}

static int decode(struct ts_fetch *fetch, const struct ts_fetch_slot *slot)
{
	ts_mono_ns start_ns = slot->got_ns ? slot->got_ns : ts_now_ns();
	const uint8_t *frame = (const uint8_t *)slot->get.buf + slot->get.off_bytes;

	/* Counted first: the frame is alive now, for the page that we bring back names it. */
	fetch->raw_nr_freed = atomic_load_explicit(&fetch->engine->frames.nr_freed,
						   memory_order_acquire);
	fetch->raw_frame = 0;
	int rc = ts_decode(fetch->decoder, frame, slot->get.len_bytes, &fetch->raw_head, fetch->raw,
			   fetch->engine->frame_raw_max);
	fetch->raw_ns = ts_now_ns();
	note_decoding(fetch, slot->tier, fetch->raw_ns - start_ns);
	if (rc >= 0)
		fetch->raw_frame = slot->frame;
	return rc;
}

int ts_fetch_decode(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
		    const struct ts_region *region, uint32_t page, struct ts_frame_head *head_out)
{
	if (!slot->is_decoded && decode(fetch, slot) < 0)
		return TS_ECORRUPT;
	*head_out = fetch->raw_head;
	uint32_t bit = page - head_out->base_page;
	bool is_owner = head_out->region == region->id ||
			(region->image_id && head_out->region == region->image_id);
	if (!is_owner || page < head_out->base_page || bit >= TS_FRAME_PAGES_MAX ||
	    !(head_out->page_bits >> bit & 1))
		return TS_ECORRUPT;
	return __builtin_popcountll(head_out->page_bits & ((UINT64_C(1) << bit) - 1));
}

int ts_fetch_mates(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
		   struct ts_store_mate *mates, unsigned mates_max)
{
	/* Not read this time, or by a store that answers at once. */
	if (slot->is_decoded || slot->got_ns)
		return TS_EUNSUPPORTED;
	return ts_store_mates(fetch->readers[slot->tier], &slot->get, mates, mates_max);
}

int ts_fetch_decode_mate(struct ts_fetch *fetch, const struct ts_fetch_slot *slot,
			 const struct ts_store_mate *mate, const struct ts_region *region,
			 uint32_t page)
{
	struct ts_fetch_slot other = *slot;
	struct ts_frame_head head;

	other.frame = (uint32_t)mate->key;
	other.get.off_bytes = mate->off_bytes;
	other.get.len_bytes = mate->len_bytes;
	return ts_fetch_decode(fetch, &other, region, page, &head);
}
