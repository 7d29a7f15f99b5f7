/* SPDX-License-Identifier: Apache-2.0
 *
 * test_adopt_rwp.c — memory of another process under read-write protection (Linux 7.3): reads are
 * seen, too, and pages leave in sync windows while the guest is at work. */
#include "vmm_rwp.h"

enum { NR = 3001, BOTH = TS_MODE_MISSING | TS_MODE_RWP | TS_MODE_RWP_ASYNC };

static void begin(struct vmm *vmm, struct guest *host, struct vmm_plan plan, bool has_table)
{
	vmm_start(vmm, &plan);
	vmm_open_engine(host, NR);
	struct ts_adopt_options options = vmm_options(vmm, BOTH);
	if (has_table)
		options.pagemap_fd = vmm_open_pagemap(vmm);
	vmm_adopt(vmm, host->engine, options);
	if (has_table)
		close(options.pagemap_fd);
}

static void end(struct vmm *vmm, struct guest *host)
{
	CHECK_EQ(ts_region_detach(vmm->region), 0);
	CHECK_EQ(vmm_ask(vmm, 'c'), 0);
	vmm_close_engine(host);
	vmm_end(vmm);
}

static void reads_are_seen_and_the_rest_leaves(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	if (!vmm_has_rwp())
		SKIP("RWP needs Linux 7.3");
	begin(&vmm, &host, vmm_rwp_plan(NR), true);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, NR);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
	CHECK_EQ(scan.nr_cold, NR);
	CHECK_EQ(vmm_evict(&host, &vmm, 1).nr_evicted, NR);
	CHECK_EQ(vmm_cached_pages(&vmm), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	end(&vmm, &host);
}

static void nothing_is_lost_under_load(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	if (!vmm_has_rwp())
		SKIP("RWP needs Linux 7.3");
	begin(&vmm, &host, vmm_rwp_plan(NR), true);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	for (unsigned round = 0; round < 30; round++) {
		CHECK_EQ(ts_region_deactivate(vmm.region), 0);
		CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
		vmm_evict(&host, &vmm, round % 2);
	}
	CHECK(vmm_stats(&host, &vmm)->nr_evicted > NR / 2);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	end(&vmm, &host);
}

/* What is missing for it is said. */
static void limits_say_what_is_missing(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan plan = vmm_rwp_plan(NR);

	if (!vmm_has_rwp())
		SKIP("RWP needs Linux 7.3");
	begin(&vmm, &host, plan, false);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE);
	CHECK(strstr(ts_region_limits(vmm.region), "pagemap") != NULL);
	end(&vmm, &host);
	plan.features &= ~(uint64_t)UFFD_FEATURE_MINOR_SHMEM;
	begin(&vmm, &host, plan, true);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE);
	CHECK(strstr(ts_region_limits(vmm.region), "MINOR_SHMEM") != NULL);
	end(&vmm, &host);
	plan.features &= ~(uint64_t)UFFD_FEATURE_RWP_ASYNC;
	begin(&vmm, &host, plan, true);
	CHECK(strstr(ts_region_limits(vmm.region), "RWP_ASYNC") != NULL);
	end(&vmm, &host);
}

CHECK_MAIN({ "reads_are_seen_and_the_rest_leaves", reads_are_seen_and_the_rest_leaves },
	   { "nothing_is_lost_under_load", nothing_is_lost_under_load },
	   { "limits_say_what_is_missing", limits_say_what_is_missing })
