/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb.c — the store "lmdb": frames in an LMDB environment, keyed by integers.
 *
 * What one gets: every put batch is one or a few transactions, a reader sees each frame whole, old
 * or new, without any lock, and the file can be read with LMDB's own tools.
 *
 * What it costs
 *  - get() copies out of a memory map.  With the pages in the page cache that takes 1 to 3 us; if
 *    they are not, the thread sleeps in page faults until the disk has answered, for the
 *    tree's pages one after another (p50 0.3 ms, p99 1.2 ms on a virtual disk), and there is no
 *    way to ask beforehand.  No fault may wait for another page's disk, hence
 *    TS_STORE_BLOCKING_GET: the get runs on a thread of its own, which costs every get some
 *    10 us.  (mincore() on the value doesn't help: the library doesn't say where it is before it
 *    has walked the tree, and the answer is old when it is used.)
 *  - A disk that fails to read a page of the map answers with SIGBUS, which kills the
 *    process.  Where that is to be feared, use the store "file", which reads with system calls.
 *  - Values over about half a page take whole pages (FORMAT.md has the table).
 *  - The file never shrinks while it is open; its size stays below the configured one.
 *
 * How it is opened
 *  - MDB_NOSYNC | MDB_NOMETASYNC (sync=0): a commit goes to the page cache and survives this
 *    process, not the host.  Nothing more is needed: the guest doesn't survive the host either, and
 *    a folder that was not closed in order is emptied, never read (lmdb_folder.c).
 *    sync=1 waits for the disk at each commit, which keeps the backlog of dirty pages short.
 *  - No MDB_WRITEMAP: a full or failing disk is then an error code of the commit instead of a
 *    SIGBUS, and a stray pointer of the VMM can't write into the frames.  It would save a copy;
 *    tests/bench_lmdb.c measures it.
 *  - MDB_NORDAHEAD: neighbours in the file are not neighbours in the guest.
 *  - MDB_NOTLS: a read transaction belongs to a reader, not to a thread.  It is reset after each
 *    get, so that it keeps its slot in the reader table (the next get allocates nothing and takes
 *    no lock) but pins no pages.
 */
#include "store/lmdb.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/wrap.h"
#include "util/base.h"

enum {
	SIZE_BYTES_MIN = 1 << 20,
	/* Reserve for deletes: see lmdb_write.c.  Three deletes in a row must find their pages;
	 * more of it lets them be done in larger transactions. */
	RESERVE_PAGES_MIN = 64,
	RESERVE_PAGES_MAX = 1024,
	RESERVE_SHARE = 64, /* one page in this many */
	TREE_PAGES = 32,    /* for the trees of a store that holds two frames */
};

static_assert(sizeof(size_t) == sizeof(uint64_t), "MDB_INTEGERKEY takes keys of 8 bytes");

struct lmdb_reader {
	struct ts_reader base;
	MDB_txn *txn; /* reset while no get runs */
};

static int set_option(void *context, const char *key, const char *value)
{
	struct ts_lmdb_store *lmdb = context;
	uint64_t number;
	bool *flag;

	if (strcmp(key, "keep") == 0)
		flag = &lmdb->keep;
	else if (strcmp(key, "sync") == 0)
		flag = &lmdb->sync;
	else
		return ts_fail(TS_ECONFIG, "lmdb store '%s': no option '%s'; there are: keep, sync",
			       lmdb->name, key);
	int result = ts_option_number(lmdb->name, key, value, 1, &number);
	if (result == 0)
		*flag = number == 1;
	return result;
}

