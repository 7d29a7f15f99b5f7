/* SPDX-License-Identifier: Apache-2.0
 *
 * agent.h — the agent half of the shim: one session, its regions, the requests.
 *
 * Threads of a session: the agent thread (areas become regions, and cease to be), one for each
 * channel on which the controller asks, and the engine's own.  A region's slot is changed by the
 * agent thread alone; to empty it takes regions_lock for writing, which everybody else holds for
 * reading while a region is in use.
 */
#ifndef TSP_AGENT_H
#define TSP_AGENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <tierstore/tierstore.h>

#include "preload.h"
#include "wire.h"

enum { TSP_REGION_MAX = 64, TSP_TICK_MS = 200 };

struct tsp_slot {
	_Atomic(struct ts_region *) region;  /* NULL: a free slot; complete before it is set */
	uint64_t addr, len_bytes;      /* where it was attached */
	uint64_t inode, offset;        /* memfd */
	uint32_t id, memory;
	char name[32];
};

struct tsp_session {
	const struct tsp_host *host;
	struct tsp_config config;
	struct ts_engine *engine;
	pthread_rwlock_t regions_lock;
	struct tsp_slot slots[TSP_REGION_MAX];
	uint32_t next_id;
	int fds[3];                    /* by channel */
	_Atomic bool is_ending;        /* requests under way shall come to an end */
	_Atomic bool is_orphan;        /* the controller has gone */
};

uint64_t tsp_now_ms(void);

/* ---- wire.c -------------------------------------------------------------------------------- */

/* 0, or -errno; an end of file is -EPIPE. */
int tsp_send(int fd, enum tsp_type type, int rc, const void *payload, size_t len_bytes);
/* For a person.  Never waits, for the program may be waiting for the caller: a line that finds no
 * room is lost. */
void tsp_send_line(int fd, int level, const char *text);
int tsp_recv(int fd, void *data, size_t len_bytes);

/* ---- watch.c ------------------------------------------------------------------------------- */

/* Attaches what is due, detaches what is no longer mapped.  On the agent thread. */
void tsp_watch_tick(struct tsp_session *session);
/* Closes the engine: everything comes back, areas wait for the next session. */
void tsp_watch_end(struct tsp_session *session);
/* A hole was punched into [start, start + len) of memory that is shared: as addresses, or as
 * offsets of a file.  Any thread, with regions_lock held since before the punch. */
void tsp_watch_removed(struct tsp_session *session, uint64_t addr, uint64_t len_bytes);
void tsp_watch_punched(struct tsp_session *session, uint64_t inode, uint64_t offset,
		       uint64_t len_bytes);

/* ---- request.c ----------------------------------------------------------------------------- */

/* Answers on one channel until it is closed. */
void tsp_answer(struct tsp_session *session, int fd);

#endif
