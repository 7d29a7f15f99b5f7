/* SPDX-License-Identifier: Apache-2.0
 *
 * file_open.c — from a path to a usable store and back: is what is there ours, is it a leftover
 * of a crash, is it something to be kept; then the memory that the store works with. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "os/sys.h"
#include "store/file.h"
#include "util/hook.h"

static void *map_bytes(struct ts_file *file, size_t len_bytes)
{
	if (TS_INJECT(TS_SITE_MMAP))
		return NULL;
	void *base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return base == MAP_FAILED ? NULL : base;
}

/* ---- The superblock ---------------------------------------------------------------------- */

int ts_file_super_write(struct ts_file *file, uint32_t flags)
{
	struct ts_file_super *super = &file->super;

	super->flags = flags;
	super->checksum = XXH3_64bits(super, offsetof(struct ts_file_super, checksum));
	memset(file->gc_buffer, 0, TS_FILE_BLOCK_BYTES);
	memcpy(file->gc_buffer, super, sizeof(*super));
	return ts_file_transfer(file, true, file->gc_buffer, TS_FILE_BLOCK_BYTES, 0);
}

static int super_init(struct ts_file *file)
{
	struct ts_file_super *super = &file->super;
	uint32_t old_magic = super->record_magic;

	*super = (struct ts_file_super){
		.magic = TS_FILE_MAGIC, .version = TS_FILE_VERSION,
		.block_bytes = TS_FILE_BLOCK_BYTES, .segment_bytes = TS_FILE_SEGMENT_BYTES,
		.unit_bytes = file->unit_bytes, .capacity_bytes = file->capacity_bytes,
	};
	if (getrandom(super->uuid, sizeof(super->uuid), 0) != sizeof(super->uuid))
		return ts_fail(-EIO, "getrandom: %m");
	/* Never zero: a hole is no record.  Never the old one: leftovers are no records. */
	memcpy(&super->record_magic, super->uuid, sizeof(super->record_magic));
	while (super->record_magic == 0 || super->record_magic == old_magic)
		super->record_magic++;
	return 0;
}

/* What block 0 says.  1: ours, valid; 0: not ours; negative: ours, but of no use to us. */
static int super_parse(struct ts_file *file, struct ts_file_super *super)
{
	memcpy(super, file->gc_buffer, sizeof(*super));
	if (memcmp(super->magic, TS_FILE_MAGIC, sizeof(super->magic)))
		return 0;
	if (super->version != TS_FILE_VERSION)
		return ts_fail(TS_EVERSION, "%s holds a store of format version %u, this is "
			       "version %d; open it with init=1 to discard its contents",
			       file->path, super->version, TS_FILE_VERSION);
	if (super->checksum != XXH3_64bits(super, offsetof(struct ts_file_super, checksum)) ||
	    super->block_bytes != TS_FILE_BLOCK_BYTES ||
	    super->segment_bytes != TS_FILE_SEGMENT_BYTES)
		return ts_fail(TS_ECORRUPT, "%s: damaged superblock; open it with init=1 to "
			       "discard its contents", file->path);
	return 1;
}

/* ---- What is there ----------------------------------------------------------------------- */

static bool is_zero(const uint8_t *bytes, size_t len_bytes)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, len_bytes - 1);
}

/* Blank: nothing could get lost.  A regular file must have no data at all; of a device we look at
 * the two ends, where file systems, partition tables and volume managers leave their marks. */
static int medium_is_blank(struct ts_file *file)
{
	off_t size = lseek(file->fd, 0, SEEK_END);

	if (size < 0)
		return ts_fail(-errno, "lseek %s: %m", file->path);
	if (!file->is_device)
		return size == 0 || (lseek(file->fd, 0, SEEK_DATA) < 0 && errno == ENXIO);
	uint64_t last = ((uint64_t)size - TS_FILE_SEGMENT_BYTES) &
			~(uint64_t)(TS_FILE_BLOCK_BYTES - 1);
	for (unsigned i = 0; i < 2; i++) {
		int ret = ts_file_transfer(file, false, file->gc_buffer, TS_FILE_SEGMENT_BYTES,
					   i ? last : 0);
		if (ret)
			return ts_fail(ret, "read %s: %s", file->path, strerror(-ret));
		if (!is_zero(file->gc_buffer, TS_FILE_SEGMENT_BYTES))
			return 0;
	}
	return 1;
}

