/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb.h — inside of the LMDB store.  lmdb.c has its life and its reads, lmdb_write.c its
 * transactions, lmdb_folder.c the folder on disk.  FORMAT.md, "LMDB store", is the format.
 */
#ifndef TS_STORE_LMDB_H
#define TS_STORE_LMDB_H

#include <assert.h>
#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <tierstore/store.h>

#include "util/base.h"
#include "util/hook.h"

/* ---- lmdb_folder.c ---------------------------------------------------------------------- */

/* The folder while it is open.  The lock is on the folder itself, which is never replaced. */
struct ts_lmdb_folder {
	int dir_fd;     /* flock()ed; -1: not open */
	int marker_fd;
	bool is_created;/* by this open; a failed one removes it again */
	bool is_kept;   /* its frames are from before and count */
	bool is_held;   /* its frames outlive this process, however that ends */
};

/* What is to be done with frames that are there, and with ours at the end. */
enum ts_lmdb_mode {
	TS_LMDB_FRESH = 0,  /* removed; removed */
	TS_LMDB_KEEP,       /* taken over if they were kept; kept if the close is in order */
	TS_LMDB_HOLD,       /* removed; stay */
	TS_LMDB_RESUME,     /* taken over, must be there; stay */
};

/* Creates or takes over the folder at @path, locked.  Frames of ours that are not taken over are
 * removed, so that a crash leaves nothing behind; but not those that are held (TS_EWRONGFILE).
 * Errors: TS_EWRONGFILE, TS_EVERSION, TS_ELOCKED, TS_ESTATE, -errno; with a text. */
int ts_lmdb_folder_open(const char *path, enum ts_lmdb_mode mode, struct ts_lmdb_folder *folder);

/* Marks the frames as kept (their data is on disk already), or removes them; unlocks. */
int ts_lmdb_folder_close(struct ts_lmdb_folder *folder, bool keep);

/* ---- lmdb_write.c ----------------------------------------------------------------------- */

struct ts_lmdb_store {
	struct ts_store base;
	struct ts_lmdb_folder folder;
	MDB_env *env;
	MDB_dbi frames, main;
	bool keep, sync, is_open;
	enum ts_lmdb_mode mode;
	uint32_t frame_max_bytes;
	uint32_t page_bytes;
	uint64_t map_pages;      /* the size limit */
	uint64_t reserve_pages;  /* of them: what put() leaves alone, so that del() always can */
	char name[32];

	pthread_mutex_t write_lock; /* Guards what follows up to has_looked, and makes a put or del
				     * of several transactions one.  Held across I/O; never by
				     * get(). */
	MDB_txn *look_txn;       /* reads what writers have to know */
	uint64_t live_pages;     /* in use */
	uint64_t pending_pages;  /* free, but not usable for the next transaction yet */
	uint64_t key_end;        /* above every key there is */
	bool has_looked;         /* the page counts are as of the last commit */

	pthread_mutex_t stat_lock;  /* Guards stat_txn.  Innermost. */
	MDB_txn *stat_txn;

	_Atomic uint64_t frame_bytes, written_bytes, device_pages, nr_errors;
	_Atomic uint32_t nr_readers;
};

extern const struct ts_store_ops ts_store_lmdb_ops;

int ts_lmdb_put(struct ts_store *store, struct ts_put *items, unsigned nr_items);
int ts_lmdb_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys);

/* Pages in use as @txn sees them: both meta pages and all four trees. */
int ts_lmdb_live_pages(struct ts_lmdb_store *lmdb, MDB_txn *txn, uint64_t *pages_out);

/* What an LMDB result means in ours. */
int ts_lmdb_error(int rc);

/* The key in the main tree that says whose environment this is, and its value. */
struct ts_lmdb_mark {
	char magic[8];    /* "TSLMDB1" */
	uint64_t nr_ticks;/* see tick() in lmdb_write.c */
};
#define TS_LMDB_MARK_KEY "tierstore"
#define TS_LMDB_MARK_MAGIC "TSLMDB1"

/* ---- Calls of LMDB, each asking the failure injector first ------------------------------- */

static inline int ts_mdb_begin(MDB_env *env, unsigned flags, MDB_txn **txn_out)
{
	if (TS_INJECT(TS_SITE_LMDB))
		return errno;
	return mdb_txn_begin(env, NULL, flags, txn_out);
}

static inline int ts_mdb_put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value,
			     unsigned flags)
{
	if (TS_INJECT(TS_SITE_LMDB))
		return errno;
	return mdb_put(txn, dbi, key, value, flags);
}

static inline int ts_mdb_del(MDB_txn *txn, MDB_dbi dbi, MDB_val *key)
{
	if (TS_INJECT(TS_SITE_LMDB))
		return errno;
	return mdb_del(txn, dbi, key, NULL);
}

static inline int ts_mdb_get(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value)
{
	if (TS_INJECT(TS_SITE_LMDB))
		return errno;
	return mdb_get(txn, dbi, key, value);
}

/* The transaction is over in either case, as with mdb_txn_commit(). */
static inline int ts_mdb_commit(MDB_txn *txn)
{
	if (TS_INJECT(TS_SITE_LMDB)) {
		int error = errno;
		mdb_txn_abort(txn);
		return error;
	}
	return mdb_txn_commit(txn);
}

static inline int ts_mdb_renew(MDB_txn *txn)
{
	if (TS_INJECT(TS_SITE_LMDB))
		return errno;
	return mdb_txn_renew(txn);
}

#endif
