/* SPDX-License-Identifier: Apache-2.0
 *
 * test_flood.c — more faults at once than a fault thread can remember, none of which can be served
 * until later: everybody comes back. */
#include <errno.h>

#include "../guest.h"
#include "util/hook.h"

enum { PAGES = 1024, THREADS = 400 };

struct reader {
	struct guest *guest;
	uint64_t page;
	pthread_t thread;
};

static void *read_page(void *arg)
{
	struct reader *reader = arg;

	if (!guest_is_right(reader->guest, reader->page, 0))
		atomic_fetch_add(&reader->guest->nr_wrong, 1);
	atomic_fetch_add(&reader->guest->nr_touched, 1);
	return NULL;
}

static void flood(bool is_memfd)
{
	static struct reader readers[THREADS];
	struct guest guest = { .nr_fault_threads = 1 };

	alarm(60);
	guest_map(&guest, PAGES, is_memfd);
	guest_open(&guest);
	CHECK_EQ(guest_add_tier(&guest, "ram", "ram", NULL, 16 << 20, TS_CODEC_LZ4, 4096, NULL), 0);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
	guest_evict(&guest, PAGES * GUEST_PAGE, 0, true);
	/* As if an event were queued: no page can be installed. */
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_COPY | UINT64_C(1) << TS_SITE_IOCTL_ZEROPAGE, 1,
		       EAGAIN, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		readers[i] = (struct reader){ .guest = &guest, .page = i * 2 };
		CHECK_EQ(pthread_create(&readers[i].thread, NULL, read_page, &readers[i]), 0);
	}
	uint64_t nr_failed = 0;
	while (nr_failed < 50000)
		ts_hook_inject_count(&nr_failed);
	CHECK_EQ(atomic_load(&guest.nr_touched), 0);
	ts_hook_inject(0, 0, 0, 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(readers[i].thread, NULL);
	CHECK_EQ(atomic_load(&guest.nr_wrong), 0);
	guest_close(&guest);
	alarm(0);
}

static void anon(void) { flood(false); }
static void memfd(void) { flood(true); }

CHECK_MAIN({ "anon", anon }, { "memfd", memfd })
