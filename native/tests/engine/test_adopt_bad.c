/* SPDX-License-Identifier: Apache-2.0
 *
 * test_adopt_bad.c — other processes that die, lie, and change their minds: each is told what is
 * wrong, and no other guest notices. */
#include <poll.h>

#include "vmm.h"

#define WP (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)
#define WP_FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

enum { NR = 2000, KILLS = 12, BOTH = TS_MODE_MISSING | TS_MODE_WP };

static const struct vmm_plan plan = {
	.kind = VMM_SHARED, .nr_pages = NR, .features = WP_FEATURES, .uffd_modes = WP,
	.flags = O_NONBLOCK,
};

static uint64_t nr_frames(struct guest *host)
{
	struct ts_stats *stats = vmm_stats(host, NULL);
	uint64_t nr = 0;

	for (unsigned t = 0; t < stats->nr_tiers; t++)
		nr += stats->tiers[t].nr_frames;
	return nr;
}

static void until_no_frames(struct guest *host)
{
	for (unsigned i = 0; i < 60000 && nr_frames(host); i++)
		usleep(1000);
	CHECK_EQ(nr_frames(host), 0);
}

struct evictor {
	struct guest *host;
	struct vmm *vmm;
	atomic_bool is_stopping;
	_Atomic unsigned nr_rounds;
	pthread_t thread;
};

static void *evict_all_the_time(void *arg)
{
	struct evictor *evictor = arg;
	struct ts_evict_options options = { .size = sizeof(options), .bytes_max = UINT64_MAX };
	struct ts_evict_result result = { .size = sizeof(result) };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	while (!atomic_load(&evictor->is_stopping)) {
		CHECK_EQ(ts_region_evict(evictor->vmm->region, &options, &result), 0);
		CHECK_EQ(ts_region_scan(evictor->vmm->region, &scan), 0);
		/* Says so when the process is gone. */
		(void)ts_region_deactivate(evictor->vmm->region);
		atomic_fetch_add(&evictor->nr_rounds, 1);
	}
	return NULL;
}

static void start(struct evictor *evictor, struct guest *host, struct vmm *vmm)
{
	*evictor = (struct evictor){ .host = host, .vmm = vmm };
	CHECK_EQ(pthread_create(&evictor->thread, NULL, evict_all_the_time, evictor), 0);
}

static void stop(struct evictor *evictor)
{
	atomic_store(&evictor->is_stopping, true);
	pthread_join(evictor->thread, NULL);
}

/* Killed at any moment of evictions and faults: its region lies there until it is dropped, its
 * frames are freed then, and the other guest never notices.  All are started before this process
 * has threads. */
static void a_process_dies(void)
{
	struct vmm victims[KILLS], survivor;
	struct guest host = { 0 };
	struct evictor other, evictor;

	vmm_start(&survivor, &plan);
	for (unsigned i = 0; i < KILLS; i++)
		vmm_start(&victims[i], &plan);
	vmm_open_engine(&host, NR * 2);
	vmm_adopt(&survivor, host.engine, vmm_options(&survivor, BOTH));
	start(&other, &host, &survivor);
	CHECK_EQ(vmm_ask(&survivor, 'w'), 0);
	for (unsigned i = 0; i < KILLS; i++) {
		struct vmm *vmm = &victims[i];
		vmm_adopt(vmm, host.engine, vmm_options(vmm, BOTH));
		CHECK_EQ(vmm_ask(vmm, 'w'), 0);
		start(&evictor, &host, vmm);
		usleep((useconds_t)(guest_mix(i) % 20000));
		vmm_kill(vmm);
		/* Goes on, in vain, and ends. */
		unsigned nr_rounds = atomic_load(&evictor.nr_rounds);
		for (unsigned n = 0; n < 60000; n++) {
			if (atomic_load(&evictor.nr_rounds) >= nr_rounds + 3)
				break;
			usleep(1000);
		}
		CHECK(atomic_load(&evictor.nr_rounds) >= nr_rounds + 3);
		stop(&evictor);
		/* Detach is drop, then: there is nobody to bring anything back to. */
		CHECK_EQ(i % 2 ? ts_region_drop(vmm->region) : ts_region_detach(vmm->region), 0);
		vmm_end(vmm);
	}
	stop(&other);
	CHECK_EQ(vmm_ask(&survivor, 's'), 0);
	CHECK_EQ(ts_region_detach(survivor.region), 0);
	CHECK_EQ(vmm_ask(&survivor, 'c'), 0);
	until_no_frames(&host);
	vmm_close_engine(&host);
	vmm_end(&survivor);
}

