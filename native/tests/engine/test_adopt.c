/* SPDX-License-Identifier: Apache-2.0
 *
 * test_adopt.c — memory of another process: served, tracked, evicted, added to, let go, with the
 * guest at work in that process all the while. */
#include <sys/xattr.h>

#include "vmm.h"

#define WP (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)
#define WP_FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

enum { NR = 3001, SOON_MS = 60000, BOTH = TS_MODE_MISSING | TS_MODE_WP };

static const struct vmm_plan shared_plan = {
	.kind = VMM_SHARED, .nr_pages = NR, .features = WP_FEATURES, .uffd_modes = WP,
	.flags = O_NONBLOCK,
};

static void begin(struct vmm *vmm, struct guest *host, struct vmm_plan plan, uint32_t modes)
{
	vmm_start(vmm, &plan);
	vmm_open_engine(host, NR);
	struct ts_adopt_options options = vmm_options(vmm, modes);
	options.len_max_bytes = (plan.nr_pages + plan.nr_extra_pages) * GUEST_PAGE;
	vmm_adopt(vmm, host->engine, options);
}

static void end(struct vmm *vmm, struct guest *host)
{
	if (vmm->region)
		CHECK_EQ(ts_region_detach(vmm->region), 0);
	CHECK_EQ(vmm_ask(vmm, 'c'), 0);
	vmm_close_engine(host);
	vmm_end(vmm);
}

/* A page is installed before its word and the counters say so. */
#define EXPECT_SOON(vmm, field, value)                                                   \
	do {                                                                             \
		for (unsigned i_ = 0; i_ < SOON_MS; i_++) {                              \
			if (vmm_stats(&host, vmm)->field == (value))                     \
				break;                                                   \
			usleep(1000);                                                    \
		}                                                                        \
		CHECK_EQ(vmm_stats(&host, vmm)->field, value);                           \
	} while (0)

/* Snapshot restore: anonymous, empty, missing pages and REMOVE. */
static void anonymous_memory_is_served(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	begin(&vmm, &host, (struct vmm_plan){
		.kind = VMM_ANON, .nr_pages = NR, .is_empty = true,
		.features = UFFD_FEATURE_EVENT_REMOVE,
		.uffd_modes = UFFDIO_REGISTER_MODE_MISSING, .flags = O_NONBLOCK,
	}, TS_MODE_MISSING);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE);
	CHECK(strstr(ts_region_limits(vmm.region), "memfd") != NULL);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	EXPECT_SOON(&vmm, nr_faults_zero, NR);
	CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'z'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	EXPECT_SOON(&vmm, nr_removed, NR / 2);
	EXPECT_SOON(&vmm, nr_faults_zero, NR + NR / 2);

	struct ts_evict_options evict = { .size = sizeof(evict), .bytes_max = 1 << 20 };
	struct ts_evict_result result = { .size = sizeof(result) };
	struct ts_scan_result scan = { .size = sizeof(scan) };
	CHECK_EQ(ts_region_evict(vmm.region, &evict, &result), TS_EUNSUPPORTED);
	CHECK(strstr(ts_last_error(), "anonymous") != NULL);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), TS_EUNSUPPORTED);
	CHECK_EQ(ts_region_deactivate(vmm.region), TS_EUNSUPPORTED);
	static char sample[GUEST_PAGE];
	CHECK_EQ(ts_region_sample(vmm.region, 0, sample, 1), 0);
	end(&vmm, &host);
}

static void shared_memory_leaves_and_comes_back(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	begin(&vmm, &host, shared_plan, BOTH);
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT);
	CHECK_EQ(ts_region_limits(vmm.region)[0], 0);
	EXPECT_SOON(&vmm, nr_resident, NR);
	CHECK_EQ(vmm_cached_pages(&vmm), NR);
	static char samples[4 * GUEST_PAGE];
	CHECK_EQ(ts_region_sample(vmm.region, 0, samples, 4), 4);
	for (unsigned round = 0; round < 3; round++) {
		struct ts_evict_result result = vmm_evict(&host, &vmm, 0);
		CHECK_EQ(result.nr_evicted, NR);
		CHECK_EQ(vmm_cached_pages(&vmm), 0);
		if (round == 1)
			CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
		CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
		EXPECT_SOON(&vmm, nr_resident, NR);
	}
	end(&vmm, &host);
}

/* What was written since the deactivate is young, and is not taken; the rest gets older. */
static void writes_are_seen(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	begin(&vmm, &host, shared_plan, BOTH);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
	/* The writer goes on a moment before its fault is over, and until then the page is neither
	 * scanned nor claimed. */
	EXPECT_SOON(&vmm, nr_faults_guard, NR / 2);
	EXPECT_SOON(&vmm, nr_resident, NR);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, NR / 2);
	CHECK_EQ(scan.nr_cold, NR - NR / 2);
	/* Touched between the scan and the eviction: stays. */
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, 0);
	CHECK_EQ(vmm_ask(&vmm, 'f'), 0);
	EXPECT_SOON(&vmm, nr_faults_guard, NR / 2 * 2);
	EXPECT_SOON(&vmm, nr_resident, NR);
	struct ts_evict_result result = vmm_evict(&host, &vmm, 1);
	CHECK_EQ(result.nr_evicted, NR - NR / 2);
	CHECK_EQ(result.nr_cancelled, NR / 2);
	CHECK_EQ(vmm_cached_pages(&vmm), NR / 2);
	end(&vmm, &host);
}

