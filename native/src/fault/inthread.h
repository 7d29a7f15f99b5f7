/* SPDX-License-Identifier: Apache-2.0
 *
 * inthread.h — threads that answer their own faults, in a SIGBUS handler (TS_SERVE_IN_THREAD).
 *
 * No message, no other thread, no wake-up: half the price of a fault.  But the kernel only raises
 * the signal for accesses of user-mode code.  A system call on an evicted page fails with EFAULT,
 * and so does KVM_RUN; that is why it is not for guest RAM of a KVM guest.
 */
#ifndef TS_FAULT_INTHREAD_H
#define TS_FAULT_INTHREAD_H

#include "core/engine.h"

/* Makes the region known to the process-wide SIGBUS handler, which is installed with the first
 * region and chains to the handler it found.  Before the region's memory is registered; accesses
 * that fault are tried again and again until ts_inthread_ready() lets them be served. */
int ts_inthread_add(struct ts_region *region);
void ts_inthread_ready(struct ts_region *region);
/* Before the memory is unregistered: signals may still be on their way to the handler. */
void ts_inthread_fade(struct ts_region *region);
/* Returns when no thread is inside the handler for this region. */
void ts_inthread_remove(struct ts_region *region);

#endif