/* Reads block 0; a shorter file reads as zeros. */
static int read_first_block(struct ts_file *file)
{
	struct stat info;

	memset(file->gc_buffer, 0, TS_FILE_BLOCK_BYTES);
	if (fstat(file->fd, &info))
		return ts_fail(-errno, "fstat %s: %m", file->path);
	if (!file->is_device && info.st_size < TS_FILE_BLOCK_BYTES)
		return 0;
	int ret = ts_file_transfer(file, false, file->gc_buffer, TS_FILE_BLOCK_BYTES, 0);
	return ret ? ts_fail(ret, "read %s: %s", file->path, strerror(-ret)) : 0;
}

static int set_held_flags(struct ts_file *file)
{
	char boot[TS_BOOT_ID_BYTES];
	int ret = ts_sys_boot_id(boot);

	file->held_flags = TS_FILE_HELD |
			   (uint32_t)XXH3_64bits(boot, sizeof(boot)) << TS_FILE_BOOT_SHIFT;
	return ret;
}

static int recognise_resumed(struct ts_file *file, const struct ts_file_super *super)
{
	if (!(super->flags & TS_FILE_HELD) || !ts_file_state_is_of(file, super) ||
	    super->capacity_bytes != file->capacity_bytes)
		return ts_fail(TS_ESTATE, "%s is not the store that the state folder was written "
			       "with; put that back, or remove the state folder", file->path);
	file->super = *super;
	file->is_created = super->flags & TS_FILE_CREATED;
	return 2;
}

/* 2: a store to take over; 1: a kept store to load; 0: may be formatted; negative: hands off. */
static int recognise(struct ts_file *file, const struct ts_file_options *options)
{
	struct ts_file_super super;
	int ret = read_first_block(file);

	if (ret)
		return ret;
	ret = super_parse(file, &super);
	if (options->is_init && !file->is_resumed)
		return 0;
	if (ret < 0)
		return ret;
	if (ret == 0 && file->is_resumed)
		return ts_fail(TS_ESTATE, "%s is no store, but the state folder was written with "
			       "one; put that back, or remove the state folder", file->path);
	if (ret == 0) {
		ret = medium_is_blank(file);
		return ret < 0 ? ret : ret ? 0 :
			ts_fail(TS_EWRONGFILE, "%s holds something that is not a tierstore store; "
				"left untouched.  Name another path, or give init=1 to overwrite "
				"it", file->path);
	}
	if (file->is_resumed)
		return recognise_resumed(file, &super);
	if ((super.flags & TS_FILE_HELD) &&
	    super.flags >> TS_FILE_BOOT_SHIFT == file->held_flags >> TS_FILE_BOOT_SHIFT)
		return ts_fail(TS_EWRONGFILE, "%s holds frames that belong to an engine's state "
			       "folder; open it with that folder, or with init=1 to discard them",
			       file->path);
	if (!(super.flags & TS_FILE_CLEAN)) {
		/* Its guest is gone.  Keep what we need to get rid of it. */
		file->super = super;
		file->is_created = super.flags & TS_FILE_CREATED;
		ts_set_error(0, "the store was not closed in order; its contents were discarded");
		return 0;
	}
	if (!options->is_kept)
		return ts_fail(TS_EWRONGFILE, "%s holds a store that was kept; open it with "
			       "keep=1, or with init=1 to discard its contents", file->path);
	if (super.capacity_bytes != file->capacity_bytes || super.unit_bytes != file->unit_bytes)
		return ts_fail(TS_ECONFIG, "%s is a kept store of %llu bytes, size says %llu",
			       file->path, (unsigned long long)super.capacity_bytes,
			       (unsigned long long)file->capacity_bytes);
	file->super = super;
	return 1;
}

/* Gives up all contents and writes a new superblock. */
static int format(struct ts_file *file)
{
	int ret = super_init(file);

	if (ret)
		return ret;
	if (file->is_device)
		(void)ts_file_discard(file, 0, file->capacity_bytes); /* many can't */
	else if (fchmod(file->fd, 0600) && errno != EPERM)
		return ts_fail(-errno, "fchmod %s: %m", file->path);
	else if (ftruncate(file->fd, 0) || ftruncate(file->fd, (off_t)file->capacity_bytes))
		return ts_fail(-errno, "ftruncate %s to %llu bytes: %m", file->path,
			       (unsigned long long)file->capacity_bytes);
	ret = ts_file_super_write(file, (file->is_created ? TS_FILE_CREATED : 0u) |
				  (file->state.base ? file->held_flags : 0u));
	if (!ret && file->state.base)
		ts_file_state_bind(file);
	return ret ? ts_fail(ret, "write %s: %s", file->path, strerror(-ret)) : 0;
}

