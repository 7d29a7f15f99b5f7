/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd_io.c — reading and punching a memfd (memfd_io.h).
 *
 * pread(2) reads the page cache whatever the mapping says, and a hole as zeros; it costs the same
 * as copying from a second mapping, without page-table work at the punch.
 * PUNCH_HOLE drops page and mapping.  Of a huge page it drops a part by splitting it, and if that
 * can't be done (somebody has it pinned) it clears the part, keeps the page, and reports success:
 * hence the look whether there is a hole now.
 */
#include "memory/memfd_io.h"

#include "os/sys.h"
#include "page/frames.h"

enum { WRITE_TRIES = 100 };

/* Members of `set` from i on that lie one after the other behind one descriptor. */
struct piece {
	int fd;
	off_t offset;
	unsigned nr_pages;
};

static struct piece piece_at(const struct ts_batch *batch, const struct ts_pageset *set, unsigned i)
{
	uint64_t offset;
	uint32_t run;
	int fd = ts_region_backing(batch->region, batch->first_page + i, &offset, &run);
	unsigned n = 1;

	while (n < run && i + n < batch->nr_pages && ts_pageset_has(set, i + n))
		n++;
	return (struct piece){ fd, (off_t)offset, n };
}

static void add_run(struct ts_pageset *set, unsigned i, unsigned nr_pages)
{
	for (unsigned n = 0; n < nr_pages; n++)
		ts_pageset_add(set, i + n);
}

void ts_memfd_read(struct ts_batch *batch, struct ts_pageset *unread)
{
	struct piece piece;

	for (unsigned i = ts_pageset_next(&batch->owned, 0); i < TS_CHUNK_PAGES;
	     i = ts_pageset_next(&batch->owned, i + piece.nr_pages)) {
		piece = piece_at(batch, &batch->owned, i);
		if (!ts_sys_pread_all(piece.fd, batch->data + ((size_t)i << TS_PAGE_SHIFT),
				      (size_t)piece.nr_pages << TS_PAGE_SHIFT, piece.offset))
			continue;
		add_run(unread, i, piece.nr_pages);
		ts_bump(&batch->region->counters.failures[TS_FAIL_TAKE], piece.nr_pages);
		batch->nr_failed += piece.nr_pages;
	}
}

/* ---- Punch ------------------------------------------------------------------------------ */

static bool is_hole(const struct piece *piece, unsigned first, unsigned nr_pages)
{
	off_t start = piece->offset + ((off_t)first << TS_PAGE_SHIFT);
	off_t data = lseek(piece->fd, start, SEEK_DATA);

	/* Nothing more in the whole file is ENXIO; any other error: let it be written back. */
	return data >= start + ((off_t)nr_pages << TS_PAGE_SHIFT) || (data < 0 && errno == ENXIO);
}

static void lose_page(struct ts_batch *batch, unsigned i)
{
	ts_word_slot *slot = ts_batch_word(batch, i);
	ts_word word = ts_word_load(slot);

	ts_bump(&batch->region->counters.failures[TS_FAIL_POISONED], 1);
	while (!ts_word_swap(slot, &word, ts_word_make(TS_GONE, 0, 0)))
		;
	if (ts_word_is(word, TS_AWAY))
		ts_frames_drop_page(batch->frames, ts_word_payload(word));
}

/* Cleared instead of dropped: as it was. */
static void write_back(struct ts_batch *batch, const struct piece *piece, unsigned first,
		       unsigned n)
{
	int rc = -EIO;

	for (unsigned tries = 0; rc && tries < WRITE_TRIES; tries++)
		rc = ts_sys_pwrite_all(piece->fd,
				       batch->data + ((size_t)(first + n) << TS_PAGE_SHIFT),
				       TS_PAGE_BYTES, piece->offset + ((off_t)n << TS_PAGE_SHIFT));
	if (rc)
		lose_page(batch, first + n);
}

static void punch_piece(struct ts_batch *batch, const struct piece *piece, unsigned i,
			struct ts_pageset *failed)
{
	unsigned nr_failed = 0;
	int rc = ts_sys_fallocate(piece->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  piece->offset, (off_t)piece->nr_pages << TS_PAGE_SHIFT);

	if (!rc && TS_LIKELY(is_hole(piece, 0, piece->nr_pages)))
		return;
	for (unsigned n = 0; n < piece->nr_pages; n++) {
		if (!rc && is_hole(piece, n, 1))
			continue;
		if (!rc)
			write_back(batch, piece, i, n);
		ts_pageset_add(failed, i + n);
		nr_failed++;
	}
	ts_bump(&batch->region->counters.failures[TS_FAIL_RELEASE], nr_failed);
}

void ts_memfd_punch(struct ts_batch *batch, const struct ts_pageset *set, struct ts_pageset *failed)
{
	struct piece piece;

	for (unsigned i = ts_pageset_next(set, 0); i < TS_CHUNK_PAGES;
	     i = ts_pageset_next(set, i + piece.nr_pages)) {
		piece = piece_at(batch, set, i);
		punch_piece(batch, &piece, i, failed);
	}
}
