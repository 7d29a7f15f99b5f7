/* SPDX-License-Identifier: Apache-2.0
 *
 * sized.h — structs that cross the library's border, between a caller and a library which were
 * compiled against different versions of a header.
 *
 * Each starts with its size as the caller knows it, and grows at its end alone.  What only one side
 * knows is zero for the other: members that the caller lacks mean their default, and a member that
 * this library lacks reads as zero to the caller.  Nothing is read or written beyond the caller's
 * size.
 */
#ifndef TS_UTIL_SIZED_H
#define TS_UTIL_SIZED_H

#include <string.h>

#include "util/base.h"

/* No struct of any version is larger: a larger size was never set. */
enum { TS_SIZED_MAX = 1 << 20 };

/* 0, or TS_EVERSION: the size can't be that of any version. */
static inline int ts_sized_check(size_t size, const char *what)
{
	return size >= sizeof(size) && size <= TS_SIZED_MAX ? 0 :
	       ts_fail(TS_EVERSION, "%s.size is %zu: set it to sizeof the struct", what, size);
}

/* The caller's struct as this library knows it.  src == NULL: all defaults. */
static inline int ts_sized_in(void *dst, size_t dst_size, const void *src, const char *what)
{
	size_t size = 0;

	memset(dst, 0, dst_size);
	if (!src)
		return 0;
	memcpy(&size, src, sizeof(size));
	int rc = ts_sized_check(size, what);
	if (!rc)
		memcpy(dst, src, TS_MIN(size, dst_size));
	return rc;
}

/* A result of this library's into the caller's struct, whose size was checked.  The size stays. */
static inline void ts_sized_out(void *dst, const void *src, size_t src_size)
{
	size_t size;

	memcpy(&size, dst, sizeof(size));
	memset(dst, 0, size);
	memcpy(dst, src, TS_MIN(size, src_size));
	memcpy(dst, &size, sizeof(size));
}

#endif
