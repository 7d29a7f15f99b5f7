/* SPDX-License-Identifier: Apache-2.0
 * base.h — the few things every file uses: assertions, scoped locks, time, errors. */
#ifndef TS_UTIL_BASE_H
#define TS_UTIL_BASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <tierstore/tierstore.h>

#define TS_LIKELY(x) __builtin_expect(!!(x), 1)
#define TS_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define TS_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define TS_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TS_MAX(a, b) ((a) > (b) ? (a) : (b))
#define TS_CONTAINER(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* For programmer errors only; always on, in release builds too: a pager that has lost track of
 * a page must stop before it writes. */
#define TS_ASSERT(cond) \
	((void)(TS_LIKELY(cond) || (ts_assert_failed(#cond, __FILE__, __LINE__), 0)))
_Noreturn void ts_assert_failed(const char *cond, const char *file, int line);

/* TS_SCOPED_LOCK(&m): held until the end of the enclosing block. */
static inline void ts_scoped_unlock(pthread_mutex_t **mutex)
{
	pthread_mutex_unlock(*mutex);
}
#define TS_CONCAT_(a, b) a##b
#define TS_CONCAT(a, b) TS_CONCAT_(a, b)
#define TS_SCOPED_LOCK(mutex) \
	__attribute__((cleanup(ts_scoped_unlock), unused)) pthread_mutex_t *TS_CONCAT( \
		scoped_lock_, __LINE__) = (pthread_mutex_lock(mutex), (mutex))

/* CLOCK_MONOTONIC in nanoseconds.  A type of its own so that it is not mixed with wall time. */
typedef uint64_t ts_mono_ns;
static inline ts_mono_ns ts_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (ts_mono_ns)now.tv_sec * 1000000000u + (ts_mono_ns)now.tv_nsec;
}

/* Tells the CPU that this is a spin loop. */
static inline void ts_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

/* Sets ts_last_error() and returns @error, so that `return ts_fail(TS_EFULL, "...")` reads well.
 * Never on the fault path.  "%m" prints errno as usual. */
int ts_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
