/* SPDX-License-Identifier: Apache-2.0
 * test_resume_vmm.c — a VMM's guest works all the time while the process that serves its memory is
 * killed again and again; each next one takes over, no page is wrong, and nobody is left asleep. */
#include "resume.h"
#include "vmm.h"

enum { VM_PAGES = 6000, VM_EXTRA = 600, DEATHS = 8, WAIT_MS = 60000 };

static struct vmm vmm;
/* Shared with the children: evictions done. */
static _Atomic uint64_t *nr_rounds;

static struct ts_adopt_options persistent(void)
{
	struct ts_adopt_options options = vmm_options(&vmm, TS_MODE_MISSING | TS_MODE_WP);

	options.name = "vm";
	options.is_persistent = 1;
	options.len_max_bytes = (VM_PAGES + VM_EXTRA) * GUEST_PAGE;
	memset(options.identity, 7, sizeof(options.identity));
	return options;
}

static void take_over(struct guest *host)
{
	resume_open(host, 200);
	vmm_adopt(&vmm, host->engine, persistent());
	CHECK_EQ(ts_region_abilities(vmm.region), TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT);
}

/* A manager: evicts what it can until it is killed. */
static void manage(struct guest *host, int arg)
{
	(void)arg;
	take_over(host);
	for (;;) {
		vmm_evict(host, &vmm, 0);
		atomic_fetch_add(nr_rounds, 1);
	}
}

static void kill_manager(struct guest *host, uint64_t random)
{
	uint64_t until = atomic_load(nr_rounds) + 1 + random % 4;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		manage(host, 0);
		_exit(2);
	}
	for (unsigned ms = 0; atomic_load(nr_rounds) < until; ms++) {
		CHECK_EQ(waitpid(child, NULL, WNOHANG), 0);
		CHECK(ms < WAIT_MS);
		usleep(1000);
	}
	usleep((useconds_t)(random >> 8) % 30000);
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, NULL, 0), child);
}

