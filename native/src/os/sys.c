/* SPDX-License-Identifier: Apache-2.0
 * sys.c — memory of our own, straight from the kernel. */
#include "os/sys.h"

#include "util/base.h"

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

void ts_sys_free_pages(void *addr, size_t len_bytes)
{
	if (addr)
		TS_ASSERT(munmap(addr, len_bytes) == 0);
}
