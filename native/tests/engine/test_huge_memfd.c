/* SPDX-License-Identifier: Apache-2.0
 *
 * test_huge_memfd.c — huge pages in a memfd: pages leave one by one, and a huge page that somebody
 * has pinned loses nothing, though PUNCH_HOLE clears parts of it and reports success.
 *
 * A memfd gets huge pages where the host's shmem_enabled says so; if it says never, the test lets
 * those have some that ask for them (advise), and sets it back. */
#include <fcntl.h>
#include <sys/uio.h>

#include "guest.h"
#include "os/pagemap.h"
#include "os/sys.h"
#include "page/region.h"
#include "track/track.h"

enum { PAGES = 2048, HUGE_PAGES = 512 };

static const char setting_path[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
static char setting_before[16];

static void set(const char *word)
{
	int fd = open(setting_path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	/* Not allowed: then there are none, and the tests say so. */
	(void)!write(fd, word, strlen(word));
	close(fd);
}

static void restore_setting(void) { set(setting_before); }

/* "always within_size advise [never] deny force" */
static void allow_huge(void)
{
	char text[128] = "", *open_bracket, *close_bracket;
	FILE *file = setting_before[0] ? NULL : fopen(setting_path, "re");

	if (!file)
		return;
	CHECK(fgets(text, sizeof(text), file) != NULL);
	fclose(file);
	open_bracket = strchr(text, '[');
	close_bracket = strchr(text, ']');
	CHECK(open_bracket && close_bracket && close_bracket - open_bracket < 16);
	*close_bracket = 0;
	snprintf(setting_before, sizeof(setting_before), "%s", open_bracket + 1);
	if (strcmp(setting_before, "never"))
		return;
	CHECK_EQ(atexit(restore_setting), 0);
	set("advise");
}

static void add_pages(void *user, uint64_t addr, uint64_t len_bytes)
{
	(void)addr;
	*(uint64_t *)user += len_bytes / GUEST_PAGE;
}

static uint64_t count(const struct guest *guest, uint64_t mask)
{
	struct ts_scan_filter filter = { .mask = mask };
	uint64_t nr_pages = 0;
	int fd = ts_pagemap_open();

	CHECK(fd >= 0);
	int rc = ts_pagemap_scan(fd, (uintptr_t)guest->mem, PAGES * GUEST_PAGE, &filter, add_pages,
				 &nr_pages);
	close(fd);
	if (rc == -ENOTTY) {
		fprintf(stderr, "skipped: no PAGEMAP_SCAN: Linux 6.7\n");
		exit(77);
	}
	CHECK_EQ(rc, 0);
	return nr_pages;
}

/* At an address where huge pages fit. */
static void map_aligned(struct guest *guest)
{
	size_t len = PAGES * GUEST_PAGE, align = HUGE_PAGES * GUEST_PAGE;

	CHECK_EQ(munmap(guest->mem, len), 0);
	unsigned char *area = mmap(NULL, len + align, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(area != MAP_FAILED);
	area = (unsigned char *)(((uintptr_t)area + align - 1) & ~(align - 1));
	guest->mem = mmap(area, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, guest->memfd,
			  0);
	CHECK(guest->mem == area);
}

/* False: the host makes no huge pages in a memfd. */
static bool start(struct guest *guest, enum ts_tracker tracker)
{
	*guest = (struct guest){ 0 };
	allow_huge();
	guest_map(guest, PAGES, true);
	CHECK_EQ(ftruncate(guest->memfd, 0), 0);
	CHECK_EQ(ftruncate(guest->memfd, PAGES * GUEST_PAGE), 0);
	map_aligned(guest);
	(void)madvise(guest->mem, PAGES * GUEST_PAGE, MADV_HUGEPAGE);
	for (uint64_t page = 0; page < PAGES; page++)
		guest_fill(guest, page, 0);
	if (!count(guest, PAGE_IS_HUGE)) {
		guest_unmap(guest);
		return false;
	}
	guest_open(guest);
	guest_add_ladder(guest);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .tracker = tracker });
	return true;
}

/* Whatever the mapping was: what was touched is what stays. */
static void pages_leave_one_by_one(void)
{
	struct guest guest;
	struct ts_scan_result scan = { .size = sizeof(scan) };
	static bool is_touched[PAGES];
	uint64_t nr_touched = 0;

	if (!start(&guest, TS_TRACKER_AUTO))
		SKIP("no huge pages in a memfd here (shmem_enabled)");
	/* The first touch after this maps huge pages anew under the tracker zap. */
	if (guest.region->tracker->id != TS_TRACKER_RWP) {
		guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
		guest_check_all(&guest);
		guest_close(&guest);
		SKIP("to the page: RWP, Linux 7.3");
	}
	CHECK_EQ(ts_region_deactivate(guest.region), 0);
	CHECK_EQ(count(&guest, PAGE_IS_HUGE), 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		is_touched[page] = guest_mix(page + 5) % 10 == 0;
		nr_touched += is_touched[page];
		if (is_touched[page])
			CHECK(guest_is_right(&guest, page, 0));
	}
	CHECK_EQ(ts_region_scan(guest.region, &scan), 0);
	CHECK_EQ(scan.nr_touched, nr_touched);
	CHECK_EQ(guest_evict(&guest, PAGES * GUEST_PAGE, 1, true).nr_evicted, PAGES - nr_touched);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQ(ts_word_is(ts_word_load(&guest.region->words[page]), TS_RESIDENT),
			 is_touched[page]);
	guest_check_all(&guest);
	guest_close(&guest);
}

/* A pipe holds a page of each huge page, so the kernel can split none of them. */
static void pinned(enum ts_tracker tracker)
{
	struct guest guest;
	int pipe_fds[2];

	if (!start(&guest, tracker))
		SKIP("no huge pages in a memfd here (shmem_enabled)");
	CHECK_EQ(pipe(pipe_fds), 0);
	for (uint64_t page = 7; page < PAGES; page += HUGE_PAGES) {
		struct iovec vec = { guest.mem + page * GUEST_PAGE, GUEST_PAGE };
		CHECK_EQ(vmsplice(pipe_fds[1], &vec, 1, 0), GUEST_PAGE);
	}
	/* A few pages of each, so that no huge page goes as a whole. */
	guest_evict(&guest, 300 * GUEST_PAGE, 0, true);
	guest_check_all(&guest);
	CHECK(guest_stats(&guest)->failures[TS_FAIL_RELEASE] > 0);
	CHECK_EQ(guest_stats(&guest)->failures[TS_FAIL_POISONED], 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	guest_check_all(&guest);
	guest_close(&guest);
}

static void pinned_zap(void) { pinned(TS_TRACKER_ZAP); }
static void pinned_auto(void) { pinned(TS_TRACKER_AUTO); }

CHECK_MAIN({ "pages_leave_one_by_one", pages_leave_one_by_one }, { "pinned_zap", pinned_zap },
	   { "pinned_auto", pinned_auto })
