/* SPDX-License-Identifier: Apache-2.0
 *
 * test_resume_rwp.c — a VMM's memory under read-write protection (Linux 7.3), and the process that
 * serves it dies: before its window nothing stops the guest's writes, in it everybody waits. */
#include "resume.h"
#include "vmm_rwp.h"

enum { VM_PAGES = 1501, DEATHS = 4, DYING_PAGES = 200, WAIT_MS = 60000 };

static struct vmm vmm;

static void take_over(struct guest *host)
{
	struct ts_adopt_options options =
		vmm_options(&vmm, TS_MODE_MISSING | TS_MODE_RWP | TS_MODE_RWP_ASYNC);

	options.name = "vm";
	options.is_persistent = 1;
	memset(options.identity, 7, sizeof(options.identity));
	options.pagemap_fd = vmm_open_pagemap(&vmm);
	resume_open(host, 0);
	vmm_adopt(&vmm, host->engine, options);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT);
	host->region = vmm.region;
}

/* Until it is killed: at first there may be nothing in RAM. */
static void *evict_on(void *arg)
{
	struct guest *host = arg;

	for (;;)
		guest_evict(host, DYING_PAGES * GUEST_PAGE, 0, true);
	return NULL;
}

static void die_at(struct guest *host, int phase)
{
	pthread_t thread;

	take_over(host);
	ts_hook_park(phase);
	CHECK_EQ(pthread_create(&thread, NULL, evict_on, host), 0);
	CHECK_EQ(ts_hook_wait(phase, WAIT_MS), 0);
	resume_die();
}

static void go_on(struct guest *host, int is_last)
{
	take_over(host);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	CHECK(vmm_evict(host, &vmm, 0).nr_evicted > 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_evict(host, &vmm, 0);
	if (!is_last)
		resume_die();
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	ts_engine_close(host->engine);
}

static void check_and_leave(struct guest *host, int arg)
{
	(void)arg;
	take_over(host);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	ts_engine_close(host->engine);
}

/* Stored and published, not yet in a window: the guest writes to it as it likes. */
static void test_written_after_the_death(void)
{
	struct vmm_plan plan = vmm_rwp_plan(VM_PAGES);
	struct guest host;

	if (!vmm_has_rwp())
		SKIP("RWP needs Linux 7.3");
	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES);
	CHECK_EQ(resume_host_child(&host, die_at, TS_PHASE_PUBLISHED), SIGKILL);
	CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
	CHECK_EQ(resume_host_child(&host, check_and_leave, 0), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

static void test_each_moment(void)
{
	static const int phases[DEATHS] = {
		TS_PHASE_TAKEN, TS_PHASE_PUBLISHED, TS_PHASE_WINDOW, TS_PHASE_RELEASED,
	};
	struct vmm_plan plan = vmm_rwp_plan(VM_PAGES);
	struct guest host;

	if (!vmm_has_rwp())
		SKIP("RWP needs Linux 7.3");
	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES);
	for (unsigned i = 0; i < DEATHS; i++) {
		CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
		CHECK_EQ(resume_host_child(&host, die_at, phases[i]), SIGKILL);
		CHECK_EQ(resume_host_child(&host, go_on, i == DEATHS - 1),
			 i == DEATHS - 1 ? 0 : SIGKILL);
	}
	/* Nobody serves any more: all of it is the VMM's own. */
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

CHECK_MAIN({ "written_after_the_death", test_written_after_the_death },
	   { "each_moment", test_each_moment })
