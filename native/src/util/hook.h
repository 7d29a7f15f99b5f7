/* SPDX-License-Identifier: Apache-2.0
 *
 * hook.h — what makes races and failures repeatable in tests.
 *
 * Three kinds, all compiled to nothing unless the build sets TS_HOOKS:
 *  - TS_INJECT(site): nonzero when the test wants this call to fail; errno is set then.  Every
 *    system call wrapper (os/sys.h) and the store forwarder ask it once a call, so a test can fail
 *    the first, second, ... Nth call until a run passes untouched.
 *  - TS_PHASE(phase): a named moment at which a test may park the thread.
 *  - TS_KNOB(knob, usual): a constant that a test may set otherwise, so as not to wait for it.
 *
 * The tests reach them through the exported ts_hook_* functions, which exist in hook builds only.
 */
#ifndef TS_UTIL_HOOK_H
#define TS_UTIL_HOOK_H

#ifndef TS_CDEF
#include <stdbool.h>
#include <stdint.h>
#include <tierstore/tierstore.h>

#include "util/base.h"
#endif

enum ts_site {
	TS_SITE_MMAP, TS_SITE_MADVISE, TS_SITE_FALLOCATE, TS_SITE_PREAD, TS_SITE_OPEN,
	TS_SITE_IOCTL_API, TS_SITE_IOCTL_REGISTER, TS_SITE_IOCTL_COPY, TS_SITE_IOCTL_ZEROPAGE,
	TS_SITE_IOCTL_MOVE, TS_SITE_IOCTL_WP, TS_SITE_IOCTL_WAKE, TS_SITE_IOCTL_POISON,
	TS_SITE_IOCTL_SCAN, TS_SITE_UFFD_READ, TS_SITE_THREAD,
	TS_SITE_URING_SUBMIT, TS_SITE_URING_RESULT, TS_SITE_LMDB,
	TS_SITE_STORE_PUT, TS_SITE_STORE_GET, TS_SITE_STORE_DEL, TS_SITE_ALLOC,
	TS_SITE_IOCTL_CONTINUE, TS_SITE_IOCTL_MODE, TS_SITE_PWRITE,
	TS_SITE_COUNT
};

enum ts_phase {
	TS_PHASE_CLAIMED,      /* evictor: pages are LEAVING, still in the guest */
	TS_PHASE_TAKEN,        /* evictor: pages taken (anon) or guarded (memfd) */
	TS_PHASE_PUT,          /* evictor: the store has acknowledged, nothing published yet */
	TS_PHASE_PUBLISHED,    /* evictor: pages are AWAY, RAM not yet released */
	TS_PHASE_RELEASED,     /* evictor: RAM released, waiters not yet woken */
	TS_PHASE_FAULT_CLAIMED,/* handler: page is COMING */
	TS_PHASE_FAULT_GOT,    /* handler: frame read and decoded, page not yet installed */
	TS_PHASE_INSTALLED,    /* handler: page installed, its word still says COMING */
	TS_PHASE_EVENT_READ,   /* handler: an event was read, words not yet changed */
	TS_PHASE_DETACH,       /* detach: draining has begun */
	TS_PHASE_DEMOTE,       /* keeper: the new frame is stored, nothing published yet */
	TS_PHASE_WINDOW,       /* evictor: sync mode, last look done, not yet punched */
	TS_PHASE_ADDRESS,      /* evictor: it knows where pages are, and has not moved them */
	TS_PHASE_SHORTAGE,     /* fault: the store was short of something; it will be asked again */
	TS_PHASE_COUNT
};

enum ts_knob {
	TS_KNOB_TIER_RETRY_MS,    /* a failed tier is tried again after this long */
	TS_KNOB_FAULT_THREADS,    /* so many fault threads wait, busy or not */
	TS_KNOB_WAKE_UP_NS,       /* what waking another thread takes (fault/walk.c) */
	TS_KNOB_COUNT
};

#ifdef TS_HOOKS
/* Fail the nth call (1-based) from now on that hits a site in site_mask, with `error` (an errno);
 * nth == 0 turns injection off.  sticky: all later ones fail, too. */
TS_API void ts_hook_inject(uint64_t site_mask, uint64_t nth, int error, int sticky);
/* Calls that hit the mask since ts_hook_inject(), and how many of them were failed. */
TS_API uint64_t ts_hook_inject_count(uint64_t *failed_out);
/* Park the next thread that reaches `phase` until ts_hook_release(phase). */
TS_API void ts_hook_park(int phase);
/* Wait until a thread is parked there; 0, or -ETIMEDOUT. */
TS_API int ts_hook_wait(int phase, int timeout_ms);
TS_API void ts_hook_release(int phase);
/* 0: the usual value again. */
TS_API void ts_hook_set_knob(int knob, uint64_t value);

#ifndef TS_CDEF
int ts_hook_inject_(enum ts_site site);
void ts_hook_phase_(enum ts_phase phase);
uint64_t ts_hook_knob_(enum ts_knob knob, uint64_t usual);
#endif
#define TS_INJECT(site) TS_UNLIKELY(ts_hook_inject_(site))
#define TS_PHASE(phase) ts_hook_phase_(phase)
#define TS_KNOB(knob, usual) ts_hook_knob_(knob, usual)
#else
#define TS_INJECT(site) 0
#define TS_PHASE(phase) ((void)0)
#define TS_KNOB(knob, usual) ((uint64_t)(usual))
#endif
#endif
