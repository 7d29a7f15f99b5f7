/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.c — areas become regions when they have settled, and cease to be when they are unmapped.
 *
 * An area is attached once it is as old as a cycle's interval: before that nothing would leave, the
 * program's first touches would be slower, and what lives briefly is not worth it.
 *
 * After a fork the pages are shared with the child, and can't be moved even when the child is
 * gone, until they are written.  So an area waits until nearly all of its pages are mapped by this
 * process alone, and then has the kernel take them as written (MADV_POPULATE_WRITE changes no
 * byte): a fault for each, of which none copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	PAGE_BYTES = 4096,
	WINDOW_PAGES = 4096,
	RETRY_MS = 60000,
	SHARED_RETRY_MS = 1000,
	EXCLUSIVE_MIN_PCT = 90,
};

#define PM_PRESENT (1ull << 63)
#define PM_EXCLUSIVE (1ull << 56)

/* ---- After a fork -------------------------------------------------------------------------- */

struct share {
	uint64_t nr_present, nr_exclusive;
};

static void populate(uint64_t addr, uint64_t nr_pages)
{
	/* A failure leaves the pages as they are: they can't be moved, and stay. */
	(void)madvise((void *)(uintptr_t)addr, nr_pages * PAGE_BYTES, MADV_POPULATE_WRITE);
}

/* Counts; or makes the exclusive pages writable again. */
static int walk_shared(int fd, uint64_t start, uint64_t end, struct share *share, bool heals)
{
	static uint64_t entries[WINDOW_PAGES];  /* one agent thread */

	for (uint64_t at = start; at < end;) {
		uint64_t nr = (end - at) / PAGE_BYTES, run = 0;
		nr = nr < WINDOW_PAGES ? nr : WINDOW_PAGES;
		ssize_t got = pread(fd, entries, nr * 8, (off_t)(at / PAGE_BYTES * 8));
		if (got != (ssize_t)(nr * 8))
			return got < 0 ? -errno : -EIO;
		for (uint64_t i = 0; i <= nr; i++) {
			bool is_present = i < nr && (entries[i] & PM_PRESENT);
			bool is_exclusive = is_present && (entries[i] & PM_EXCLUSIVE);
			share->nr_present += is_present;
			share->nr_exclusive += is_exclusive;
			if (is_exclusive) {
				run++;
				continue;
			}
			if (run && heals)
				populate(at + (i - run) * PAGE_BYTES, run);
			run = 0;
		}
		at += nr * PAGE_BYTES;
	}
	return 0;
}

/* True when the area's pages are this process's own again. */
static bool heal(uint64_t start, uint64_t end)
{
	struct share share = { 0, 0 };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	int rc = walk_shared(fd, start, end, &share, false);
	bool is_ours = !rc && share.nr_exclusive * 100 >= share.nr_present * EXCLUSIVE_MIN_PCT;
	if (is_ours)
		(void)walk_shared(fd, start, end, &share, true);
	close(fd);
	return is_ours;
}

/* ---- Attach -------------------------------------------------------------------------------- */

static int memfd_of(const struct tsp_area *area)
{
	/* Our table of descriptors is our own; the program's is that of its first thread. */
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (pidfd < 0)
		return -errno;
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, area->fd, 0);
	if (fd < 0)
		fd = -errno;
	close(pidfd);
	return fd;
}

static int attach(struct tsp_session *session, struct tsp_slot *slot, const struct tsp_area *area)
{
	const struct tsp_config *config = &session->config;
	struct ts_region_options options = {
		.size = sizeof(options),
		.addr = (void *)(uintptr_t)area->start,
		.len_bytes = area->end - area->start,
		.memory = area->kind == TSP_KIND_MEMFD ? TS_MEMORY_MEMFD : TS_MEMORY_ANON,
		.memfd = -1,
		.memfd_offset = area->offset,
		.tracker = config->tracker,
		.restore = config->restore,
		.nr_shards = config->nr_shards,
		.probation_ms = config->probation_ms,
		.guard_scans = config->guard_scans,
		.collapse = (uint8_t)config->collapse,
	};
	struct ts_region *region = NULL;

	slot->id = ++session->next_id;
	slot->memory = options.memory;
	slot->addr = area->start;
	slot->len_bytes = options.len_bytes;
	slot->inode = area->inode;
	slot->offset = area->offset;
	snprintf(slot->name, sizeof(slot->name), "%s%u",
		 options.memory == TS_MEMORY_MEMFD ? "memfd" : "anon", slot->id);
	options.name = slot->name;
	if (options.memory == TS_MEMORY_ANON)
		options.memfd_offset = 0;
	else if ((options.memfd = memfd_of(area)) < 0)
		return ts_set_error(options.memfd, "its memfd can't be had");
	int rc = ts_region_attach(session->engine, &options, &region);
	if (options.memfd >= 0)
		close(options.memfd);
	if (rc)
		return rc;
	/* No lock: an eviction might hold it for long, and the program waits for the table's. */
	atomic_store(&slot->region, region);
	return 0;
}

static void report(struct tsp_session *session, const char *what, struct tsp_area *area)
{
	char line[512];
	int len = snprintf(line, sizeof(line), "%s %llx-%llx: %.300s", what,
			   (unsigned long long)area->start, (unsigned long long)area->end,
			   ts_last_error());

	if (!area->is_reported && len > 0)
		tsp_send_line(session->fds[TSP_LOG], TS_LOG_WARNING, line);
	area->is_reported = true;
}

