/* SPDX-License-Identifier: Apache-2.0
 * batch.c — what both kinds of memory do with a batch's pages (memory.h). */
#include "memory/memory.h"

#include "page/frames.h"

/* How many pages from i on can be handled in one call: contiguous in the set, in state, in
 * address. */
static unsigned run_length(const struct ts_batch *batch, const struct ts_pageset *set,
			   enum ts_state state, unsigned i, unsigned run_max)
{
	unsigned n = 0;

	while (n < run_max && i + n < batch->nr_pages && ts_pageset_has(set, i + n) &&
	       ts_word_is(ts_word_load(ts_batch_word(batch, i + n)), state))
		n++;
	return n;
}

void ts_batch_each_run(struct ts_batch *batch, const struct ts_pageset *set, enum ts_state state,
		       unsigned run_max, ts_batch_run_fn fn)
{
	struct ts_shard *shard = ts_region_shard(batch->region, batch->first_page);
	unsigned i = ts_pageset_next(set, 0);

	while (i < TS_CHUNK_PAGES) {
		uint32_t addr_run = 0;
		ts_gate_share(&shard->gate);
		uint64_t addr = ts_shard_addr(shard, batch->first_page + i, &addr_run);
		unsigned n = addr ? run_length(batch, set, state, i, TS_MIN(run_max, addr_run)) : 0;
		if (n)
			fn(batch, shard, i, n, addr);
		ts_gate_unshare(&shard->gate);
		i = ts_pageset_next(set, i + TS_MAX(n, 1));
	}
}

bool ts_batch_swap_owned(struct ts_batch *batch, unsigned i, ts_word to)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word leaving = ts_batch_leaving(batch, i);
	unsigned spins = 0;

	for (;;) {
		ts_word word = leaving;
		if (ts_word_swap(slot, &word, to))
			return true;
		/* A fault copies from our slot: one ioctl long. */
		if (!ts_word_is(word, TS_COMING) || !(word & TS_WORD_STAGED) ||
		    ts_word_payload(word) != ts_batch_slot(batch, i))
			return false;
		ts_gate_pause(&spins);
	}
}

bool ts_batch_is_owned(struct ts_batch *batch, unsigned i)
{
	ts_word coming = ts_word_make(TS_COMING, TS_WORD_STAGED, ts_batch_slot(batch, i));
	unsigned spins = 0;

	for (;;) {
		ts_word word = ts_word_load(ts_batch_word(batch, i));
		if ((word & ~(ts_word)TS_WORD_REMOVED) != coming)
			return word == ts_batch_leaving(batch, i);
		ts_gate_pause(&spins);
	}
}

void ts_batch_drop_kept(struct ts_batch *batch, unsigned i)
{
	if (batch->kept_frame[i])
		ts_frames_unref(batch->frames, batch->kept_frame[i]);
	batch->kept_frame[i] = 0;
}

void ts_batch_drop_cancelled(struct ts_batch *batch)
{
	TS_PAGESET_EACH(i, &batch->owned) {
		if (ts_batch_is_owned(batch, i))
			continue;
		batch->nr_cancelled++;
		ts_batch_drop_kept(batch, i);
		ts_pageset_remove(&batch->owned, i);
	}
}

void ts_batch_disown(struct ts_batch *batch, unsigned i)
{
	if (!ts_batch_swap_owned(batch, i, ts_word_make(TS_RESIDENT, 0, 0)))
		batch->nr_cancelled++;
	else
		batch->nr_failed++;
	ts_batch_drop_kept(batch, i);
	ts_pageset_remove(&batch->owned, i);
}

void ts_batch_released(struct ts_batch *batch, unsigned i)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word word = ts_word_load(slot);

	while (!ts_word_is(word, TS_GONE) &&
	       !ts_word_swap(slot, &word, word & ~(ts_word)TS_WORD_RELEASING))
		;
	ts_pageset_remove(&batch->releasing, i);
}
