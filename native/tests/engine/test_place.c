/* SPDX-License-Identifier: Apache-2.0
 *
 * test_place.c — a fault thread follows a guest's thread that is pinned to a CPU, from one CPU to
 * another, and is free again when that thread is, or others fault (fault/follow.h).  Of two CPUs
 * each gets one while a free thread's faults come seldom (fault/pair.h). */
#include <dirent.h>
#include <sched.h>

#include "vmm.h"

enum { PAGES = 2048, ROUNDS_MAX = 200, NR_CPUS = 2, SELDOM_PAGES = 64, SELDOM_NS = 200000 };

static int cpus[NR_CPUS];

static cpu_set_t set_of(unsigned nr_cpus)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (unsigned i = 0; i < nr_cpus; i++)
		CPU_SET((size_t)cpus[i], &set);
	return set;
}

static bool has_two_cpus(void)
{
	unsigned nr_found = 0;
	cpu_set_t set;

	CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
	for (int cpu = 0; cpu < CPU_SETSIZE && nr_found < NR_CPUS; cpu++)
		if (CPU_ISSET((size_t)cpu, &set))
			cpus[nr_found++] = cpu;
	return nr_found == NR_CPUS;
}

static bool is_fault_thread(const char *tid)
{
	char path[300], name[32] = "";

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", tid);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	bool is_read = fgets(name, sizeof(name), file) != NULL;
	fclose(file);
	return is_read && !strncmp(name, "ts-fault-", 9);
}

/* Fault threads that are confined to this CPU; -1: to one, whichever. */
static unsigned nr_pinned_to(int cpu)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned nr = 0;

	CHECK(tasks != NULL);
	for (struct dirent *entry; (entry = readdir(tasks));) {
		cpu_set_t set;
		char *end = entry->d_name;
		long tid = strtol(entry->d_name, &end, 10);
		if (!*end && is_fault_thread(entry->d_name) &&
		    !sched_getaffinity((pid_t)tid, sizeof(set), &set))
			nr += CPU_COUNT(&set) == 1 && (cpu < 0 || CPU_ISSET((size_t)cpu, &set));
	}
	closedir(tasks);
	return nr;
}

