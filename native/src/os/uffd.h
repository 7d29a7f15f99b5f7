/* SPDX-License-Identifier: Apache-2.0
 *
 * uffd.h — userfaultfd's ioctls with named outcomes instead of errnos.
 *
 * Some facts about userfaultfd, and what they mean for us
 *  - COPY, ZEROPAGE and MOVE answer twice: the return value, and a signed field with the bytes done
 *  or
 *    -errno.  The field is authoritative; one classifier reads it (classify()).
 *  - EAGAIN means: an event (remove, unmap, remap, fork) is queued and unread.  Whoever meets it
 *    lets the event be read, then tries again.  Waiting in place for it would be waiting for
 *    oneself when the reader is this very thread.
 *  - EEXIST means: the page is there already.  That is an answer, not an error.
 *  - Nothing here wakes anybody but COPY, CONTINUE, ZEROPAGE, POISON, WRITEPROTECT(clear),
 *    RWPROTECT(clear), SET_MODE(async) and WAKE.
 */
#ifndef TS_OS_UFFD_H
#define TS_OS_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What became of one call on [addr, addr + len). */
enum ts_uffd_outcome {
	TS_UFFD_DONE,	 /* all of it */
	TS_UFFD_PRESENT, /* stopped at a page that is there already (MOVE: at the destination) */
	TS_UFFD_ABSENT,	 /* MOVE stopped at a hole in the source */
	TS_UFFD_RETRY,	 /* stopped: an event is queued, or the kernel raced; try again later */
	TS_UFFD_BUSY,	/* MOVE stopped at a page that can't be moved (pinned, shared after fork) */
	TS_UFFD_GONE,	/* nothing registered there any more, or the process is gone */
	TS_UFFD_FAILED, /* anything else; .error says what */
};

struct ts_uffd_result {
	enum ts_uffd_outcome outcome;
	uint64_t done_bytes; /* how far it got before it stopped */
	int error;           /* -errno, for messages */
};

/* Opens a userfaultfd (non-blocking, close-on-exec) with exactly `features`.  /dev/userfaultfd
 * first: it asks for file permissions only.  Returns the fd; TS_EPERMISSION, TS_EUNSUPPORTED with
 * ts_last_error() set. */
int ts_uffd_open(uint64_t features);

/* 0, or -errno (EBUSY: another uffd is there). */
int ts_uffd_register(int uffd, uint64_t addr, uint64_t len_bytes, uint64_t modes);
int ts_uffd_unregister(int uffd, uint64_t addr, uint64_t len_bytes);

struct ts_uffd_result ts_uffd_copy(int uffd, uint64_t dst, const void *src, uint64_t len_bytes);
/* One page of zeros, or of poison; a huge one's length is its own. */
struct ts_uffd_result ts_uffd_zeropage(int uffd, uint64_t dst);
struct ts_uffd_result ts_uffd_poison(int uffd, uint64_t dst, uint64_t len_bytes);
/* Does not wake waiters on src. */
struct ts_uffd_result ts_uffd_move(int uffd, uint64_t dst, uint64_t src, uint64_t len_bytes);

/* Write-protects, or un-protects and wakes.  0, -EAGAIN (event queued), or -errno. */
int ts_uffd_protect(int uffd, uint64_t addr, uint64_t len_bytes, bool on);

/* Is an event queued and unread?  Until it is read, addresses may be out of date. */
bool ts_uffd_is_changing(int uffd);

/* The same for reads and writes (Linux 7.3), in a range registered with MODE_RWP.  Holes get no
 * protection.  0, -EAGAIN (event queued), -ENOENT (a part is not registered; nothing was done). */
int ts_uffd_rwprotect(int uffd, uint64_t addr, uint64_t len_bytes, bool on);

/* Maps pages that are in the page cache and not in the page table (MODE_MINOR), and wakes.
 * PRESENT: mapped already; ABSENT: not in the page cache. */
struct ts_uffd_result ts_uffd_continue(int uffd, uint64_t dst, uint64_t len_bytes);

/* What an access to a page protected by RWPROTECT does, in all of this userfaultfd's ranges: it
 * waits for an answer (sync), or gets its rights back without a message (async; wakes everybody who
 * waits at this userfaultfd).  When it returns, no access is under way by the old rule.  0 or
 * -errno. */
int ts_uffd_set_sync(int uffd, bool is_sync);

/* Wakes all waiters in the range; works on ranges that are registered no more.  0 or -errno. */
int ts_uffd_wake(int uffd, uint64_t addr, uint64_t len_bytes);

#endif
