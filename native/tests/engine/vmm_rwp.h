/* SPDX-License-Identifier: Apache-2.0
 *
 * vmm_rwp.h — a VMM that registers its memory for read-write protection (Linux 7.3). */
#ifndef TS_TESTS_VMM_RWP_H
#define TS_TESTS_VMM_RWP_H

#include "vmm.h"

static inline bool vmm_has_rwp(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	return probe.has_rwp_shmem;
}

static inline struct vmm_plan vmm_rwp_plan(unsigned nr_pages)
{
	return (struct vmm_plan){
		.kind = VMM_SHARED, .nr_pages = nr_pages, .flags = O_NONBLOCK,
		.features = UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC |
			    UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
		.uffd_modes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_RWP,
	};
}

#endif