static int configure(struct ts_lmdb_store *lmdb, const struct ts_store_config *config)
{
	snprintf(lmdb->name, sizeof(lmdb->name), "%s", config->name);
	if (!config->path)
		return ts_fail(TS_ECONFIG, "lmdb store '%s': path is missing; give it a folder of "
			       "its own", lmdb->name);
	lmdb->frame_max_bytes = config->frame_max_bytes;
	lmdb->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	lmdb->map_pages = config->size_bytes / lmdb->page_bytes;
	lmdb->reserve_pages = TS_MIN(TS_MAX(lmdb->map_pages / RESERVE_SHARE, RESERVE_PAGES_MIN),
				     RESERVE_PAGES_MAX);
	uint64_t frame_pages = config->frame_max_bytes / lmdb->page_bytes + 1;
	uint64_t size_min = TS_MAX(SIZE_BYTES_MIN, lmdb->page_bytes *
				   (lmdb->reserve_pages + TREE_PAGES + 2 * frame_pages));
	if (config->size_bytes < size_min)
		return ts_fail(TS_ECONFIG, "lmdb store '%s': size is %llu bytes; the least is %llu",
			       lmdb->name, (unsigned long long)config->size_bytes,
			       (unsigned long long)size_min);
	int result = ts_options_parse(lmdb->name, config->options, set_option, lmdb);
	if (result == 0 && config->state_path && lmdb->keep)
		return ts_fail(TS_ECONFIG, "lmdb store '%s': keep=1 is for stores without a state "
			       "folder", lmdb->name);
	lmdb->mode = lmdb->keep ? TS_LMDB_KEEP : TS_LMDB_FRESH;
	if (config->state_path)
		lmdb->mode = config->is_resume ? TS_LMDB_RESUME : TS_LMDB_HOLD;
	return result;
}

static int env_open(struct ts_lmdb_store *lmdb, const struct ts_store_config *config)
{
	unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;

	if (!lmdb->sync)
		flags |= MDB_NOSYNC | MDB_NOMETASYNC;
	int rc = TS_INJECT(TS_SITE_LMDB) ? errno : mdb_env_create(&lmdb->env);
	if (rc == 0)
		rc = mdb_env_set_mapsize(lmdb->env, lmdb->map_pages * lmdb->page_bytes);
	/* One more for stat(), one for writers, one for a person with LMDB's own tools. */
	if (rc == 0)
		rc = mdb_env_set_maxreaders(lmdb->env, config->reader_max + 3);
	if (rc == 0)
		rc = mdb_env_set_maxdbs(lmdb->env, 1);
	if (rc == 0)
		rc = TS_INJECT(TS_SITE_LMDB) ? errno :
			mdb_env_open(lmdb->env, config->path, flags, 0600);
	return rc;
}

/* The mark in the main tree: checked where frames were kept, else written. */
static int mark_check_or_create(struct ts_lmdb_store *lmdb, MDB_txn *txn)
{
	MDB_val key = { strlen(TS_LMDB_MARK_KEY), (void *)TS_LMDB_MARK_KEY }, value;
	struct ts_lmdb_mark mark = { .magic = TS_LMDB_MARK_MAGIC };

	int rc = ts_mdb_get(txn, lmdb->main, &key, &value);
	if (rc == 0 && (value.mv_size != sizeof(mark) ||
			memcmp(value.mv_data, mark.magic, sizeof(mark.magic)) != 0))
		return MDB_INVALID;
	if (rc == 0)
		return 0;
	if (rc != MDB_NOTFOUND || lmdb->folder.is_kept)
		return rc == MDB_NOTFOUND ? MDB_INVALID : rc;
	value = (MDB_val){ sizeof(mark), &mark };
	return ts_mdb_put(txn, lmdb->main, &key, &value, 0);
}

/* What LMDB doesn't know itself of frames that were kept: their sum and the last key. */
static int frames_look(struct ts_lmdb_store *lmdb, MDB_txn *txn)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	uint64_t sum_bytes = 0, key_last;

	int rc = mdb_cursor_open(txn, lmdb->frames, &cursor);
	if (rc)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		if (key.mv_size != sizeof(uint64_t)) {
			rc = MDB_CORRUPTED;
			break;
		}
		sum_bytes += value.mv_size;
		memcpy(&key_last, key.mv_data, sizeof(key_last));
		lmdb->key_end = key_last + 1;
	}
	mdb_cursor_close(cursor);
	atomic_store(&lmdb->frame_bytes, sum_bytes);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Opens both trees and sees to it that they are ours. */
