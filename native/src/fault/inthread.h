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

/* Makes the region's faults known to the process-wide SIGBUS handler, which is installed with the
 * first region and chains to the handler it found. */
int ts_inthread_add(struct ts_region *region);
/* Returns when no thread is inside the handler for this region. */
void ts_inthread_remove(struct ts_region *region);

#endif
