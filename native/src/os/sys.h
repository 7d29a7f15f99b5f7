/* SPDX-License-Identifier: Apache-2.0
 *
 * sys.h — the system calls this library makes, each asking the failure injector first (hook.h).
 *
 * They return what the kernel returned, or -errno; never -1.  Nothing else in the library calls
 * these system calls directly, so "fail the Nth call" reaches all of them.
 */
#ifndef TS_OS_SYS_H
#define TS_OS_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os/uapi.h"
#include "util/hook.h"

/* 0 or -errno. */
static inline int ts_sys_ioctl(enum ts_site site, int fd, unsigned long request, void *arg)
{
	if (TS_INJECT(site))
		return -errno;
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static inline int ts_sys_madvise(void *addr, size_t len_bytes, int advice)
{
	if (TS_INJECT(TS_SITE_MADVISE))
		return -errno;
	return madvise(addr, len_bytes, advice) < 0 ? -errno : 0;
}

static inline int ts_sys_fallocate(int fd, int mode, off_t off_bytes, off_t len_bytes)
{
	if (TS_INJECT(TS_SITE_FALLOCATE))
		return -errno;
	return fallocate(fd, mode, off_bytes, len_bytes) < 0 ? -errno : 0;
}

/* Reads exactly len_bytes, or fails; -EIO for a file that ends before. */
static inline int ts_sys_pread_all(int fd, void *buf, size_t len_bytes, off_t off_bytes)
{
	while (len_bytes > 0) {
		if (TS_INJECT(TS_SITE_PREAD))
			return -errno;
		ssize_t got = pread(fd, buf, len_bytes, off_bytes);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		buf = (char *)buf + got;
		len_bytes -= (size_t)got;
		off_bytes += got;
	}
	return 0;
}

/* Writes exactly len_bytes, or fails. */
static inline int ts_sys_pwrite_all(int fd, const void *buf, size_t len_bytes, off_t off_bytes)
{
	while (len_bytes > 0) {
		if (TS_INJECT(TS_SITE_PWRITE))
			return -errno;
		ssize_t put = pwrite(fd, buf, len_bytes, off_bytes);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		buf = (const char *)buf + put;
		len_bytes -= (size_t)put;
		off_bytes += put;
	}
	return 0;
}

/* A descriptor for the same memfd with a file position of its own; a duplicate where that can't be
 * had.  -errno. */
int ts_sys_reopen(int fd);

/* Names this boot of the host: 36 characters and a zero.  What a shared map holds counts for as
 * long as it is the same. */
enum { TS_BOOT_ID_BYTES = 40 };
int ts_sys_boot_id(char id[TS_BOOT_ID_BYTES]);

/* Anonymous, private, zeroed, not inherited by children; NULL on failure (errno set). */
void *ts_sys_alloc_pages(size_t len_bytes);
/* The same, in huge pages where the kernel likes: for what is used from end to end. */
void *ts_sys_alloc_table(size_t len_bytes);
/* Accepts NULL. */
void ts_sys_free_pages(void *addr, size_t len_bytes);
/* How much of such pages is in RAM: what was never written, or dropped, is not. */
uint64_t ts_sys_resident_bytes(const void *addr, size_t len_bytes);


#endif
