/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb_write.c — putting and deleting frames, in a map of fixed size that is allowed to be full.
 *
 * Some facts about LMDB
 *  - Nothing is changed in place.  A transaction writes new pages, for the value and for every page
 *    of the tree on the way to it, so a delete needs free pages before it can free any.
 *  - Pages that transaction N gave up can be used again by N+2, if no reader still looks at a
 *    state from before N.  A transaction that fails, or changes nothing, doesn't count.
 *  - MDB_MAP_FULL dooms its transaction; all that can be done with it is to abort.
 *  - A value over about half a page goes to neighbouring pages of its own, so a map with free
 *    pages here and there can be full for it.
 *
 * What this means here
 *  - put() stops short of the limit: the last reserve_pages are for del().
 *  - What is free but not usable yet is not counted on; where that decides, an otherwise empty
 *    transaction (a tick) makes it usable.
 *  - After MDB_MAP_FULL the batch is done again up to the item that did not fit.  That item gets
 *    TS_EFULL, and the ones behind it a transaction of their own.  What the keys held before is
 *    untouched at every moment.
 */
#include "store/lmdb.h"

#include <errno.h>
#include <string.h>

#include "util/base.h"

enum {
	/* Frame bytes in one transaction, all of which LMDB holds in memory until the commit; more
	 * gain nothing (tests/bench_lmdb.c). */
	TXN_BYTES_MAX = 4 << 20,
	/* An item's share of the pages above the leaf that it changes, splits included. */
	TREE_PAGES = 3,
	/* Pages that one delete may need: tree, neighbours it merges with, list of free pages. */
	DEL_PAGES = 20,
	/* How long del() in a full map waits for readers, each of which is about to finish. */
	DEL_WAITS_MAX = 5000,
	DEL_WAIT_US = 1000,
	FREE_DBI = 0,  /* LMDB's tree of free pages: key the transaction, value count and pages */
	PAGE_HEAD_BYTES = 16, NODE_HEAD_BYTES = 8, KEY_BYTES = sizeof(uint64_t),
};

/* One write transaction. */
struct write {
	struct ts_lmdb_store *lmdb;
	MDB_txn *txn;
	uint64_t free_pages;    /* that this transaction can use */
	uint64_t usable_pages;  /* of them: what a put may still take */
	uint64_t pending_pages; /* free, but usable only after this transaction */
	uint64_t key_end;       /* every key there is lies below */
	int64_t frame_bytes;    /* change */
	uint64_t written_bytes;
};

int ts_lmdb_error(int rc)
{
	switch (rc) {
	case 0: return 0;
	case MDB_NOTFOUND: return TS_ENOTFOUND;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
	case ENOSPC:
	case EDQUOT: return TS_EFULL;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_BAD_VALSIZE: return TS_ECORRUPT;
	case MDB_INVALID:
	case MDB_INCOMPATIBLE: return TS_EWRONGFILE;
	case MDB_VERSION_MISMATCH: return TS_EVERSION;
	case MDB_READERS_FULL: return TS_ELIMIT;
	default: return rc > 0 ? -rc : -EIO;
	}
}

static bool is_full(int rc)
{
	return ts_lmdb_error(rc) == TS_EFULL;
}

int ts_lmdb_live_pages(struct ts_lmdb_store *lmdb, MDB_txn *txn, uint64_t *pages_out)
{
	const MDB_dbi trees[] = { FREE_DBI, lmdb->main, lmdb->frames };
	uint64_t pages = 2; /* the meta pages */
	MDB_stat stat;

	for (size_t i = 0; i < TS_ARRAY_LEN(trees); i++) {
		int rc = mdb_stat(txn, trees[i], &stat);
		if (rc)
			return rc;
		pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
	}
	*pages_out = pages;
	return 0;
}

/* Pages that the last transaction gave up: the records from its number on. */
static int count_pending(MDB_txn *txn, uint64_t *pages_out)
{
	size_t last = mdb_txn_id(txn);
	MDB_val key = { sizeof(last), &last }, value;
	MDB_cursor *cursor;

	*pages_out = 0;
	int rc = mdb_cursor_open(txn, FREE_DBI, &cursor);
	if (rc)
		return rc;
	for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE); rc == 0;
	     rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))
		*pages_out += *(const size_t *)value.mv_data;
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* What the next write transaction will find.  LMDB shows its list of free pages to readers only;
 * nobody else writes meanwhile, because write_lock is held and the folder is ours. */
static int look(struct ts_lmdb_store *lmdb)
{
	uint64_t live_before = lmdb->live_pages;
	MDB_stat frames;
	int rc = ts_mdb_renew(lmdb->look_txn);

	if (rc)
		return rc;
	rc = ts_lmdb_live_pages(lmdb, lmdb->look_txn, &lmdb->live_pages);
	if (rc == 0)
		rc = count_pending(lmdb->look_txn, &lmdb->pending_pages);
	if (rc == 0)
		rc = mdb_stat(lmdb->look_txn, lmdb->frames, &frames);
	mdb_txn_reset(lmdb->look_txn);
	if (rc)
		return rc;
	if (frames.ms_entries == 0)
		lmdb->key_end = 0;
	/* Pages written = pages given up + growth, and a meta page. */
	atomic_fetch_add(&lmdb->device_pages, lmdb->pending_pages + lmdb->live_pages -
			 live_before + 1);
	lmdb->has_looked = true;
	return 0;
}

