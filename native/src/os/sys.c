/* SPDX-License-Identifier: Apache-2.0
 * sys.c — memory of our own, straight from the kernel. */
#include "os/sys.h"

#include <stdio.h>
#include <string.h>

#include "util/base.h"
#include "util/limits.h"

enum { HUGE_BYTES = 2 << 20 };

int ts_sys_boot_id(char id[TS_BOOT_ID_BYTES])
{
	memset(id, 0, TS_BOOT_ID_BYTES);
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, id, 36);
	int error = got < 0 ? errno : EIO;

	if (fd >= 0)
		close(fd);
	return got == 36 ? 0 :
	       ts_fail(-error, "/proc/sys/kernel/random/boot_id: %s", ts_strerror(-error));
}

/* Buffers and tables come from here, not from malloc: they are large, they must be page-aligned,
 * what is never touched costs nothing, and a child after fork has no business with them. */
void *ts_sys_alloc_pages(size_t len_bytes)
{
	if (TS_INJECT(TS_SITE_MMAP))
		return NULL;
	void *addr = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return addr == MAP_FAILED ? NULL : addr;
}

void *ts_sys_alloc_table(size_t len_bytes)
{
	void *addr = ts_sys_alloc_pages(len_bytes);

	/* Advice that may be refused: it saves misses of the TLB, nothing else. */
	if (addr && len_bytes >= HUGE_BYTES)
		(void)madvise(addr, len_bytes / HUGE_BYTES * HUGE_BYTES, MADV_HUGEPAGE);
	return addr;
}

void ts_sys_free_pages(void *addr, size_t len_bytes)
{
	if (addr)
		TS_ASSERT(munmap(addr, len_bytes) == 0);
}

int ts_sys_reopen(int fd)
{
	char path[40];

	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = open(path, O_RDWR | O_CLOEXEC);
	if (again < 0)
		again = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return again >= 0 ? again : -errno;
}

uint64_t ts_sys_resident_bytes(const void *addr, size_t len_bytes)
{
	unsigned char is_resident[4096];
	uint64_t nr_pages = (len_bytes + TS_PAGE_BYTES - 1) >> TS_PAGE_SHIFT, nr_resident = 0;

	for (uint64_t page = 0; page < nr_pages; page += sizeof(is_resident)) {
		uint64_t nr = TS_MIN(nr_pages - page, (uint64_t)sizeof(is_resident));
		/* Can't be asked: all of it counts. */
		if (mincore((uint8_t *)(uintptr_t)addr + (page << TS_PAGE_SHIFT),
			    nr << TS_PAGE_SHIFT, is_resident))
			memset(is_resident, 1, nr);
		for (uint64_t i = 0; i < nr; i++)
			nr_resident += is_resident[i] & 1;
	}
	return nr_resident << TS_PAGE_SHIFT;
}