/* Dropped though it lives: the guest waits at its next missing page, in a dying VMM's place. */
static void a_living_process_is_dropped(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	vmm_start(&vmm, &plan);
	vmm_open_engine(&host, NR);
	vmm_adopt(&vmm, host.engine, vmm_options(&vmm, BOTH));
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	CHECK(vmm_evict(&host, &vmm, 0).nr_evicted > 0);
	CHECK_EQ(ts_region_drop(vmm.region), 0);
	until_no_frames(&host);
	vmm_kill(&vmm);
	vmm_close_engine(&host);
	vmm_end(&vmm);
}

static void refused(struct guest *host, struct ts_adopt_options options, int code, const char *text)
{
	struct ts_region *region = NULL;

	int rc = ts_region_adopt(host->engine, &options, &region);
	if (rc != code || !strstr(ts_last_error(), text))
		fprintf(stderr, "%d: \"%s\", expected %d: \"%s\"\n", rc, ts_last_error(), code,
			text);
	CHECK_EQ(rc, code);
	CHECK(strstr(ts_last_error(), text) != NULL);
	CHECK(region == NULL);
}

static void descriptors_that_are_none(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	int pair[2], bare = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	vmm_start(&vmm, &plan);
	vmm_open_engine(&host, NR);
	CHECK_EQ(pipe(pair), 0);
	struct ts_adopt_options options = vmm_options(&vmm, BOTH);
	options.uffd = 9999;
	refused(&host, options, -EBADF, "9999 is not open");
	options.uffd = pair[0];
	refused(&host, options, TS_ECONFIG, "not a userfaultfd");
	options.uffd = bare;
	refused(&host, options, TS_ECONFIG, "UFFDIO_API");
	options = vmm_options(&vmm, BOTH);
	options.pagemap_fd = pair[0];
	refused(&host, options, TS_ECONFIG, "/proc/PID/pagemap");
	options = vmm_options(&vmm, BOTH);
	vmm.hello.ranges[1].backing_fd = pair[0];
	refused(&host, options, TS_EBACKING, "is no memfd");
	vmm.hello.ranges[1].backing_fd = 9999;
	refused(&host, options, -EBADF, "9999 is no open descriptor");
	vmm.hello.ranges[1].backing_fd = -1;
	refused(&host, options, TS_ECONFIG, "all ranges have a memfd");
	int huge = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	if (huge >= 0) {
		vmm.hello.ranges[1].backing_fd = huge;
		refused(&host, options, TS_EBACKING, "huge pages");
		close(huge);
	}
	vmm_kill(&vmm);
	vmm_close_engine(&host);
	vmm_end(&vmm);
	close(pair[0]);
	close(pair[1]);
	close(bare);
}

static void ranges_that_make_no_sense(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	vmm_start(&vmm, &plan);
	vmm_open_engine(&host, NR);
	struct ts_adopt_options options = vmm_options(&vmm, BOTH), other;
	struct ts_remote_range *range = &vmm.hello.ranges[2], good = *range;

	other = options;
	other.nr_ranges = 0;
	refused(&host, other, TS_ECONFIG, "0 ranges");
	other.nr_ranges = 17;
	refused(&host, other, TS_ECONFIG, "17 ranges");
	other = options;
	other.modes = TS_MODE_WP;
	refused(&host, other, TS_ECONFIG, "missing pages");
	other.modes = 1 << 20 | 1;
	refused(&host, other, TS_ECONFIG, "modes");
	range->addr += 8;
	refused(&host, options, TS_EALIGN, "whole pages");
	*range = good;
	range->len_bytes = 0;
	refused(&host, options, TS_EALIGN, "whole pages");
	range->len_bytes = UINT64_MAX - 4095;
	refused(&host, options, TS_ECONFIG, "wraps");
	*range = good;
	range->backing_offset = UINT64_MAX - 4095;
	refused(&host, options, TS_ECONFIG, "wraps");
	range->backing_offset = (uint64_t)1 << 40;
	refused(&host, options, TS_EBACKING, "ends before");
	*range = good;
	range->addr = vmm.hello.ranges[0].addr;
	refused(&host, options, TS_EOVERLAP, "overlap");
	*range = good;
	range->addr -= (uint64_t)1 << 36;
	refused(&host, options, TS_EBACKING, "not registered");
	range->addr = UINT64_MAX - 64 * 4096 * 16 - 4095;
	range->len_bytes = 4096;
	refused(&host, options, TS_EBACKING, "can't be served");
	*range = good;
	/* Now it is right; and is not adopted twice. */
	vmm_adopt(&vmm, host.engine, options);
	refused(&host, options, TS_EREGISTERED, "adopted already");
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	/* Detached, it is registered no more. */
	refused(&host, options, TS_EBACKING, "not registered");
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_kill(&vmm);
	refused(&host, options, TS_ESTATE, "gone");
	vmm_close_engine(&host);
	vmm_end(&vmm);
}