static void begin(struct guest *guest, struct ts_engine_options options)
{
	options.size = sizeof(options);
	options.log = guest_log;
	guest_map(guest, PAGES, false);
	guest_open(guest);
	ts_engine_close(guest->engine);
	CHECK_EQ(ts_engine_open(&options, &guest->engine), 0);
	CHECK_EQ(guest_add_tier(guest, "tier", "ram", NULL, 64 << 20, TS_CODEC_LZ4, 4096, NULL), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
}

/* Faults, on the CPUs of this set, until as many handlers are pinned to @cpu as expected. */
static void fault_until(struct guest *guest, const cpu_set_t *set, int cpu, unsigned nr_expected)
{
	unsigned nr_found = ~0u;

	CHECK_EQ(sched_setaffinity(0, sizeof(*set), set), 0);
	for (unsigned round = 0; round < ROUNDS_MAX && nr_found != nr_expected; round++) {
		guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
		guest_check_all(guest);
		nr_found = nr_pinned_to(cpu);
	}
	CHECK_EQ(nr_found, nr_expected);
}

static void a_pinned_thread_is_followed(void)
{
	struct guest guest = { 0 };
	cpu_set_t both, second;

	if (!has_two_cpus())
		SKIP("needs two CPUs");
	both = set_of(2);
	CPU_ZERO(&second);
	CPU_SET((size_t)cpus[1], &second);
	cpu_set_t first = set_of(1);

	begin(&guest, (struct ts_engine_options){ 0 });
	CHECK_EQ(nr_pinned_to(-1), 0);
	fault_until(&guest, &first, cpus[0], 1);
	fault_until(&guest, &second, cpus[1], 1);
	fault_until(&guest, &both, -1, 0);
	guest_close(&guest);
}

/* Who faults in another process is not known: a handler does not stay with a thread of this one
 * that faults no more. */
static void another_process_is_not_followed(void)
{
	static const struct vmm_plan plan = {
		.kind = VMM_SHARED, .nr_pages = PAGES, .flags = O_NONBLOCK,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
		.uffd_modes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};
	struct guest guest = { 0 };
	struct vmm vmm;

	if (!has_two_cpus())
		SKIP("needs two CPUs");
	cpu_set_t first = set_of(1), both = set_of(2);
	vmm_start(&vmm, &plan);
	begin(&guest, (struct ts_engine_options){ 0 });
	struct ts_region *ours = guest.region;
	vmm_adopt(&vmm, guest.engine, vmm_options(&vmm, TS_MODE_MISSING | TS_MODE_WP));
	fault_until(&guest, &first, cpus[0], 1);
	for (unsigned round = 0; round < ROUNDS_MAX && nr_pinned_to(-1); round++) {
		vmm_evict(&guest, &vmm, 0);
		CHECK_EQ(vmm_ask(&vmm, 'c'), 0);
	}
	CHECK_EQ(nr_pinned_to(-1), 0);
	guest.region = ours;
	CHECK_EQ(ts_region_detach(vmm.region), 0);
	vmm_end(&vmm);
	CHECK_EQ(sched_setaffinity(0, sizeof(both), &both), 0);
	guest_close(&guest);
}

/* A handler could not run beside a thread that does not make room for it. */
static void a_real_time_thread_is_not(void)
{
	struct sched_param param = { .sched_priority = 1 };
	struct guest guest = { 0 };

	if (!has_two_cpus())
		SKIP("needs two CPUs");
	cpu_set_t first = set_of(1), both = set_of(2);
	begin(&guest, (struct ts_engine_options){ 0 });
	CHECK_EQ(sched_setscheduler(0, SCHED_FIFO, &param), 0);
	CHECK_EQ(sched_setaffinity(0, sizeof(first), &first), 0);
	for (unsigned round = 0; round < 3; round++) {
		guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
		guest_check_all(&guest);
		CHECK_EQ(nr_pinned_to(-1), 0);
	}
	param.sched_priority = 0;
	CHECK_EQ(sched_setscheduler(0, SCHED_OTHER, &param), 0);
	CHECK_EQ(sched_setaffinity(0, sizeof(both), &both), 0);
	guest_close(&guest);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A guest that computes between its faults. */
static void fault_seldom(struct guest *guest)
{
	guest_evict(guest, PAGES * GUEST_PAGE, 0, true);
	for (unsigned page = 0; page < SELDOM_PAGES; page++) {
		CHECK(guest_is_right(guest, page, 0));
		for (uint64_t start_ns = now_ns(); now_ns() - start_ns < SELDOM_NS;)
			;
	}
}

static void a_free_threads_seldom_faults_are_waited_for_on_both_cpus(void)
{
	struct guest guest = { 0 };

	if (!has_two_cpus())
		SKIP("needs two CPUs");
	cpu_set_t both = set_of(2);
	CHECK_EQ(sched_setaffinity(0, sizeof(both), &both), 0);
	begin(&guest, (struct ts_engine_options){ 0 });
	for (unsigned round = 0; round < ROUNDS_MAX && nr_pinned_to(-1) != 2; round++)
		fault_seldom(&guest);
	CHECK_EQ(nr_pinned_to(cpus[0]), 1);
	CHECK_EQ(nr_pinned_to(cpus[1]), 1);
	/* Soon after one another again. */
	fault_until(&guest, &both, -1, 0);
	guest_close(&guest);
}

static void fixed_places_stay(void)
{
	struct guest guest = { 0 };

	if (!has_two_cpus())
		SKIP("needs two CPUs");
	cpu_set_t first = set_of(1), both = set_of(2);
	begin(&guest, (struct ts_engine_options){ .placement = TS_PLACEMENT_FIXED,
						  .fault_cpus = UINT64_C(1) << cpus[1] });
	fault_until(&guest, &first, cpus[1], 1);
	CHECK_EQ(nr_pinned_to(cpus[0]), 0);
	CHECK_EQ(sched_setaffinity(0, sizeof(both), &both), 0);
	guest_close(&guest);
}

CHECK_MAIN({ "a_pinned_thread_is_followed", a_pinned_thread_is_followed },
	   { "another_process_is_not_followed", another_process_is_not_followed },
	   { "a_real_time_thread_is_not", a_real_time_thread_is_not },
	   { "a_free_threads_seldom_faults_are_waited_for_on_both_cpus",
	     a_free_threads_seldom_faults_are_waited_for_on_both_cpus },
	   { "fixed_places_stay", fixed_places_stay })