/* Pages between what is free and what has to stay free. */
static uint64_t pages_above(uint64_t free_pages, uint64_t kept_pages)
{
	return free_pages > kept_pages ? free_pages - kept_pages : 0;
}

static int write_begin(struct ts_lmdb_store *lmdb, struct write *write)
{
	int rc = lmdb->has_looked ? 0 : look(lmdb);

	if (rc)
		return rc;
	*write = (struct write){ .lmdb = lmdb, .pending_pages = lmdb->pending_pages,
				 .key_end = lmdb->key_end };
	write->free_pages = pages_above(lmdb->map_pages, lmdb->live_pages + lmdb->pending_pages);
	write->usable_pages = pages_above(write->free_pages, lmdb->reserve_pages);
	return ts_mdb_begin(lmdb->env, 0, &write->txn);
}

static int write_commit(struct write *write)
{
	struct ts_lmdb_store *lmdb = write->lmdb;
	size_t txn_id = mdb_txn_id(write->txn);
	MDB_envinfo info;

	int rc = ts_mdb_commit(write->txn);
	if (rc)
		return rc;
	lmdb->key_end = write->key_end;
	atomic_fetch_add(&lmdb->frame_bytes, (uint64_t)write->frame_bytes);
	atomic_fetch_add(&lmdb->written_bytes, write->written_bytes);
	/* One that changed nothing doesn't count.  If the look fails, the next write looks. */
	if (mdb_env_info(lmdb->env, &info) == 0 && info.me_last_txnid == txn_id) {
		lmdb->has_looked = false;
		look(lmdb);
	}
	return 0;
}

/* A transaction that changes 16 bytes, so that what the one before gave up becomes usable. */
static int tick(struct ts_lmdb_store *lmdb)
{
	MDB_val key = { strlen(TS_LMDB_MARK_KEY), (void *)TS_LMDB_MARK_KEY }, value;
	struct ts_lmdb_mark mark;
	struct write write;

	int rc = write_begin(lmdb, &write);
	if (rc)
		return rc;
	rc = ts_mdb_get(write.txn, lmdb->main, &key, &value);
	if (rc == 0 && value.mv_size != sizeof(mark))
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(&mark, value.mv_data, sizeof(mark));
		mark.nr_ticks++;
		value = (MDB_val){ sizeof(mark), &mark };
		rc = ts_mdb_put(write.txn, lmdb->main, &key, &value, 0);
	}
	if (rc) {
		mdb_txn_abort(write.txn);
		return rc;
	}
	return write_commit(&write);
}