static int trees_open(struct ts_lmdb_store *lmdb)
{
	unsigned create = lmdb->folder.is_kept ? 0 : MDB_CREATE;
	MDB_txn *txn;

	int rc = ts_mdb_begin(lmdb->env, 0, &txn);
	if (rc)
		return rc;
	rc = mdb_dbi_open(txn, NULL, 0, &lmdb->main);
	if (rc == 0)
		rc = mark_check_or_create(lmdb, txn);
	if (rc == 0)
		rc = mdb_dbi_open(txn, "frames", MDB_INTEGERKEY | create, &lmdb->frames);
	if (rc == 0)
		rc = frames_look(lmdb, txn);
	if (rc) {
		mdb_txn_abort(txn);
		return rc == MDB_NOTFOUND ? MDB_INVALID : rc;
	}
	return ts_mdb_commit(txn);
}

/* A page of the map that the file doesn't have is SIGBUS.  What was cut off reads as zeros instead,
 * which are no page of a tree and no frame. */
static int length_restore(struct ts_lmdb_store *lmdb, uint64_t len_bytes)
{
	struct stat stat;
	int fd, rc = mdb_env_get_fd(lmdb->env, &fd);

	if (rc == 0 && fstat(fd, &stat) < 0)
		rc = errno;
	if (rc == 0 && (uint64_t)stat.st_size < len_bytes && ftruncate(fd, (off_t)len_bytes) < 0)
		rc = errno;
	return rc;
}

/* A kept environment may be larger than what is allowed now; LMDB would simply go on. */
static int size_check(struct ts_lmdb_store *lmdb)
{
	MDB_envinfo info;

	int rc = mdb_env_info(lmdb->env, &info);
	if (rc)
		return rc;
	if (info.me_last_pgno < lmdb->map_pages)
		return length_restore(lmdb, (info.me_last_pgno + 1) * lmdb->page_bytes);
	return ts_fail(TS_ECONFIG, "lmdb store '%s': size is %llu bytes but the kept frames need "
		       "%llu; give it at least that, or open without keep=1 to drop them",
		       lmdb->name, (unsigned long long)(lmdb->map_pages * lmdb->page_bytes),
		       (unsigned long long)(info.me_last_pgno + 1) * lmdb->page_bytes);
}

/* A read transaction with a slot of its own, at rest. */
static int read_txn_open(struct ts_lmdb_store *lmdb, MDB_txn **txn_out)
{
	int rc = ts_mdb_begin(lmdb->env, MDB_RDONLY, txn_out);

	if (rc == 0)
		mdb_txn_reset(*txn_out);
	return rc;
}

/* Undoes lmdb_open() from any point on.  @keep: the folder keeps its frames.  Those of a store
 * that could not be opened are as they were. */
static int lmdb_finish(struct ts_lmdb_store *lmdb, bool keep)
{
	int result = 0;

	if (lmdb->stat_txn)
		mdb_txn_abort(lmdb->stat_txn);
	if (lmdb->look_txn)
		mdb_txn_abort(lmdb->look_txn);
	if (lmdb->env) {
		if (keep && lmdb->is_open)
			result = ts_lmdb_error(mdb_env_sync(lmdb->env, 1));
		mdb_env_close(lmdb->env);
	}
	/* Frames that may not be on disk are not kept. */
	int folder_result = ts_lmdb_folder_close(&lmdb->folder, keep && result == 0);
	pthread_mutex_destroy(&lmdb->stat_lock);
	pthread_mutex_destroy(&lmdb->write_lock);
	free(lmdb);
	return result ? result : folder_result;
}