static struct tsp_slot *free_slot(struct tsp_session *session)
{
	for (unsigned i = 0; i < TSP_REGION_MAX; i++)
		if (!session->slots[i].region)
			return &session->slots[i];
	return NULL;
}

static bool is_due(const struct tsp_session *session, const struct tsp_area *area, uint64_t now_ms)
{
	uint64_t due_ms = area->born_ms + session->config.settle_ms;

	return area->start != area->end && area->state == TSP_AREA_WATCHED &&
	       now_ms >= (area->due_ms > due_ms ? area->due_ms : due_ms);
}

/* With the table locked. */
static void try_attach(struct tsp_session *session, struct tsp_area *area, uint64_t now_ms)
{
	const struct tsp_rule *rule = &session->host->table->rule;
	uint64_t bytes = area->end - area->start;

	if (bytes < rule->bytes_min || (rule->bytes_max && bytes > rule->bytes_max))
		return;
	if (area->was_shared && area->kind == TSP_KIND_ANON && !heal(area->start, area->end)) {
		area->due_ms = now_ms + SHARED_RETRY_MS;
		return;
	}
	area->was_shared = false;
	struct tsp_slot *slot = free_slot(session);
	if (!slot)
		return;
	int rc = attach(session, slot, area);
	if (rc) {
		report(session, "not attached", area);
		area->due_ms = now_ms + RETRY_MS;
		return;
	}
	area->state = TSP_AREA_ATTACHED;
	area->region = slot->id;
}

static bool is_mapped(const struct tsp_table *table, uint32_t id)
{
	for (uint32_t i = 0; i < table->nr_used; i++) {
		const struct tsp_area *area = &table->areas[i];
		if (area->start != area->end && area->state == TSP_AREA_ATTACHED &&
		    area->region == id)
			return true;
	}
	return false;
}

static void detach_gone(struct tsp_session *session)
{
	for (unsigned i = 0; i < TSP_REGION_MAX; i++) {
		struct tsp_slot *slot = &session->slots[i];
		if (!slot->region)
			continue;
		session->host->lock();
		bool is_gone = !is_mapped(session->host->table, slot->id);
		session->host->unlock();
		if (!is_gone)
			continue;
		pthread_rwlock_wrlock(&session->regions_lock);
		struct ts_region *region = slot->region;
		slot->region = NULL;
		pthread_rwlock_unlock(&session->regions_lock);
		/* Its pages are gone; what it could report is known. */
		(void)ts_region_detach(region);
	}
}

/* Attaches the first area from @first on that is due; returns where to go on. */
static uint32_t attach_next(struct tsp_session *session, uint32_t first, uint64_t now_ms)
{
	struct tsp_table *table = session->host->table;
	uint32_t i = first;

	/* Held while it is attached, so that the area stays what it is. */
	session->host->lock();
	while (i < table->nr_used && !is_due(session, &table->areas[i], now_ms))
		i++;
	if (i < table->nr_used)
		try_attach(session, &table->areas[i], now_ms);
	session->host->unlock();
	return i + 1;
}

void tsp_watch_tick(struct tsp_session *session)
{
	const struct tsp_table *table = session->host->table;
	uint64_t now_ms = tsp_now_ms();

	detach_gone(session);
	for (uint32_t i = 0; i < table->nr_used && !*session->host->is_pausing;)
		i = attach_next(session, i, now_ms);
}

void tsp_watch_end(struct tsp_session *session)
{
	struct tsp_table *table = session->host->table;

	pthread_rwlock_wrlock(&session->regions_lock);
	for (unsigned i = 0; i < TSP_REGION_MAX; i++)
		session->slots[i].region = NULL;
	/* What can't be brought back is poisoned, and in the log. */
	ts_engine_close(session->engine);
	session->engine = NULL;
	pthread_rwlock_unlock(&session->regions_lock);
	session->host->lock();
	for (uint32_t i = 0; i < table->nr_used; i++)
		if (table->areas[i].state == TSP_AREA_ATTACHED) {
			table->areas[i].state = TSP_AREA_WATCHED;
			table->areas[i].region = 0;
		}
	session->host->unlock();
}

/* ---- Holes --------------------------------------------------------------------------------- */

/* [start, end) in the measure in which the slot begins at @base. */
static void discard(const struct tsp_slot *slot, uint64_t base, uint64_t start, uint64_t end)
{
	uint64_t lo = start > base ? start - base : 0;
	uint64_t hi = end > base ? end - base : 0;

	/* Whole pages: of a page at an edge the kernel has cleared a part, and it is resident. */
	lo = (lo + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	hi = (hi < slot->len_bytes ? hi : slot->len_bytes) / PAGE_BYTES * PAGE_BYTES;
	if (lo < hi)
		(void)ts_region_discard(slot->region, lo, hi - lo);
}

void tsp_watch_removed(struct tsp_session *session, uint64_t addr, uint64_t len_bytes)
{
	for (unsigned i = 0; i < TSP_REGION_MAX; i++) {
		const struct tsp_slot *slot = &session->slots[i];
		if (slot->region && slot->memory == TS_MEMORY_MEMFD)
			discard(slot, slot->addr, addr, addr + len_bytes);
	}
}

void tsp_watch_punched(struct tsp_session *session, uint64_t inode, uint64_t offset,
		       uint64_t len_bytes)
{
	for (unsigned i = 0; i < TSP_REGION_MAX; i++) {
		const struct tsp_slot *slot = &session->slots[i];
		if (slot->region && slot->memory == TS_MEMORY_MEMFD && slot->inode == inode)
			discard(slot, slot->offset, offset, offset + len_bytes);
	}
}
