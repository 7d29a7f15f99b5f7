/* SPDX-License-Identifier: Apache-2.0
 * image.c — the images there are: their tables, files, and who began as them (image.h). */
#include "engine/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/state.h"
#include "os/sys.h"

#define IMAGE_MAGIC "TSIMAGE"
enum { RECORD_MAX = 4 << 20 };  /* pages of a working set */

static int path_of(const struct ts_engine *engine, uint32_t id, char *path, size_t path_bytes)
{
	int len = snprintf(path, path_bytes, "%s/image-%08x", engine->state->dir, id);

	return len < (int)path_bytes ? 0 :
	       ts_fail(TS_ECONFIG, "state folder %s: the path is too long", engine->state->dir);
}

static size_t words_bytes(uint32_t nr_pages)
{
	return (size_t)nr_pages * sizeof(ts_word);
}

static size_t file_bytes(uint32_t nr_pages)
{
	return TS_STATE_HEAD_BYTES + words_bytes(nr_pages);
}

static void write_head(struct ts_engine *engine, const struct ts_image *image, bool is_complete)
{
	struct ts_image_head *head = image->map.base;
	struct ts_image_head next = { .magic = IMAGE_MAGIC, .version = TS_STATE_VERSION,
				      .id = image->id, .nr_pages = image->nr_pages,
				      .is_complete = is_complete };

	memcpy(next.name, image->name, sizeof(next.name));
	memcpy(next.uuid, engine->state->head->uuid, sizeof(next.uuid));
	next.checksum = XXH3_64bits(&next, offsetof(struct ts_image_head, checksum));
	*head = next;
}

/* ---- Finding ---------------------------------------------------------------------------- */

struct ts_image *ts_image_find(struct ts_engine *engine, const char *name)
{
	for (struct ts_image *image = engine->images; image; image = image->next)
		if (!strcmp(image->name, name))
			return image;
	return NULL;
}

struct ts_image *ts_image_of(struct ts_engine *engine, uint32_t id)
{
	for (struct ts_image *image = engine->images; image; image = image->next)
		if (image->id == id)
			return image;
	return NULL;
}

/* ---- Making and removing ---------------------------------------------------------------- */