/* The last one: looks at everything, gives everything back. */
static void graduate(struct guest *host, int arg)
{
	(void)arg;
	take_over(host);
	CHECK_EQ(vmm_ask(&vmm, 's'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_evict(host, &vmm, 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	struct ts_stats *stats = vmm_stats(host, &vmm);
	for (unsigned i = 0; i < TS_FAIL_COUNT; i++)
		CHECK_EQ(stats->failures[i], 0);
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	ts_engine_close(host->engine);
}

static const struct vmm_plan plan = {
	.kind = VMM_SHARED, .nr_pages = VM_PAGES, .nr_extra_pages = VM_EXTRA,
	.uffd_modes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		    UFFD_FEATURE_MISSING_SHMEM,
	.flags = O_NONBLOCK,
};

static void test_killed_again_and_again(void)
{
	const char *deaths = getenv("TIERSTORE_TEST_DEATHS");
	unsigned long nr_deaths = deaths ? strtoul(deaths, NULL, 10) : DEATHS;
	struct guest host;
	uint64_t random = 42;

	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES);
	CHECK_EQ(vmm_ask(&vmm, 'w'), 0);
	for (unsigned long i = 0; i < nr_deaths; i++) {
		random = guest_mix(random + i);
		kill_manager(&host, random);
	}
	CHECK_EQ(resume_host_child(&host, graduate, 0), 0);
	/* Nobody serves any more: all of it is the VMM's own. */
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

/* ---- Ranges, orders, ends ---------------------------------------------------------------- */

static void add_and_die(struct guest *host, int arg)
{
	(void)arg;
	take_over(host);
	CHECK_EQ(ts_region_add_range(vmm.region, &vmm.hello.ranges[vmm.hello.nr_ranges]), 0);
	CHECK_EQ(vmm_ask(&vmm, 'g'), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_evict(host, &vmm, 0);
	resume_die();
}

/* An orderly end leaves the VM to the next one as a death does. */
static void close_in_order(struct guest *host, int arg)
{
	(void)arg;
	take_over(host);
	vmm_evict(host, &vmm, 0);
	ts_engine_close(host->engine);
}

/* The added range is told with the others, and all in another order. */
static void reverse_ranges(void)
{
	unsigned nr = ++vmm.hello.nr_ranges;

	for (unsigned i = 0; i < nr / 2; i++) {
		struct ts_remote_range range = vmm.hello.ranges[i];
		vmm.hello.ranges[i] = vmm.hello.ranges[nr - 1 - i];
		vmm.hello.ranges[nr - 1 - i] = range;
	}
}

static void adopt_wrongly(struct guest *host, int arg)
{
	struct ts_adopt_options options = persistent();
	struct ts_orphan_info orphan = { .size = sizeof(orphan) };

	(void)arg;
	resume_open(host, 0);
	CHECK_EQ(ts_orphan_list(host->engine, &orphan, 1), 1);
	CHECK_EQ(strcmp(orphan.name, "vm"), 0);
	CHECK(orphan.nr_away > 0);
	options.identity[0] = 8;
	CHECK_EQ(ts_region_adopt(host->engine, &options, &vmm.region), TS_ESTATE);
	options = persistent();
	options.nr_ranges--;
	CHECK_EQ(ts_region_adopt(host->engine, &options, &vmm.region), TS_ESTATE);
	options = persistent();
	options.is_persistent = 0;
	CHECK_EQ(ts_region_adopt(host->engine, &options, &vmm.region), TS_ESTATE);
	CHECK(strstr(ts_last_error(), "zeros") != NULL);
	ts_engine_close(host->engine);
}

static void take_over_and_compare(struct guest *host, int is_last)
{
	take_over(host);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_evict(host, &vmm, 0);
	if (!is_last)
		resume_die();
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	ts_engine_close(host->engine);
}

static void test_ranges_and_orders(void)
{
	struct guest host;

	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES + VM_EXTRA);
	CHECK_EQ(resume_host_child(&host, close_in_order, 0), 0);
	CHECK_EQ(resume_host_child(&host, add_and_die, 0), SIGKILL);
	reverse_ranges();
	CHECK_EQ(resume_host_child(&host, adopt_wrongly, 0), 0);
	CHECK_EQ(resume_host_child(&host, take_over_and_compare, 0), SIGKILL);
	CHECK_EQ(resume_host_child(&host, take_over_and_compare, 1), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

/* A range that is refused, by a process that has taken the VM over, costs nothing of what is. */
static void be_refused_and_die(struct guest *host, int arg)
{
	struct ts_remote_range range = vmm.hello.ranges[vmm.hello.nr_ranges];

	(void)arg;
	take_over(host);
	range.addr += range.len_bytes;  /* nothing is registered there */
	CHECK_EQ(ts_region_add_range(vmm.region, &range), TS_EBACKING);
	resume_die();
}

static void test_refused_range(void)
{
	struct guest host;

	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES + VM_EXTRA);
	CHECK_EQ(resume_host_child(&host, close_in_order, 0), 0);
	CHECK_EQ(resume_host_child(&host, be_refused_and_die, 0), SIGKILL);
	CHECK_EQ(resume_host_child(&host, take_over_and_compare, 1), 0);
	CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

/* The VM ended while nobody served it: what is stored of it is freed. */
static void forget(struct guest *host, int arg)
{
	(void)arg;
	resume_open(host, 0);
	CHECK_EQ(ts_orphan_list(host->engine, NULL, 0), 1);
	CHECK(vmm_stats(host, NULL)->tiers[0].nr_frames > 0);
	CHECK_EQ(ts_orphan_forget(host->engine, "vm"), 0);
	CHECK_EQ(ts_orphan_forget(host->engine, "vm"), TS_ENOTFOUND);
	for (unsigned ms = 0; vmm_stats(host, NULL)->tiers[0].nr_frames; ms++) {
		CHECK(ms < 10000);
		usleep(1000);
	}
	ts_engine_close(host->engine);
}

static void test_forgotten(void)
{
	struct guest host;

	vmm_start(&vmm, &plan);
	resume_host_make(&host, VM_PAGES);
	CHECK_EQ(resume_host_child(&host, close_in_order, 0), 0);
	vmm_kill(&vmm);
	CHECK_EQ(resume_host_child(&host, forget, 0), 0);
	vmm_end(&vmm);
	resume_host_end(&host);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
		{ "killed_again_and_again", test_killed_again_and_again },
		{ "ranges_and_orders", test_ranges_and_orders },
		{ "refused_range", test_refused_range },
		{ "forgotten", test_forgotten },
	};

	nr_rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(nr_rounds != MAP_FAILED);
	return check_run(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