/* The environment and everything in it; the folder is open. */
static int contents_open(struct ts_lmdb_store *lmdb, const struct ts_store_config *config)
{
	int rc = env_open(lmdb, config);

	if (rc == 0) {
		rc = size_check(lmdb);
		if (rc == TS_ECONFIG)
			return rc;
	}
	if (rc == 0)
		rc = trees_open(lmdb);
	if (rc == 0)
		rc = read_txn_open(lmdb, &lmdb->stat_txn);
	if (rc == 0)
		rc = read_txn_open(lmdb, &lmdb->look_txn);
	lmdb->is_open = rc == 0;
	if (rc == 0)
		return 0;
	return ts_fail(ts_lmdb_error(rc), "lmdb store '%s': open %s: %s%s", lmdb->name,
		       config->path, mdb_strerror(rc), lmdb->folder.is_kept ?
		       "; open without keep=1 to start afresh" : "");
}

static int lmdb_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	struct ts_lmdb_store *lmdb = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*lmdb));

	if (!lmdb)
		return ts_fail(-ENOMEM, "lmdb store '%s': no memory", config->name);
	lmdb->base.ops = &ts_store_lmdb_ops;
	lmdb->folder.dir_fd = lmdb->folder.marker_fd = -1;
	pthread_mutex_init(&lmdb->write_lock, NULL);
	pthread_mutex_init(&lmdb->stat_lock, NULL);
	int result = configure(lmdb, config);
	if (result == 0)
		result = ts_lmdb_folder_open(config->path, lmdb->mode, &lmdb->folder);
	if (result == 0)
		result = contents_open(lmdb, config);
	if (result < 0) {
		bool is_created = lmdb->folder.is_created;

		/* One that could not even be made is not held for anybody. */
		lmdb->folder.is_held &= lmdb->mode == TS_LMDB_RESUME;
		lmdb_finish(lmdb, lmdb->folder.is_kept);
		if (is_created)
			rmdir(config->path);
		return result;
	}
	*store_out = &lmdb->base;
	return 0;
}

static void lmdb_close(struct ts_store *store)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;

	/* What can't be marked as kept, or not be removed, is emptied by the next open. */
	if (lmdb)
		lmdb_finish(lmdb, lmdb->keep);
}

static int lmdb_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;
	struct lmdb_reader *reader = TS_INJECT(TS_SITE_ALLOC) ? NULL : calloc(1, sizeof(*reader));

	if (!reader)
		return ts_fail(-ENOMEM, "lmdb store '%s': no memory for a reader", lmdb->name);
	int rc = read_txn_open(lmdb, &reader->txn);
	if (rc) {
		free(reader);
		return ts_fail(ts_lmdb_error(rc), "lmdb store '%s': open a reader: %s", lmdb->name,
			       mdb_strerror(rc));
	}
	reader->base.store = store;
	atomic_fetch_add(&lmdb->nr_readers, 1);
	*reader_out = &reader->base;
	return 0;
}

static void lmdb_reader_close(struct ts_reader *base)
{
	struct lmdb_reader *reader = (struct lmdb_reader *)base;

	if (!reader)
		return;
	mdb_txn_abort(reader->txn);
	atomic_fetch_sub(&((struct ts_lmdb_store *)base->store)->nr_readers, 1);
	free(reader);
}

/* Copies the frame out while the transaction holds its pages. */
static int copy_frame(const struct ts_lmdb_store *lmdb, MDB_txn *txn, struct ts_get *request)
{
	uint64_t key_value = request->key;
	MDB_val key = { sizeof(key_value), &key_value }, value;

	int rc = ts_mdb_get(txn, lmdb->frames, &key, &value);
	if (rc)
		return ts_lmdb_error(rc);
	if (value.mv_size > lmdb->frame_max_bytes || value.mv_size > request->cap_bytes)
		return TS_ECORRUPT;
	memcpy(request->buf, value.mv_data, value.mv_size);
	request->off_bytes = 0;
	request->len_bytes = (uint32_t)value.mv_size;
	return 0;
}

static int lmdb_get(struct ts_reader *base, struct ts_get *request)
{
	struct lmdb_reader *reader = (struct lmdb_reader *)base;
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)base->store;

	int rc = ts_mdb_renew(reader->txn);
	if (rc) {
		request->status = ts_lmdb_error(rc);
	} else {
		request->status = copy_frame(lmdb, reader->txn, request);
		mdb_txn_reset(reader->txn);
	}
	if (request->status < 0 && request->status != TS_ENOTFOUND)
		atomic_fetch_add(&lmdb->nr_errors, 1);
	return 0;
}

