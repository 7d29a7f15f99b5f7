/* SPDX-License-Identifier: Apache-2.0
 *
 * handoff.h — the double's side of both hand-over protocols, spoken as the real VMMs do, and
 * wrongly in every way that a manager must survive.
 *
 * firecracker       one bare JSON array of regions and the userfaultfd; no answer, ever.
 * cloud-hypervisor  frames (u32 little-endian length, JSON); the userfaultfd with the first one;
 *                   one byte in answer within two seconds; "add_region" later.
 */
#ifndef TS_TESTS_VMM_HANDOFF_H
#define TS_TESTS_VMM_HANDOFF_H

#include "ram.h"

enum handoff_protocol { HANDOFF_FIRECRACKER, HANDOFF_CLOUD_HYPERVISOR };

enum handoff_result {
	HANDOFF_READY,    /* answered (firecracker: sent) */
	HANDOFF_TIMEOUT,  /* no answer in two seconds */
	HANDOFF_CLOSED,   /* the manager closed the connection */
	HANDOFF_REFUSED,  /* nobody listens; or resume while the old connection is open */
};

struct handoff {
	enum handoff_protocol protocol;
	const char *path;
	const char *mode;        /* registration and features, "MISSING|WP|WP_ASYNC" */
	const char *wrong;       /* what to do wrong (wrong.h), or "" */
	const char *vanish;      /* "connect", "message", "handoff", "ready": _exit there; or "" */
	unsigned page_size_fields; /* firecracker: 2 page_size and page_size_kib, 1 the latter, 0 */
	unsigned byte_delay_ms;  /* not 0: byte by byte */
	unsigned patience_ms;    /* for an answer */
	bool is_fd_late;         /* the descriptors come with the second part of the message */
	bool has_memfds;         /* the ranges' memfds as further descriptors */
	bool has_no_remove;      /* firecracker: without EVENT_REMOVE */
	int uffd, socket;
	uint64_t received_bytes; /* what the manager said when it should have been silent */
};

/* Opens the userfaultfd and registers every range: before the connection is made.  They end the
 * program when the kernel can't. */
void handoff_open_uffd(struct handoff *handoff, const struct ram *ram);
void handoff_register(const struct handoff *handoff, const struct ram_range *range);

/* Connects and hands over; also again, with the same userfaultfd, to the next manager. */
enum handoff_result handoff_connect(struct handoff *handoff, const struct ram *ram);
/* Tells of one more range (cloud-hypervisor). */
enum handoff_result handoff_add_region(struct handoff *handoff, const struct ram_range *range);
/* Sends text as one frame (firecracker: as it is), and waits for the answer. */
enum handoff_result handoff_send_text(struct handoff *handoff, const char *text);
void handoff_disconnect(struct handoff *handoff);
/* Whether the manager holds its end; reads and counts what it sent. */
bool handoff_is_open(struct handoff *handoff);

const char *handoff_result_name(enum handoff_result result);

#endif