static int bring_up(struct ts_file *file, const struct ts_file_options *options)
{
	int ret = recognise(file, options);

	if (ret < 0)
		return ret;
	if (ret == 0)
		return format(file);
	if (ret == 2)
		return ts_file_resume(file);
	ret = ts_file_load(file);
	if (ret)
		return ret;
	/* From now on the disk and the index differ until the next close.  On the medium before
	 * anything else is: or the host's end could leave a store that looks closed in order, with
	 * records of before and after. */
	ret = ts_file_super_write(file, file->super.flags & ~(uint32_t)TS_FILE_CLEAN);
	if (!ret)
		ret = ts_file_sync(file);
	if (ret)
		(void)ts_file_super_write(file, file->super.flags | TS_FILE_CLEAN);
	return ret ? ts_fail(ret, "write %s: %s", file->path, strerror(-ret)) : 0;
}

/* ---- Memory ------------------------------------------------------------------------------ */

static void set_geometry(struct ts_file *file, const struct ts_store_config *config)
{
	file->capacity_bytes = config->size_bytes / TS_FILE_SEGMENT_BYTES * TS_FILE_SEGMENT_BYTES;
	file->nr_segments = (uint32_t)(file->capacity_bytes / TS_FILE_SEGMENT_BYTES);
	file->unit_bytes = TS_FILE_UNIT_BYTES_MIN;
	while (file->capacity_bytes / file->unit_bytes > UINT32_MAX)
		file->unit_bytes *= 2;
	file->unit_shift = (uint32_t)__builtin_ctz(file->unit_bytes);
	file->segment_units = TS_FILE_SEGMENT_BYTES >> file->unit_shift;
	file->nr_free = file->nr_segments;
	file->clean_first = file->dirty_first = TS_FILE_NONE;
	file->can_discard = true;
	file->sequence_next = 1;
	file->key_max = config->key_max;
	file->frame_max_bytes = config->frame_max_bytes;
	file->batch_max = TS_MAX(config->batch_max, (uint32_t)TS_STORE_BATCH_MAX);
	file->nr_writers_max = TS_MAX(1u, TS_MIN((unsigned)TS_FILE_WRITER_MAX,
		file->nr_segments / TS_FILE_SEGMENTS_PER_WRITER));
}

static int map_memory(struct ts_file *file)
{
	uint64_t nr_keys = file->key_max + 1;
	uint64_t nr_groups = file->key_max / TS_FILE_GROUP_KEYS + 1;

	file->index_map_bytes = nr_keys * sizeof(file->places[0]);
	file->segment_map_bytes = file->nr_segments * sizeof(file->segments[0]);
	if (!file->state.base) {
		file->places = map_bytes(file, file->index_map_bytes);
		file->sizes = map_bytes(file, nr_keys * sizeof(file->sizes[0]));
		file->segments = map_bytes(file, file->segment_map_bytes);
	}
	file->gc_buffer = map_bytes(file, TS_FILE_SEGMENT_BYTES);
	file->touched = calloc(nr_groups / 64 + 1, sizeof(file->touched[0]));
	file->gc_items = calloc(file->batch_max, sizeof(file->gc_items[0]));
	file->gc_places = calloc(file->batch_max, sizeof(file->gc_places[0]));
	if (!file->places || !file->sizes || !file->segments || !file->gc_buffer ||
	    !file->touched || !file->gc_items || !file->gc_places)
		return ts_fail(-ENOMEM, "%s: no memory for the index of %llu keys", file->path,
			       (unsigned long long)nr_keys);
	atomic_fetch_add(&file->memory_bytes, file->segment_map_bytes + TS_FILE_SEGMENT_BYTES +
			 (nr_groups / 64 + 1) * sizeof(file->touched[0]) + sizeof(*file) +
			 file->batch_max * (sizeof(file->gc_items[0]) +
					    sizeof(file->gc_places[0])));
	return 0;
}

static void unmap_memory(struct ts_file *file)
{
	ts_file_state_close(file);
	if (file->places)
		munmap(file->places, file->index_map_bytes);
	if (file->sizes)
		munmap(file->sizes, (file->key_max + 1) * sizeof(file->sizes[0]));
	if (file->segments)
		munmap(file->segments, file->segment_map_bytes);
	if (file->gc_buffer)
		munmap(file->gc_buffer, TS_FILE_SEGMENT_BYTES);
	free(file->touched);
	free(file->gc_items);
	free(file->gc_places);
}

/* ---- Open and close ---------------------------------------------------------------------- */

