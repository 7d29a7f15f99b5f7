/* SPDX-License-Identifier: Apache-2.0
 *
 * count_allocations.h — for a program's one file: the C library's allocations are counted, those of
 * all threads and of the libraries under test.  Not with a sanitizer, which replaces malloc itself.
 */
#ifndef TS_TESTS_COUNT_ALLOCATIONS_H
#define TS_TESTS_COUNT_ALLOCATIONS_H

#include <stdatomic.h>
#include <stddef.h>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t len);
extern void *__libc_calloc(size_t nr, size_t len);
extern void *__libc_realloc(void *old, size_t len);
extern void *__libc_memalign(size_t align, size_t len);
__attribute__((visibility("default"))) void *malloc(size_t len);
__attribute__((visibility("default"))) void *calloc(size_t nr, size_t len);
__attribute__((visibility("default"))) void *realloc(void *old, size_t len);
void *aligned_alloc(size_t align, size_t len);

static atomic_ulong nr_allocations;

void *malloc(size_t len)
{
	nr_allocations++;
	return __libc_malloc(len);
}

void *calloc(size_t nr, size_t len)
{
	nr_allocations++;
	return __libc_calloc(nr, len);
}

void *realloc(void *old, size_t len)
{
	nr_allocations++;
	return __libc_realloc(old, len);
}

void *aligned_alloc(size_t align, size_t len)
{
	nr_allocations++;
	return __libc_memalign(align, len);
}
#endif

#endif
