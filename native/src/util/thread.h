/* SPDX-License-Identifier: Apache-2.0
 * thread.h — threads of our own, in a process that is somebody else's. */
#ifndef TS_UTIL_THREAD_H
#define TS_UTIL_THREAD_H

#include <pthread.h>

/* Starts a thread that takes none of the process's signals (the host's handlers have no business on
 * it), under a name of which the kernel keeps 15 characters.  0, or -errno with ts_last_error()
 * set. */
int ts_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg);

/* Confines the calling thread to a CPU.  One that is not ours any more is no error: the scheduler's
 * choice is right, too, only slower. */
void ts_thread_pin(int cpu);

/* A condition whose timed waits count in CLOCK_MONOTONIC. */
void ts_cond_init(pthread_cond_t *cond);

#endif
