/* SPDX-License-Identifier: Apache-2.0
 *
 * import.c — a snapshot's memory file into the tiers (image.h).
 *
 * 2 MiB at a time: holes and zeros cost nothing, pages of one value are written down, the rest is
 * encoded a range at a time and put into the lowest tier that takes it: what a restored guest
 * doesn't touch stays there, and frames of images don't move.  A put that is acknowledged pins its
 * frame.  What has not been published when the process dies, is free.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/image.h"
#include "memory/pageset.h"
#include "os/sys.h"
#include "util/limits.h"

enum { CHUNK_BYTES = TS_CHUNK_PAGES << TS_PAGE_SHIFT, OUT_BYTES = 2 * CHUNK_BYTES };

struct import {
	struct ts_engine *engine;
	struct ts_image *image;
	struct ts_encoder *encoder;
	int fd;
	uint32_t first_page, nr_pages;    /* of the chunk */
	uint8_t *data, *gather, *out;
	struct ts_pageset left;           /* pages of the chunk that are nowhere yet */
	struct ts_put items[TS_STORE_BATCH_MAX];
	struct { unsigned first; uint64_t bits; } groups[TS_STORE_BATCH_MAX];
	unsigned nr_items;
	size_t out_used;
};

static void publish_group(struct import *import, unsigned n)
{
	uint32_t frame = (uint32_t)import->items[n].key;

	ts_frames_pin(&import->engine->frames, frame);
	for (uint64_t bits = import->groups[n].bits; bits; bits &= bits - 1) {
		unsigned i = import->groups[n].first + (unsigned)__builtin_ctzll(bits);
		atomic_store(&import->image->words[import->first_page + i],
			     ts_word_make(TS_AWAY, 0, frame));
		ts_pageset_remove(&import->left, i);
		import->image->nr_stored++;
	}
}

/* false: the tier takes nothing more. */
static bool flush(struct import *import, struct ts_tier *tier)
{
	bool is_taken = true;

	if (!import->nr_items)
		return true;
	int rc = ts_store_put(tier->store, import->items, import->nr_items);
	for (unsigned n = 0; n < import->nr_items; n++) {
		int status = rc < 0 ? rc : import->items[n].status;
		ts_tier_count_frame(tier, 1,
				    (unsigned)__builtin_popcountll(import->groups[n].bits));
		ts_tier_note_put(import->engine, tier, status);
		if (!status)
			publish_group(import, n);
		else
			ts_frames_unref(&import->engine->frames, (uint32_t)import->items[n].key);
		is_taken &= !status;
	}
	import->nr_items = 0;
	import->out_used = 0;
	return is_taken;
}

static const uint8_t *contiguous(struct import *import, unsigned first, uint64_t bits)
{
	unsigned n = 0;

	for (; bits; bits &= bits - 1)
		memcpy(import->gather + ((size_t)n++ << TS_PAGE_SHIFT),
		       import->data + ((size_t)(first + (unsigned)__builtin_ctzll(bits)) <<
				       TS_PAGE_SHIFT), TS_PAGE_BYTES);
	return import->gather;
}

static bool add_group(struct import *import, struct ts_tier *tier, unsigned first, uint64_t bits)
{
	struct ts_codec_setting setting = ts_tier_setting(tier);
	struct ts_frame_owner owner = { import->image->id, import->first_page + first, bits };
	unsigned nr_pages = (unsigned)__builtin_popcountll(bits);

	if ((import->nr_items == TS_STORE_BATCH_MAX ||
	     import->out_used + TS_FRAME_BYTES_MAX > OUT_BYTES) && !flush(import, tier))
		return false;
	uint8_t *dst = import->out + import->out_used;
	int len = ts_encode(import->encoder, &setting, &owner, contiguous(import, first, bits), dst,
			    OUT_BYTES - import->out_used);
	int64_t frame = len < 0 ? len :
			ts_frames_alloc(&import->engine->frames, tier->index, nr_pages,
					atomic_load(&import->engine->tick));
	if (frame < 0)
		return false;
	import->items[import->nr_items] = (struct ts_put){ .key = (uint64_t)frame, .data = dst,
							   .len_bytes = (uint32_t)len };
	import->groups[import->nr_items].first = first;
	import->groups[import->nr_items++].bits = bits;
	import->out_used += ((size_t)len + 7) & ~(size_t)7;
	return true;
}

static void put_tier(struct import *import, struct ts_tier *tier)
{
	unsigned range_pages = tier->range_pages;

	for (unsigned first = 0; first < TS_CHUNK_PAGES; first += range_pages) {
		uint64_t bits = import->left.bits[first / 64] >> (first % 64);
		if (range_pages < 64)
			bits &= (UINT64_C(1) << range_pages) - 1;
		if (bits && !add_group(import, tier, first, bits))
			break;
	}
	(void)flush(import, tier);
}

/* Pages that need no frame. */
static void note_fills(struct import *import)
{
	for (unsigned i = 0; i < import->nr_pages; i++) {
		uint64_t value = 0;
		bool is_filled = ts_page_is_filled(import->data + ((size_t)i << TS_PAGE_SHIFT),
						   &value);
		int fill = is_filled && value ? ts_fills_find(&import->engine->fills, value) : 0;
		if (!is_filled || fill < 0) {
			ts_pageset_add(&import->left, i);
			continue;
		}
		import->image->nr_filled += fill > 0;
		atomic_store(&import->image->words[import->first_page + i],
			     ts_word_make(TS_ZERO, 0, (uint32_t)fill));
	}
}

