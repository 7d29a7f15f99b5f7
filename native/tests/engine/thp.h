/* SPDX-License-Identifier: Apache-2.0
 *
 * thp.h — how much of a mapping is in transparent huge pages, and all of it in them.
 */
#ifndef TS_TESTS_THP_H
#define TS_TESTS_THP_H

#include <errno.h>
#include <inttypes.h>

#include "guest.h"
#include "os/uapi.h"

/* AnonHugePages of the mapping that holds addr, in bytes. */
static inline uint64_t thp_bytes(const void *addr)
{
	uint64_t low, high, kib = 0;
	bool is_inside = false;
	char line[512];
	FILE *smaps = fopen("/proc/self/smaps", "re");

	CHECK(smaps != NULL);
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &low, &high) == 2)
			is_inside = (uintptr_t)addr >= low && (uintptr_t)addr < high;
		if (is_inside && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
			break;
	}
	fclose(smaps);
	return kib << 10;
}

/* Huge pages of what faults alone have left in small ones.  EAGAIN: somebody in the kernel holds
 * one of the pages, for a moment. */
static inline void thp_make(void *addr, size_t len_bytes)
{
	for (unsigned ms = 0; ms < 60000; ms++) {
		if (!madvise(addr, len_bytes, MADV_COLLAPSE) || errno != EAGAIN)
			return;
		usleep(1000);
	}
}

#endif