/* Slots of readers that died: another process's, such as a tool's, since ours are closed in
 * order.  Each would pin the pages it was looking at for good. */
static int lmdb_maintain(struct ts_store *store)
{
	int nr_dead, rc = mdb_reader_check(((struct ts_lmdb_store *)store)->env, &nr_dead);

	return ts_lmdb_error(rc);
}

static int stat_read(struct ts_lmdb_store *lmdb, uint64_t *live_pages, MDB_stat *frames)
{
	TS_SCOPED_LOCK(&lmdb->stat_lock);
	int rc = ts_mdb_renew(lmdb->stat_txn);

	if (rc)
		return rc;
	rc = ts_lmdb_live_pages(lmdb, lmdb->stat_txn, live_pages);
	if (rc == 0)
		rc = mdb_stat(lmdb->stat_txn, lmdb->frames, frames);
	mdb_txn_reset(lmdb->stat_txn);
	return rc;
}

static int lmdb_stat(struct ts_store *store, struct ts_store_stat *stat)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;
	uint64_t live_pages;
	MDB_stat frames;

	int rc = stat_read(lmdb, &live_pages, &frames);
	if (rc)
		return ts_fail(ts_lmdb_error(rc), "lmdb store '%s': stat: %s", lmdb->name,
			       mdb_strerror(rc));
	stat->capacity_bytes = lmdb->map_pages * lmdb->page_bytes;
	stat->nr_frames = frames.ms_entries;
	stat->frame_bytes = atomic_load(&lmdb->frame_bytes);
	/* With the reserve, so that the store is full when used reaches capacity. */
	stat->used_bytes = TS_MIN(live_pages + lmdb->reserve_pages, lmdb->map_pages) *
		lmdb->page_bytes;
	/* Its pages live in the page cache, which the kernel takes back at will. */
	stat->memory_bytes = sizeof(*lmdb) +
		atomic_load(&lmdb->nr_readers) * sizeof(struct lmdb_reader);
	stat->written_bytes = atomic_load(&lmdb->written_bytes);
	stat->device_bytes = atomic_load(&lmdb->device_pages) * lmdb->page_bytes;
	stat->nr_errors = atomic_load(&lmdb->nr_errors);
	return 0;
}

static int lmdb_list(struct ts_store *store, ts_key_fn fn, void *user)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;
	MDB_val key, value;
	MDB_cursor *cursor;
	uint64_t number;
	int result = 0;

	TS_SCOPED_LOCK(&lmdb->stat_lock);
	int rc = ts_mdb_renew(lmdb->stat_txn);
	if (rc)
		return ts_lmdb_error(rc);
	rc = mdb_cursor_open(lmdb->stat_txn, lmdb->frames, &cursor);
	if (rc == 0) {
		while (result >= 0 &&
		       (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
			memcpy(&number, key.mv_data, sizeof(number));
			result = fn(user, number);
		}
		mdb_cursor_close(cursor);
	}
	mdb_txn_reset(lmdb->stat_txn);
	return result < 0 ? result : rc == MDB_NOTFOUND ? 0 : ts_lmdb_error(rc);
}

const struct ts_store_ops ts_store_lmdb_ops = {
	.size = sizeof(struct ts_store_ops),
	.name = "lmdb",
	.flags = TS_STORE_BLOCKING_GET | TS_STORE_CAN_RESUME,
	.open = lmdb_open,
	.close = lmdb_close,
	.put = ts_lmdb_put,
	.del = ts_lmdb_del,
	.reader_open = lmdb_reader_open,
	.reader_close = lmdb_reader_close,
	.get = lmdb_get,
	.maintain = lmdb_maintain,
	.stat = lmdb_stat,
	.list = lmdb_list,
};
