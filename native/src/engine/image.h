/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h — snapshots' memory in the tiers, which regions begin as.
 *
 * An image is a table of words: AWAY in a frame of the image, or ZERO.  Its frames are pinned, so
 * that any number of regions may name them; it stays for as long as one does.  Page n of such a
 * region is page n of the image.
 */
#ifndef TS_ENGINE_IMAGE_H
#define TS_ENGINE_IMAGE_H

#include "core/engine.h"

/* In front of the words, in a file image-N in the state folder. */
struct ts_image_head {
	char magic[8];
	uint32_t version, id, nr_pages, is_complete;
	char name[64];
	uint8_t uuid[16];             /* of the engine's head */
	uint64_t checksum;            /* XXH3-64 of what is before it */
};

struct ts_image {
	struct ts_image *next;
	char name[64];
	uint32_t id, nr_pages;
	uint64_t nr_stored, nr_filled;
	ts_word_slot *words;
	struct ts_mapfile map;        /* where they lie, if there is a state folder */
};

/* Those of an earlier process; before its regions (engine/state.c). */
int ts_images_load(struct ts_engine *engine);
void ts_images_free(struct ts_engine *engine);

/* By name or id, or NULL. */
struct ts_image *ts_image_find(struct ts_engine *engine, const char *name);
struct ts_image *ts_image_of(struct ts_engine *engine, uint32_t id);

/* An image that is being imported: not in the list yet. */
int ts_image_create(struct ts_engine *engine, const char *name, uint32_t nr_pages,
		    struct ts_image **image_out);
/* Complete: from now on it is there.  Or not: nothing of it stays. */
void ts_image_publish(struct ts_engine *engine, struct ts_image *image);
void ts_image_destroy(struct ts_engine *engine, struct ts_image *image);

/* Gives a region that nobody sees yet the image's pages, but for those that are there.  Its
 * image_id is set (and is in its file, if it has one). */
void ts_image_begin(struct ts_engine *engine, struct ts_region *region,
		    const struct ts_image *image);
/* Regions that began as an image record their working set.  No memory: they don't. */
void ts_image_record(struct ts_region *region);

#endif
