/* SPDX-License-Identifier: Apache-2.0
 * threaded.h — bounds of the threads that blocking stores are given. */
#ifndef TS_STORE_THREADED_H
#define TS_STORE_THREADED_H

enum {
	/* More threads than this wait for the same device, or for the same interpreter lock. */
	TS_STORE_THREAD_MAX = 16,
};

#endif