static int check_config(const struct ts_store_config *config, bool is_kept)
{
	if (!config->path || !config->path[0])
		return ts_fail(TS_ECONFIG, "store file: needs a path (a file or a block device)");
	if (config->size_bytes < (uint64_t)TS_FILE_SEGMENTS_MIN * TS_FILE_SEGMENT_BYTES)
		return ts_fail(TS_ECONFIG, "%s: size is %llu bytes; a file store needs at least %d "
			       "MiB", config->path, (unsigned long long)config->size_bytes,
			       TS_FILE_SEGMENTS_MIN * (TS_FILE_SEGMENT_BYTES >> 20));
	if (config->size_bytes / TS_FILE_UNIT_BYTES_MAX > UINT32_MAX)
		return ts_fail(TS_ECONFIG, "%s: size is more than 16 TiB", config->path);
	if (config->state_path && is_kept)
		return ts_fail(TS_ECONFIG, "%s: keep=1 is for stores without a state folder",
			       config->path);
	if (config->frame_max_bytes > TS_FRAME_BYTES_MAX)
		return ts_fail(TS_ELIMIT, "%s: frames of up to %u bytes; at most %d", config->path,
			       config->frame_max_bytes, TS_FRAME_BYTES_MAX);
	if (config->key_max >= TS_FILE_KEY_DEAD || config->batch_max > UINT16_MAX)
		return ts_fail(TS_ELIMIT, "%s: key_max or batch_max is too large", config->path);
	return 0;
}

static void destroy(struct ts_file *file)
{
	for (unsigned i = 0; i < file->nr_writers; i++)
		ts_file_writer_destroy(file, file->writers[i]);
	ts_file_writer_destroy(file, file->gc_writer);
	if (file->fd >= 0) {
		/* The kernel takes rings down in its own time; they hold the file until then. */
		(void)flock(file->fd, LOCK_UN);
		close(file->fd);
	}
	unmap_memory(file);
	pthread_cond_destroy(&file->pool_changed);
	pthread_mutex_destroy(&file->pool_lock);
	pthread_mutex_destroy(&file->gc_lock);
	pthread_mutex_destroy(&file->lock);
	free(file->path);
	free(file);
}

static struct ts_file *create(const struct ts_store_config *config,
			      const struct ts_file_options *options)
{
	struct ts_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->fd = -1;
	pthread_mutex_init(&file->lock, NULL);
	pthread_mutex_init(&file->gc_lock, NULL);
	pthread_mutex_init(&file->pool_lock, NULL);
	pthread_cond_init(&file->pool_changed, NULL);
	file->path = strdup(config->path);
	file->state.fd = -1;
	file->is_kept = options->is_kept;
	file->is_resumed = config->state_path && config->is_resume;
	set_geometry(file, config);
	file->reader_depth = options->depth ? options->depth : TS_MAX(config->depth_max, 1u);
	return file;
}

int ts_file_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	struct ts_file_options options;
	int ret = ts_file_options_parse(config->options, &options);

	if (!ret)
		ret = check_config(config, options.is_kept);
	if (ret)
		return ret;
	struct ts_file *file = create(config, &options);
	if (!file || !file->path) {
		if (file)
			destroy(file);
		return ts_fail(-ENOMEM, "%s: out of memory", config->path);
	}
	ts_set_error(0, "");
	/* Locked first: the map may be in use by whoever has the lock. */
	ret = ts_file_medium_open(file, config, &options);
	bool is_new = file->is_created;
	if (!ret)
		ret = set_held_flags(file);
	if (!ret && config->state_path)
		ret = ts_file_state_open(file, config);
	if (!ret)
		ret = map_memory(file);
	/* The rings first: whatever can be refused is refused before anything is written. */
	if (!ret)
		ret = ts_file_writer_create(file, &file->gc_writer);
	if (!ret)
		ret = ts_file_writer_create(file, &file->writers[0]);
	if (!ret) {
		file->nr_writers = 1;
		file->gc_writer->may_use_reserve = true;
		ret = bring_up(file, &options);
	}
	if (ret) {
		/* A failed open leaves nothing behind; never remove what others have locked. */
		if (is_new && file->is_locked)
			unlink(file->path);
		destroy(file);
		return ret;
	}
	*store_out = &file->base;
	return 0;
}

void ts_file_close(struct ts_store *store)
{
	struct ts_file *file = TS_CONTAINER(store, struct ts_file, base);

	if (!store)
		return;
	if (file->state.base) {
		destroy(file);  /* everything stays as it is */
		return;
	}
	if (file->is_kept) {
		/* Data before the mark that vouches for it. */
		if (!ts_file_keep(file) && !ts_file_sync(file) &&
		    !ts_file_super_write(file, file->super.flags | TS_FILE_CLEAN))
			(void)ts_file_sync(file);
	} else if (file->is_created && !file->is_device) {
		unlink(file->path);
	} else {
		(void)ts_file_discard(file, TS_FILE_BLOCK_BYTES,
				      file->capacity_bytes - TS_FILE_BLOCK_BYTES);
	}
	destroy(file);
}