static int import_chunk(struct import *import)
{
	struct ts_engine *engine = import->engine;
	off_t offset = (off_t)import->first_page << TS_PAGE_SHIFT;
	off_t data = lseek(import->fd, offset, SEEK_DATA);

	/* A hole, as far as the file system knows. */
	if ((data < 0 && errno == ENXIO) ||
	    data >= offset + ((off_t)import->nr_pages << TS_PAGE_SHIFT))
		return 0;
	int rc = ts_sys_pread_all(import->fd, import->data,
				  (size_t)import->nr_pages << TS_PAGE_SHIFT, offset);
	if (rc)
		return ts_fail(rc, "image %s: read: %s", import->image->name, ts_strerror(rc));
	import->left = (struct ts_pageset){ { 0 } };
	note_fills(import);
	for (unsigned t = engine->nr_tiers; t-- > 0 && ts_pageset_count(&import->left);)
		if (ts_tier_admits(&engine->tiers[t]))
			put_tier(import, &engine->tiers[t]);
	return ts_pageset_count(&import->left) ?
	       ts_fail(TS_EFULL, "image %s: the tiers have no room for it", import->image->name) :
	       0;
}

static int import_all(struct import *import, ts_progress_fn progress, void *user)
{
	uint64_t len_bytes = (uint64_t)import->image->nr_pages << TS_PAGE_SHIFT;
	int rc = 0;

	for (uint32_t page = 0; !rc && page < import->image->nr_pages; page += TS_CHUNK_PAGES) {
		import->first_page = page;
		import->nr_pages = TS_MIN(import->image->nr_pages - page, (uint32_t)TS_CHUNK_PAGES);
		rc = import_chunk(import);
		uint64_t done_bytes = (uint64_t)(page + import->nr_pages) << TS_PAGE_SHIFT;
		if (!rc && progress && progress(user, done_bytes, len_bytes))
			rc = ts_fail(-EINTR, "image %s: given up", import->image->name);
	}
	return rc;
}

static int run_import(struct ts_engine *engine, struct ts_image *image, int fd,
		      ts_progress_fn progress, void *user)
{
	struct import *import = calloc(1, sizeof(*import));
	int rc = import ? 0 : -ENOMEM;

	if (!rc) {
		import->engine = engine;
		import->image = image;
		import->fd = fd;
		import->data = ts_sys_alloc_pages(CHUNK_BYTES);
		import->gather = ts_sys_alloc_pages(TS_FRAME_RAW_MAX);
		import->out = ts_sys_alloc_pages(OUT_BYTES);
		rc = import->data && import->gather && import->out ?
		     ts_encoder_create(engine->dicts, &import->encoder) : -ENOMEM;
	}
	rc = rc ? ts_fail(rc, "image %s: out of memory", image->name) :
	     import_all(import, progress, user);
	if (import) {
		ts_encoder_destroy(import->encoder);
		ts_sys_free_pages(import->data, CHUNK_BYTES);
		ts_sys_free_pages(import->gather, TS_FRAME_RAW_MAX);
		ts_sys_free_pages(import->out, OUT_BYTES);
		free(import);
	}
	return rc;
}

static int check_import(struct ts_engine *engine, const char *name, int fd, uint64_t len_bytes)
{
	struct stat info;

	if (!engine->is_started)
		return ts_fail(TS_ESTATE, "start the engine before images are imported");
	if (!name || !name[0] || strlen(name) > 63)
		return ts_fail(TS_ECONFIG, "image: needs a name of 1 to 63 characters");
	if (ts_image_find(engine, name))
		return ts_fail(TS_ESTATE, "there is an image %s already: remove it first, or take "
			       "another name", name);
	if (!len_bytes || len_bytes % TS_PAGE_BYTES)
		return ts_fail(TS_EALIGN, "image %s: its length, %llu bytes, is no multiple of %d",
			       name, (unsigned long long)len_bytes, TS_PAGE_BYTES);
	if (len_bytes >> TS_PAGE_SHIFT > (uint64_t)TS_FRAME_ID_MAX)
		return ts_fail(TS_ELIMIT, "image %s: at most 512 GiB", name);
	if (fstat(fd, &info) || !S_ISREG(info.st_mode) || (uint64_t)info.st_size < len_bytes)
		return ts_fail(TS_ECONFIG, "image %s: not a regular file of %llu bytes", name,
			       (unsigned long long)len_bytes);
	return 0;
}

int ts_image_import(struct ts_engine *engine, const char *name, int fd, uint64_t len_bytes,
		    ts_progress_fn progress, void *user)
{
	struct ts_image *image = NULL;

	pthread_mutex_lock(&engine->control);
	int rc = check_import(engine, name, fd, len_bytes);
	if (!rc)
		rc = ts_image_create(engine, name, (uint32_t)(len_bytes >> TS_PAGE_SHIFT), &image);
	pthread_mutex_unlock(&engine->control);
	if (rc)
		return rc;
	rc = run_import(engine, image, fd, progress, user);
	TS_SCOPED_LOCK(&engine->control);
	/* Two of one name at a time: the second gives way. */
	if (!rc && ts_image_find(engine, name))
		rc = ts_fail(TS_ESTATE, "there is an image %s already", name);
	if (rc)
		ts_image_destroy(engine, image);
	else
		ts_image_publish(engine, image);
	return rc;
}
