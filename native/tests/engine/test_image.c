/* SPDX-License-Identifier: Apache-2.0
 * test_image.c — a snapshot's memory in the tiers: VMs that begin as it, at once and one after
 * another, across deaths of the process that serves them; what they give up reads as zeros. */
#include <errno.h>

#include "resume.h"
#include "vmm.h"

enum { IMAGE_PAGES = 3000, NR_VMS = 2 };

static struct vmm vms[NR_VMS];
static int image_fd;

static const struct vmm_plan plan = {
	.kind = VMM_ANON, .nr_pages = IMAGE_PAGES, .is_image = true,
	.uffd_modes = UFFDIO_REGISTER_MODE_MISSING, .features = UFFD_FEATURE_EVENT_REMOVE,
	.flags = O_NONBLOCK,
};

static void make_image_file(void)
{
	struct guest guest = { 0 };

	image_fd = memfd_create("snapshot", MFD_CLOEXEC);
	CHECK(image_fd >= 0);
	guest_map(&guest, IMAGE_PAGES, false);
	CHECK_EQ(write(image_fd, guest.mem, IMAGE_PAGES * GUEST_PAGE), IMAGE_PAGES * GUEST_PAGE);
	guest_unmap(&guest);
}

static int run(struct guest *host, void (*fn)(struct guest *host))
{
	int status = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		fn(host);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static int count_calls(void *user, uint64_t done_bytes, uint64_t len_bytes)
{
	CHECK(done_bytes <= len_bytes);
	return ++*(int *)user == 2 && done_bytes < len_bytes;
}

static void check_image(struct guest *host, unsigned nr_regions)
{
	struct ts_image_info info = { .size = sizeof(info) };

	CHECK_EQ(ts_image_list(host->engine, &info, 1), 1);
	CHECK_EQ(strcmp(info.name, "base"), 0);
	CHECK_EQ(info.len_bytes, IMAGE_PAGES * GUEST_PAGE);
	CHECK(info.nr_stored > 0 && info.nr_filled > 0);
	CHECK(info.nr_stored + info.nr_filled < IMAGE_PAGES);  /* some are zeros */
	CHECK_EQ(info.nr_regions, nr_regions);
}

static void wait_for_no_frames(struct guest *host)
{
	for (unsigned ms = 0; ; ms++) {
		struct ts_stats *stats = vmm_stats(host, NULL);
		if (!stats->tiers[0].nr_frames && !stats->tiers[1].nr_frames)
			return;
		CHECK(ms < 10000);
		usleep(1000);
	}
}

/* An import that is given up leaves nothing; one that is not is there. */
static void import_and_die(struct guest *host)
{
	uint64_t len_bytes = IMAGE_PAGES * GUEST_PAGE;
	int nr_calls = 0;

	resume_open(host, 0);
	CHECK_EQ(ts_image_import(host->engine, "base", image_fd, len_bytes + GUEST_PAGE, NULL,
				 NULL), TS_ECONFIG);
	nr_calls = 1;
	CHECK_EQ(ts_image_import(host->engine, "base", image_fd, len_bytes, count_calls, &nr_calls),
		 -EINTR);
	CHECK_EQ(ts_image_list(host->engine, NULL, 0), 0);
	wait_for_no_frames(host);
	nr_calls = 10;
	CHECK_EQ(ts_image_import(host->engine, "base", image_fd, len_bytes, count_calls, &nr_calls),
		 0);
	CHECK_EQ(ts_image_import(host->engine, "base", image_fd, len_bytes, NULL, NULL), TS_ESTATE);
	check_image(host, 0);
	resume_die();
}

static void adopt(struct guest *host, unsigned i)
{
	struct ts_adopt_options options = vmm_options(&vms[i], TS_MODE_MISSING);
	char name[16];

	snprintf(name, sizeof(name), "vm%u", i);
	options.name = name;
	options.image = "base";
	options.is_persistent = 1;
	options.pagemap_fd = vmm_open_pagemap(&vms[i]);
	vmm_adopt(&vms[i], host->engine, options);
	close(options.pagemap_fd);
}

static void check_working_set(struct vmm *vmm)
{
	static uint32_t pages[IMAGE_PAGES];
	int64_t nr_pages = ts_region_working_set(vmm->region, pages, IMAGE_PAGES);

	CHECK(nr_pages > 0 && nr_pages <= IMAGE_PAGES);
	/* The guest went through its memory from the start. */
	for (int64_t i = 1; i < nr_pages; i++)
		CHECK(pages[i] > pages[i - 1]);
}

static void serve_and_die(struct guest *host)
{
	struct ts_adopt_options wrong;

	resume_open(host, 0);
	check_image(host, 0);
	wrong = vmm_options(&vms[0], TS_MODE_MISSING);
	wrong.image = "nothing";
	CHECK_EQ(ts_region_adopt(host->engine, &wrong, &vms[0].region), TS_ENOTFOUND);
	for (unsigned i = 0; i < NR_VMS; i++)
		adopt(host, i);
	check_image(host, NR_VMS);
	CHECK_EQ(ts_image_remove(host->engine, "base"), TS_EBUSY);
	CHECK_EQ(vmm_ask(&vms[0], 'c'), 0);
	check_working_set(&vms[0]);
	/* The other one writes to a half, and is not compared before the next process serves it. */
	CHECK_EQ(vmm_ask(&vms[1], 'f'), 0);
	resume_die();
}

static void take_over_and_end(struct guest *host)
{
	resume_open(host, 0);
	check_image(host, NR_VMS);
	for (unsigned i = 0; i < NR_VMS; i++)
		adopt(host, i);
	CHECK_EQ(vmm_ask(&vms[1], 'c'), 0);
	/* What is given up never reads as the image again. */
	CHECK_EQ(vmm_ask(&vms[0], 'z'), 0);
	CHECK_EQ(vmm_ask(&vms[0], 'c'), 0);
	for (unsigned i = 0; i < NR_VMS; i++) {
		struct ts_stats *stats = vmm_stats(host, &vms[i]);
		for (unsigned f = 0; f < TS_FAIL_COUNT; f++)
			CHECK_EQ(stats->failures[f], 0);
		CHECK_EQ(i ? ts_region_drop(vms[i].region) : ts_region_detach(vms[i].region), 0);
	}
	check_image(host, 0);
	CHECK_EQ(ts_image_remove(host->engine, "base"), 0);
	CHECK_EQ(ts_image_remove(host->engine, "base"), TS_ENOTFOUND);
	wait_for_no_frames(host);
	ts_engine_close(host->engine);
}

static void test_begins_as_an_image(void)
{
	struct guest host = { .nr_pages = IMAGE_PAGES, .memfd = -1 };

	make_image_file();
	for (unsigned i = 0; i < NR_VMS; i++)
		vmm_start(&vms[i], &plan);
	snprintf(host.folder, sizeof(host.folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(host.folder) != NULL);
	CHECK_EQ(run(&host, import_and_die), SIGKILL);
	CHECK_EQ(run(&host, serve_and_die), SIGKILL);
	CHECK_EQ(run(&host, take_over_and_end), 0);
	/* Detached: all of it is the VMM's own. */
	CHECK_EQ(vmm_ask(&vms[0], 'c'), 0);
	/* Later ones have inherited the sockets of the earlier. */
	for (unsigned i = NR_VMS; i-- > 0;)
		vmm_end(&vms[i]);
	nftw(host.folder, resume_remove, 8, FTW_DEPTH | FTW_PHYS);
}

CHECK_MAIN({ "begins_as_an_image", test_begins_as_an_image })