/* Punching by a wrong offset would lose other pages than those that were stored. */
static void backing_that_is_not_what_is_mapped(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	vmm_start(&vmm, &plan);
	vmm_open_engine(&host, NR);
	struct ts_adopt_options options = vmm_options(&vmm, BOTH);
	options.pagemap_fd = vmm_open_pagemap(&vmm);
	for (unsigned i = 0; i < options.nr_ranges; i++) {
		struct ts_remote_range *range = &vmm.hello.ranges[i], good = *range;
		range->backing_offset ^= GUEST_PAGE;
		CHECK_EQ(ftruncate(range->backing_fd, (off_t)(NR * 8 * GUEST_PAGE)), 0);
		refused(&host, options, TS_EBACKING, "its process maps it from");
		*range = good;
		range->backing_fd = vmm.memfds[range->backing_fd == vmm.memfds[0]];
		CHECK_EQ(ftruncate(range->backing_fd, (off_t)(NR * 8 * GUEST_PAGE)), 0);
		refused(&host, options, TS_EBACKING, "does not map the file");
		*range = good;
	}
	/* Now it is right. */
	vmm_adopt(&vmm, host.engine, options);
	close(options.pagemap_fd);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_close_engine(&host);
	vmm_end(&vmm);
}

/* What the kernel was asked for counts: with WP_ASYNC there is no guard, whatever is claimed. */
static void a_guard_that_is_none_is_not_used(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan async = plan;

	async.features |= UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
	vmm_start(&vmm, &async);
	vmm_open_engine(&host, NR);
	vmm_adopt(&vmm, host.engine, vmm_options(&vmm, BOTH));
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE);
	CHECK(strstr(ts_region_limits(vmm.region), "WP_ASYNC") != NULL);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	/* With the process's page table its writes can be told, at least. */
	vmm_kill(&vmm);
	vmm_end(&vmm);
	vmm_close_engine(&host);
}

static void a_page_table_tells_of_writes(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan async = plan;
	struct ts_scan_result scan = { .size = sizeof(scan) };

	async.features |= UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
	vmm_start(&vmm, &async);
	vmm_open_engine(&host, NR);
	struct ts_adopt_options options = vmm_options(&vmm, BOTH | TS_MODE_WP_ASYNC);
	options.pagemap_fd = vmm_open_pagemap(&vmm);
	vmm_adopt(&vmm, host.engine, options);
	close(options.pagemap_fd);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE | TS_CAN_TRACK);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, NR / 2);
	CHECK_EQ(scan.nr_cold, NR - NR / 2);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_close_engine(&host);
	vmm_end(&vmm);
}

/* Its owner unregisters while its pages are away: nothing to put them into.  Then it is killed. */
static void a_range_is_unregistered_behind_our_back(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct evictor evictor;

	vmm_start(&vmm, &plan);
	vmm_open_engine(&host, NR);
	vmm_adopt(&vmm, host.engine, vmm_options(&vmm, BOTH));
	start(&evictor, &host, &vmm);
	while (atomic_load(&evictor.nr_rounds) < 3)
		usleep(1000);
	vmm_tell(&vmm, 'u');
	unsigned nr_rounds = atomic_load(&evictor.nr_rounds);
	while (atomic_load(&evictor.nr_rounds) < nr_rounds + 3)
		usleep(1000);
	stop(&evictor);
	CHECK_EQ(ts_region_prefetch(vmm.region, 0, NR * (uint64_t)GUEST_PAGE), 0);
	CHECK_EQ(ts_region_drop(vmm.region), 0);
	until_no_frames(&host);
	vmm_kill(&vmm);
	vmm_close_engine(&host);
	vmm_end(&vmm);
}

CHECK_MAIN({ "a_process_dies", a_process_dies },
	   { "a_living_process_is_dropped", a_living_process_is_dropped },
	   { "descriptors_that_are_none", descriptors_that_are_none },
	   { "ranges_that_make_no_sense", ranges_that_make_no_sense },
	   { "backing_that_is_not_what_is_mapped", backing_that_is_not_what_is_mapped },
	   { "a_guard_that_is_none_is_not_used", a_guard_that_is_none_is_not_used },
	   { "a_page_table_tells_of_writes", a_page_table_tells_of_writes },
	   { "a_range_is_unregistered_behind_our_back", a_range_is_unregistered_behind_our_back })