static int map_words(struct ts_engine *engine, struct ts_image *image)
{
	char path[4096];

	if (!engine->state) {
		image->words = ts_sys_alloc_pages(words_bytes(image->nr_pages));
		return image->words ? 0 : ts_fail(-ENOMEM, "image %s: out of memory", image->name);
	}
	atomic_store(&engine->state->head->next_region_id, engine->next_region_id);
	int rc = path_of(engine, image->id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_create(path, file_bytes(image->nr_pages), &image->map);
	if (rc)
		return rc;
	rc = ts_mapfile_reserve(&image->map, 0, file_bytes(image->nr_pages));
	if (rc) {
		unlink(path);
		return ts_fail(rc, "image %s: no room for its table: %s: %s", image->name, path,
			       ts_strerror(rc));
	}
	image->words = (ts_word_slot *)((char *)image->map.base + TS_STATE_HEAD_BYTES);
	write_head(engine, image, false);
	return 0;
}

static void free_image(struct ts_image *image)
{
	if (image->map.base)
		ts_mapfile_close(&image->map);
	else
		ts_sys_free_pages((void *)image->words, words_bytes(image->nr_pages));
	free(image);
}

int ts_image_create(struct ts_engine *engine, const char *name, uint32_t nr_pages,
		    struct ts_image **image_out)
{
	struct ts_image *image = calloc(1, sizeof(*image));

	if (!image)
		return ts_fail(-ENOMEM, "image %s: out of memory", name);
	image->map.fd = -1;
	image->id = ++engine->next_region_id;
	image->nr_pages = nr_pages;
	snprintf(image->name, sizeof(image->name), "%s", name);
	int rc = map_words(engine, image);
	if (rc) {
		free_image(image);
		return rc;
	}
	for (uint32_t page = 0; page < nr_pages; page++)
		atomic_store_explicit(&image->words[page], ts_word_make(TS_ZERO, 0, 0),
				      memory_order_relaxed);
	*image_out = image;
	return 0;
}

void ts_image_publish(struct ts_engine *engine, struct ts_image *image)
{
	if (image->map.base)
		write_head(engine, image, true);
	image->next = engine->images;
	engine->images = image;
}

void ts_image_destroy(struct ts_engine *engine, struct ts_image *image)
{
	char path[4096];
	uint32_t last = 0;

	/* Without the file its frames are nobody's, whatever happens next. */
	if (image->map.base && !path_of(engine, image->id, path, sizeof(path)) && unlink(path))
		ts_log(engine, TS_LOG_WARNING, "image %s: %s can't be removed: %s", image->name,
		       path, strerror(errno));
	/* A frame's pages are neighbours. */
	for (uint32_t page = 0; page < image->nr_pages; page++) {
		ts_word word = ts_word_load(&image->words[page]);
		uint32_t frame = ts_word_payload(word);
		if (!ts_word_is(word, TS_AWAY) || frame == last)
			continue;
		last = frame;
		if (ts_frame_refs(ts_frames_load(&engine->frames, frame)))
			ts_frames_unpin(&engine->frames, frame);
	}
	free_image(image);
}

static unsigned count_regions(struct ts_engine *engine, uint32_t image_id)
{
	unsigned nr_regions = 0;

	for (unsigned r = 0; r < TS_REGION_MAX; r++)
		nr_regions += engine->regions[r] && engine->regions[r]->image_id == image_id;
	for (unsigned i = 0; engine->state && i < engine->state->nr_orphans; i++)
		nr_regions += engine->state->orphans[i].region.image_id == image_id;
	return nr_regions;
}

int ts_image_remove(struct ts_engine *engine, const char *name)
{
	TS_SCOPED_LOCK(&engine->control);
	struct ts_image *image = ts_image_find(engine, name);
	unsigned nr_regions = image ? count_regions(engine, image->id) : 0;

	if (!image)
		return ts_fail(TS_ENOTFOUND, "there is no image %s", name);
	if (nr_regions)
		return ts_fail(TS_EBUSY, "image %s: %u regions began as it and still need its "
			       "pages", name, nr_regions);
	struct ts_image **link = &engine->images;
	while (*link != image)
		link = &(*link)->next;
	*link = image->next;
	ts_image_destroy(engine, image);
	return 0;
}

int ts_image_list(struct ts_engine *engine, struct ts_image_info *infos, unsigned nr_max)
{
	size_t size = nr_max ? infos[0].size : 0;
	unsigned nr_images = 0;

	TS_SCOPED_LOCK(&engine->control);
	for (struct ts_image *image = engine->images; image; image = image->next, nr_images++) {
		struct ts_image_info info = {
			.size = size, .len_bytes = (uint64_t)image->nr_pages << TS_PAGE_SHIFT,
			.nr_stored = image->nr_stored, .nr_filled = image->nr_filled,
			.nr_regions = count_regions(engine, image->id),
		};
		memcpy(info.name, image->name, sizeof(info.name));
		if (nr_images < nr_max)
			memcpy((char *)infos + nr_images * size, &info, TS_MIN(size, sizeof(info)));
	}
	return (int)nr_images;
}

/* ---- After a death ---------------------------------------------------------------------- */

static bool head_is_valid(const struct ts_engine *engine, const struct ts_mapfile *map, uint32_t id)
{
	const struct ts_image_head *head = map->base;

	return !memcmp(head->magic, IMAGE_MAGIC, sizeof(head->magic)) &&
	       head->checksum == XXH3_64bits(head, offsetof(struct ts_image_head, checksum)) &&
	       head->version == TS_STATE_VERSION && head->id == id && head->is_complete &&
	       map->len_bytes >= file_bytes(head->nr_pages) &&
	       !memcmp(head->uuid, engine->state->head->uuid, sizeof(head->uuid));
}

static int count_words(struct ts_engine *engine, struct ts_image *image)
{
	for (uint32_t page = 0; page < image->nr_pages; page++) {
		ts_word word = ts_word_load(&image->words[page]);
		uint32_t frame = ts_word_payload(word);
		image->nr_filled += ts_word_is(word, TS_ZERO) && frame;
		if (!ts_word_is(word, TS_AWAY))
			continue;
		image->nr_stored++;
		if (!ts_frames_recount_pinned(&engine->frames, frame, TS_TIER_MAX))
			return ts_fail(TS_ECORRUPT, "image %s: its table names frames that there "
				       "are not: remove %s/image-%08x, and what was restored from "
				       "it", image->name, engine->state->dir, image->id);
	}
	return 0;
}

static int load_image(struct ts_engine *engine, uint32_t id)
{
	struct ts_image *image = calloc(1, sizeof(*image));
	char path[4096];

	if (!image)
		return ts_fail(-ENOMEM, "engine: out of memory");
	image->map.fd = -1;
	int rc = path_of(engine, id, path, sizeof(path));
	if (!rc)
		rc = ts_mapfile_open(path, TS_STATE_HEAD_BYTES, &image->map);
	if (rc) {
		free(image);
		return rc;
	}
	if (!head_is_valid(engine, &image->map, id)) {
		/* Its import never ended. */
		free_image(image);
		return unlink(path) ? ts_fail(-errno, "unlink %s: %m", path) : 0;
	}
	const struct ts_image_head *head = image->map.base;
	image->id = id;
	image->nr_pages = head->nr_pages;
	memcpy(image->name, head->name, sizeof(image->name));
	image->words = (ts_word_slot *)((char *)image->map.base + TS_STATE_HEAD_BYTES);
	image->next = engine->images;
	engine->images = image;
	return count_words(engine, image);
}

int ts_images_load(struct ts_engine *engine)
{
	int fd = openat(engine->state->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int rc = 0;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return ts_fail(-ENOMEM, "state folder %s: can't be read", engine->state->dir);
	}
	for (struct dirent *entry; !rc && (entry = readdir(dir));) {
		unsigned id;
		int end = 0;
		if (sscanf(entry->d_name, "image-%8x%n", &id, &end) == 1 && !entry->d_name[end])
			rc = load_image(engine, id);
	}
	closedir(dir);
	return rc;
}

void ts_images_free(struct ts_engine *engine)
{
	while (engine->images) {
		struct ts_image *image = engine->images;
		engine->images = image->next;
		free_image(image);
	}
}

/* ---- Regions that begin as one ---------------------------------------------------------- */

void ts_image_begin(struct ts_engine *engine, struct ts_region *region,
		    const struct ts_image *image)
{
	uint32_t nr_pages = TS_MIN((uint32_t)region->nr_pages, image->nr_pages);

	for (uint32_t page = 0; page < nr_pages; page++) {
		ts_word word = ts_word_load(&image->words[page]);
		if (!ts_word_is(ts_word_load(&region->words[page]), TS_ZERO))
			continue;
		if (ts_word_is(word, TS_AWAY))
			ts_frames_add_page(&engine->frames, ts_word_payload(word));
		atomic_store(&region->words[page], word);
	}
	ts_image_record(region);
}

void ts_image_record(struct ts_region *region)
{
	uint32_t nr_max = TS_MIN((uint32_t)region->nr_pages, (uint32_t)RECORD_MAX);

	region->faulted = ts_sys_alloc_pages(nr_max * sizeof(region->faulted[0]));
	region->nr_faulted_max = region->faulted ? nr_max : 0;
}

int64_t ts_region_working_set(struct ts_region *region, uint32_t *pages, uint64_t nr_max)
{
	uint32_t nr_faulted = TS_MIN(atomic_load(&region->nr_faulted), region->nr_faulted_max);
	size_t map_bytes = (size_t)region->nr_pages / 8 + 8;
	uint64_t *seen = ts_sys_alloc_pages(map_bytes);
	uint64_t nr_pages = 0;

	if (!seen)
		return ts_fail(-ENOMEM, "%s: out of memory", region->name);
	for (uint32_t i = 0; i < nr_faulted && nr_pages < nr_max; i++) {
		uint32_t page = __atomic_load_n(&region->faulted[i], __ATOMIC_ACQUIRE) - 1;
		/* One that is being written this moment is left out. */
		if (page >= region->nr_pages || seen[page / 64] >> (page % 64) & 1)
			continue;
		seen[page / 64] |= UINT64_C(1) << (page % 64);
		pages[nr_pages++] = page;
	}
	ts_sys_free_pages(seen, map_bytes);
	return (int64_t)nr_pages;
}