/* The length of what a key holds now; 0 if nothing. */
static int frame_len(struct write *write, MDB_val *key, uint64_t *len_out)
{
	MDB_val value = { 0, NULL };
	int rc = ts_mdb_get(write->txn, write->lmdb->frames, key, &value);

	*len_out = value.mv_size;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Pages that a frame can cost at most. */
static uint64_t put_pages(const struct ts_lmdb_store *lmdb, uint32_t len_bytes)
{
	uint32_t leaf_bytes = (lmdb->page_bytes - PAGE_HEAD_BYTES) / 2;

	if (NODE_HEAD_BYTES + KEY_BYTES + len_bytes <= leaf_bytes)
		return TREE_PAGES;
	return TREE_PAGES + (PAGE_HEAD_BYTES - 1 + (uint64_t)len_bytes) / lmdb->page_bytes + 1;
}

/* 0 with item->status set (stored in this transaction, or no room), or why the transaction is
 * lost. */
static int put_one(struct write *write, struct ts_put *item)
{
	uint64_t key_value = item->key, old_bytes = 0;
	uint64_t pages = put_pages(write->lmdb, item->len_bytes);
	MDB_val key = { sizeof(key_value), &key_value };
	MDB_val value = { item->len_bytes, (void *)item->data };

	item->status = TS_EFULL;
	if (pages > write->usable_pages)
		return 0;
	/* Frames get ascending keys until some are free again.  Told that it appends, LMDB fills
	 * leaf pages; else it leaves each half empty, which with two frames a page is one. */
	bool is_last = item->key >= write->key_end;
	int rc = is_last ? 0 : frame_len(write, &key, &old_bytes);
	if (rc == 0)
		rc = ts_mdb_put(write->txn, write->lmdb->frames, &key, &value,
				is_last ? MDB_APPEND : 0);
	if (rc)
		return rc;
	if (is_last)
		write->key_end = item->key + 1;
	write->usable_pages -= pages;
	write->frame_bytes += (int64_t)item->len_bytes - (int64_t)old_bytes;
	write->written_bytes += item->len_bytes;
	item->status = 0;
	return 0;
}

/* One transaction for up to nr_items; *nr_out says for how many: as many as fit TXN_BYTES_MAX, or,
 * on failure, those before the one that failed (all, if it was the commit). */
static int put_txn(struct ts_lmdb_store *lmdb, struct ts_put *items, unsigned nr_items,
		   unsigned *nr_out, bool *can_wait)
{
	struct write write;
	unsigned i = 0;

	*nr_out = 0;
	int rc = write_begin(lmdb, &write);
	if (rc)
		return rc;
	for (; i < nr_items && (i == 0 || write.written_bytes < TXN_BYTES_MAX); i++) {
		rc = put_one(&write, &items[i]);
		if (rc == 0 && items[i].status == TS_EFULL && *can_wait && write.pending_pages)
			rc = MDB_MAP_FULL; /* a tick may make room */
		if (rc) {
			mdb_txn_abort(write.txn);
			*nr_out = i;
			return rc;
		}
		/* What the items before cost was an upper bound: count, and ask again. */
		if (items[i].status == TS_EFULL && write.written_bytes > 0)
			break;
	}
	*nr_out = i;
	return write_commit(&write);
}

/* Gives the first items their status, and returns how many: at least one. */
static unsigned put_some(struct ts_lmdb_store *lmdb, struct ts_put *items, unsigned nr_items,
			 bool *can_wait)
{
	unsigned nr_try = nr_items, nr_reached;

	for (;;) {
		int rc = put_txn(lmdb, items, nr_try, &nr_reached, can_wait);
		if (rc == 0)
			return nr_reached;
		if (!is_full(rc)) {
			for (unsigned i = 0; i < nr_try; i++)
				items[i].status = ts_lmdb_error(rc);
			atomic_fetch_add(&lmdb->nr_errors, nr_try);
			return nr_try;
		}
		if (nr_reached == 0 && *can_wait) {
			/* Once a put(): a tick that brings no room now brings none later. */
			*can_wait = false;
			if (tick(lmdb) == 0)
				continue;
		}
		if (nr_reached == 0 || nr_try == 1) {
			items[0].status = TS_EFULL;
			return 1;
		}
		nr_try = nr_reached < nr_try ? nr_reached : nr_try / 2;
	}
}

int ts_lmdb_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;
	bool can_wait = true;
	unsigned done = 0;

	TS_SCOPED_LOCK(&lmdb->write_lock);
	while (done < nr_items)
		done += put_some(lmdb, items + done, nr_items - done, &can_wait);
	return 0;
}

static int del_one(struct write *write, uint64_t key_value)
{
	MDB_val key = { sizeof(key_value), &key_value };
	uint64_t old_bytes;

	int rc = frame_len(write, &key, &old_bytes);
	if (rc == 0)
		rc = ts_mdb_del(write->txn, write->lmdb->frames, &key);
	if (rc == 0)
		write->frame_bytes -= (int64_t)old_bytes;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* One transaction for the first keys: as many as there are surely pages for, but one at least. */
static int del_txn(struct ts_lmdb_store *lmdb, const uint64_t *keys, unsigned *nr_keys)
{
	struct write write;

	int rc = write_begin(lmdb, &write);
	if (rc)
		return rc;
	/* A third: what this one and the next give up is not usable for the one after. */
	uint64_t nr_safe = write.free_pages / 3 / DEL_PAGES;
	*nr_keys = (unsigned)TS_MIN(*nr_keys, TS_MAX(nr_safe, 1));
	for (unsigned i = 0; i < *nr_keys && rc == 0; i++)
		rc = del_one(&write, keys[i]);
	if (rc) {
		mdb_txn_abort(write.txn);
		return rc;
	}
	return write_commit(&write);
}

/* Nothing can be freed until a reader lets go of an old state, or one more transaction is done. */
static void del_wait(struct ts_lmdb_store *lmdb)
{
	struct timespec wait = { .tv_nsec = DEL_WAIT_US * 1000 };
	int dead;

	if (tick(lmdb) == 0)
		return;
	mdb_reader_check(lmdb->env, &dead);
	nanosleep(&wait, NULL);
}

int ts_lmdb_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	struct ts_lmdb_store *lmdb = (struct ts_lmdb_store *)store;
	unsigned done = 0, nr_waits = 0, nr_try = nr_keys;

	TS_SCOPED_LOCK(&lmdb->write_lock);
	while (done < nr_keys) {
		unsigned nr_txn = TS_MIN(nr_try, nr_keys - done);
		int rc = del_txn(lmdb, keys + done, &nr_txn);
		if (rc == 0) {
			done += nr_txn;
		} else if (is_full(rc) && nr_txn > 1) {
			nr_try = nr_txn / 2;
		} else if (is_full(rc) && nr_waits++ < DEL_WAITS_MAX) {
			del_wait(lmdb);
		} else {
			atomic_fetch_add(&lmdb->nr_errors, 1);
			return ts_fail(ts_lmdb_error(rc), "lmdb store '%s': delete: %s", lmdb->name,
				       mdb_strerror(rc));
		}
	}
	return 0;
}
