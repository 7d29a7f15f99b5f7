/* SPDX-License-Identifier: Apache-2.0
 *
 * preload.h — the two halves of the shim, and what they may do to each other.
 *
 * The host half is libtierstore-preload.so: small, in the program's own namespace, interposes what
 * maps memory and what forks.  The agent half (libtierstore-agent.so: the engine) is loaded
 * by dlmopen() into a namespace of its own, with a C library and a malloc of its own.  Why: the
 * program's heap may be the very memory that is moved out.  If the engine's own data lay there, the
 * thread that answers faults would wait for itself.  So nothing the agent touches while it answers
 * may come from the program's malloc:
 *  - the agent is linked -z now, and loaded RTLD_NOW: no lazy binding, which reads the dynamic
 *    linker's tables, which the program's malloc holds;
 *  - its thread-local data is in the static block (initial-exec), for the same reason;
 *  - no thread is started while a region is attached: that callocs in the program's heap.
 * The agent thread itself is started with the program's pthread_create: then its C library knows
 * that it is not alone.
 */
#ifndef TSP_PRELOAD_H
#define TSP_PRELOAD_H

#include <stdint.h>

#include "areas.h"

/* What the host half offers; lives as long as the process. */
struct tsp_host {
	const char *socket_path;
	struct tsp_table *table;
	_Atomic uint32_t *wake;        /* a futex; changes when there is news */
	_Atomic uint32_t *is_pausing;  /* a fork waits: end the session */
	void (*lock)(void);            /* of the table */
	void (*unlock)(void);
	void (*guard_forks)(void);     /* also those that the C library does by itself */
};

struct tsp_agent {
	/* From the connection to the controller until a fork wants it to end (0), or for good (< 0,
	 * a line for a person in why).  On the agent thread. */
	int (*session)(const struct tsp_host *host, char *why, unsigned why_len);
	/* Around a punch of the program's, on its thread: the session does not end meanwhile, which
	 * would bring back what is being punched out.  After the punch, one of the two below. */
	void (*punch_begin)(void);
	void (*punch_end)(void);
	void (*punched)(uint64_t inode, uint64_t offset, uint64_t len_bytes);
	void (*removed)(uint64_t addr, uint64_t len_bytes);
	/* In a child: locks that threads of the parent hold are free again. */
	void (*child)(void);
};

/* ---- host.c, for hooks.c ------------------------------------------------------------------ */

/* There is an area that the rule wants. */
void tsp_host_want(void);
/* NULL until an engine was loaded. */
const struct tsp_agent *tsp_host_agent(void);
/* This thread is in a fork() of ours, which does the three below itself. */
extern _Thread_local bool tsp_is_forking;
/* From prepare until one of the other two has returned, no signal handler runs in this thread. */
void tsp_fork_prepare(void);
void tsp_fork_parent(bool has_child);
void tsp_fork_child(void);

#endif