/* Everything at once, while the guest writes and checks. */
static void nothing_is_lost_under_load(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct ts_scan_result scan = { .size = sizeof(scan) };

	begin(&vmm, &host, shared_plan, BOTH);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	for (unsigned round = 0; round < 60; round++) {
		CHECK_EQ(ts_region_deactivate(vmm.region), 0);
		vmm_evict(&host, &vmm, round % 2);
		CHECK_EQ(ts_region_scan(vmm.region, &scan), 0);
		if (round % 16 == 7)
			CHECK_EQ(ts_region_prefetch(vmm.region, 0, NR / 2 * GUEST_PAGE), 0);
		if (round % 16 == 8)
			CHECK_EQ(vmm_ask(&vmm, 'b'), 0);
		if (round % 16 == 12)
			CHECK_EQ(vmm_ask(&vmm, 'k'), 0);
	}
	CHECK(vmm_stats(&host, &vmm)->nr_evicted > NR);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	end(&vmm, &host);
}

/* The guest runs while its region is detached, and afterwards in plain memory. */
static void detach_lets_the_guest_run_on(void)
{
	struct vmm vmm;
	struct guest host = { 0 };

	begin(&vmm, &host, shared_plan, BOTH);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(vmm_evict(&host, &vmm, 0).nr_evicted, NR);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	CHECK_EQ(ts_region_deactivate(vmm.region), 0);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	vmm.region = NULL;
	/* What was zeros is a hole, and reads as zeros. */
	CHECK(vmm_cached_pages(&vmm) >= NR - NR / 16 - 1);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	end(&vmm, &host);
}

/* Faults in memory that was registered, but not told yet, wait for ts_region_add_range(). */
static void added_memory_joins(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan plan = shared_plan;

	plan.nr_extra_pages = 517;
	begin(&vmm, &host, plan, BOTH);
	CHECK_EQ(vmm_ask(&vmm, 'g'), 0);
	vmm_tell(&vmm, 'c');
	struct ts_remote_range extra = vmm.hello.ranges[vmm.hello.nr_ranges];
	CHECK_EQ(ts_region_add_range(vmm.region, &extra), 0);
	CHECK_EQ(vmm_answer(&vmm), 0);
	EXPECT_SOON(&vmm, nr_resident, NR + 517);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	for (unsigned round = 0; round < 10; round++)
		vmm_evict(&host, &vmm, 0);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	CHECK_EQ(ts_region_add_range(vmm.region, &extra), TS_EOVERLAP);
	extra.addr += extra.len_bytes;
	CHECK_EQ(ts_region_add_range(vmm.region, &extra), TS_ELIMIT);
	end(&vmm, &host);
}

/* Memory that another engine has evicted pages of would read as zeros: it is refused, and nobody in
 * it is answered. */
static void marked_memory_does_not_join(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan plan = shared_plan;

	plan.nr_extra_pages = 517;
	begin(&vmm, &host, plan, BOTH);
	struct ts_remote_range extra = vmm.hello.ranges[vmm.hello.nr_ranges], marked = extra;
	marked.backing_fd = vmm_memfd(extra.backing_offset / GUEST_PAGE + 517);
	CHECK_EQ(fsetxattr(marked.backing_fd, "user.tierstore", "x", 1, 0), 0);
	CHECK_EQ(ts_region_add_range(vmm.region, &marked), TS_ESTATE);
	close(marked.backing_fd);
	struct ts_stats *stats = vmm_stats(&host, &vmm);
	CHECK_EQ(stats->nr_resident + stats->nr_zero, NR);
	CHECK_EQ(ts_region_add_range(vmm.region, &extra), 0);
	CHECK_EQ(vmm_ask(&vmm, 'g'), 0);
	vmm_evict(&host, &vmm, 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	end(&vmm, &host);
}

/* More memory while scans, evictions and faults go on. */
static void memory_is_added_under_load(void)
{
	struct vmm vmm;
	struct guest host = { 0 };
	struct vmm_plan plan = shared_plan;

	plan.nr_extra_pages = 4000;
	begin(&vmm, &host, plan, BOTH);
	struct ts_cycle_options cycle = { .size = sizeof(cycle), .interval_ms = 1,
					  .age_min = 1, .budget_pct = 1 };
	CHECK_EQ(ts_cycle_start(host.engine, &cycle), 0);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	CHECK_EQ(ts_region_add_range(vmm.region, &vmm.hello.ranges[vmm.hello.nr_ranges]), 0);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'g'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	for (unsigned i = 0; i < SOON_MS && vmm_stats(&host, &vmm)->nr_evicted < NR; i++)
		usleep(1000);
	CHECK(vmm_stats(&host, &vmm)->nr_evicted >= NR);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	CHECK_EQ(ts_cycle_stop(host.engine), 0);
	end(&vmm, &host);
}

CHECK_MAIN({ "anonymous_memory_is_served", anonymous_memory_is_served },
	   { "shared_memory_leaves_and_comes_back", shared_memory_leaves_and_comes_back },
	   { "writes_are_seen", writes_are_seen },
	   { "nothing_is_lost_under_load", nothing_is_lost_under_load },
	   { "detach_lets_the_guest_run_on", detach_lets_the_guest_run_on },
	   { "added_memory_joins", added_memory_joins },
	   { "marked_memory_does_not_join", marked_memory_does_not_join },
	   { "memory_is_added_under_load", memory_is_added_under_load })
