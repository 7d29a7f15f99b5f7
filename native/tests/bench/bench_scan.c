/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_scan.c — one run of noticing touches: write to some pages, ask which were written, arm
 * again; by ts_region_scan() and ts_region_deactivate(), or by the ioctls that these come down to.
 *
 *   bench_scan way=ours|bare pages=N [every=K] only each Kth page is there [rounds=N]
 *              [memory=anon|memfd]
 *
 * "found" is the share of the touched pages that the scans reported.  A page or two in a million
 * may be missing: one that the kernel itself unmapped looks untouched.  "hash" counts touches. */
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "os/uapi.h"
#include "way_ours.h"

enum { RUNS = 512, ROUNDS_MAX = 1000, TOUCHED_OF = 10 };

static struct memory memory;
static uint64_t every;

/* A tenth of the pages that are there, other ones each round.  Writes. */
static uint64_t touch_some(uint64_t round)
{
	uint64_t nr = 0;

	for (uint64_t page = round % TOUCHED_OF * every; page < memory.nr_pages;
	     page += TOUCHED_OF * every, nr++)
		memory.mem[page * MEASURE_PAGE]++;
	return nr;
}

/* ---- Bare --------------------------------------------------------------------------------- */

static int pagemap_fd;

static void bare_open_scan(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC |
				  UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED };
	struct uffdio_register reg = {
		.range = { (uintptr_t)memory.mem, memory_bytes(&memory) },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CHECK(pagemap_fd >= 0 && uffd >= 0);
	if (memory.memfd >= 0)
		api.features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	CHECK_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
	CHECK_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
}

static uint64_t bare_ioctls(uint64_t flags, uint64_t mask, uint64_t anyof)
{
	static struct page_region runs[RUNS];
	uint64_t nr_pages = 0;
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .flags = flags, .start = (uintptr_t)memory.mem,
		.end = (uintptr_t)memory.mem + memory_bytes(&memory),
		.vec = (uintptr_t)runs, .vec_len = RUNS, .category_mask = mask,
		.category_anyof_mask = anyof, .return_mask = PAGE_IS_PRESENT,
	};

	while (arg.start < arg.end) {
		int nr_runs = ioctl(pagemap_fd, PAGEMAP_SCAN, &arg);

		CHECK(nr_runs >= 0 && arg.walk_end > arg.start);
		for (int i = 0; i < nr_runs; i++)
			nr_pages += (runs[i].end - runs[i].start) / MEASURE_PAGE;
		arg.start = arg.walk_end;
	}
	return nr_pages;
}

static void bare_deactivate(void)
{
	if (memory.memfd >= 0)
		CHECK_EQ(madvise(memory.mem, memory_bytes(&memory), MADV_DONTNEED), 0);
	else
		bare_ioctls(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
			    PAGE_IS_WRITTEN | PAGE_IS_PRESENT, 0);
}

static uint64_t bare_scan(void)
{
	if (memory.memfd >= 0)
		return bare_ioctls(0, PAGE_IS_PRESENT, 0);
	return bare_ioctls(0, PAGE_IS_PRESENT, PAGE_IS_WRITTEN | PAGE_IS_PFNZERO);
}

/* ---- Ours --------------------------------------------------------------------------------- */

static void ours_deactivate(void)
{
	CHECK_EQ(ts_region_deactivate(ours.region), 0);
}

static uint64_t ours_scan(void)
{
	struct ts_scan_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_scan(ours.region, &result), 0);
	return result.nr_touched;
}

/* ---- Both --------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	struct measure_args args = { argc, argv };
	static uint32_t scan_ns[ROUNDS_MAX], arm_ns[ROUNDS_MAX]; /* of CPU: others don't count */
	bool is_ours = arg_is(&args, "way", "ours");
	uint64_t nr_rounds = arg_number(&args, "rounds", 5), nr_found = 0, nr_touched = 0;

	CHECK(nr_rounds < ROUNDS_MAX);
	every = arg_number(&args, "every", 1);
	memory = memory_map(arg_number(&args, "pages", 8192), arg_is(&args, "memory", "memfd"));
	for (uint64_t page = 0; page < memory.nr_pages; page += every)
		memory.mem[page * MEASURE_PAGE] = 1;
	if (is_ours)
		ours_open(&args, &memory);
	else
		bare_open_scan();
	for (uint64_t round = 0; round < nr_rounds + 2; round++) {
		uint64_t start_ns = cpu_ns(), found = is_ours ? ours_scan() : bare_scan();
		uint64_t middle_ns = cpu_ns();

		is_ours ? ours_deactivate() : bare_deactivate();
		/* The first rounds find all pages, and build the page tables' protection. */
		uint64_t at = round < 2 ? 0 : round - 2;
		scan_ns[at] = (uint32_t)(middle_ns - start_ns);
		arm_ns[at] = (uint32_t)(cpu_ns() - middle_ns);
		nr_found += round > 1 ? found : 0;
		nr_touched += touch_some(round + 1) * (round > 0 && round < nr_rounds + 1);
	}
	double scan = percentile_ns(scan_ns, nr_rounds, 0.5);
	double arm = percentile_ns(arm_ns, nr_rounds, 0.5);
	json_number("scan_ns_per_page", scan / (double)memory.nr_pages);
	json_number("deactivate_ns_per_page", arm / (double)memory.nr_pages);
	json_number("ns_per_page", (scan + arm) / (double)memory.nr_pages);
	json_number("found", (double)nr_found / (double)nr_touched);
	CHECK(llabs((long long)(nr_found - nr_touched)) <= (long long)nr_touched / 1000 + 1);
	json_end(nr_touched);
	if (is_ours)
		ts_engine_close(ours.engine);
	return 0;
}
