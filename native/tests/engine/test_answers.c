/* SPDX-License-Identifier: Apache-2.0
 *
 * test_answers.c — answers of the kernel that say less than they seem to: that nothing is mapped
 * there (ENOENT), of what is being moved this moment; that a page is there already (EEXIST), of a
 * page table that comes or goes; that an event is queued (EAGAIN), which nobody will read any more.
 * None costs a page, or a thread.
 *
 * Since Linux 6.10 UFFDIO_COPY and its like look whether an event is queued, then for the mapping,
 * then for events again: what is moved between the first two looks is not there.  That can't be hit
 * at will, so the answer is injected while an event is queued.
 */
#include <errno.h>
#include <time.h>

#include "guest.h"
#include "os/uffd.h"
#include "page/region.h"
#include "util/hook.h"

enum {
	PAGES = 64,
	TEXT_PAGE = 21,  /* is stored */
	NOISE_PAGE = 32, /* is refused by the tier, and comes back from the staging area */
	BUSY_PAGE = 37,  /* a fault on it keeps the only reader of events busy */
	WAIT_MS = 60000,
};

struct scene {
	struct guest guest;
	uint64_t moved;               /* the page that the guest moves */
	unsigned char *there;         /* to where */
	pthread_t toucher, mover, worker;
};

static void *touch(void *arg)
{
	struct scene *scene = arg;

	CHECK(guest_is_right(&scene->guest, BUSY_PAGE, 0));
	return NULL;
}

static void *move(void *arg)
{
	struct scene *scene = arg;

	CHECK(mremap(scene->guest.mem + scene->moved * GUEST_PAGE, GUEST_PAGE, GUEST_PAGE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, scene->there) == scene->there);
	return NULL;
}

static void *prefetch(void *arg)
{
	struct scene *scene = arg;

	CHECK_EQ(ts_region_prefetch(scene->guest.region, TEXT_PAGE * GUEST_PAGE, GUEST_PAGE), 0);
	return NULL;
}

static void *evict(void *arg)
{
	struct scene *scene = arg;

	guest_evict(&scene->guest, PAGES * GUEST_PAGE, 0, true);
	return NULL;
}

static void open_scene(struct scene *scene)
{
	struct guest *guest = &scene->guest;
	struct ts_tier_options tier = {
		.size = sizeof(tier), .name = "tier", .store = "ram", .size_bytes = 4 << 20,
		.codec = TS_CODEC_LZ4, .admit_ratio_pct = 60,
	};

	*scene = (struct scene){ .guest = { .nr_fault_threads = 1 } };
	guest_map(guest, PAGES, false);
	guest_open(guest);
	CHECK_EQ(ts_engine_add_tier(guest->engine, &tier), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, (struct ts_region_options){ .restore = TS_RESTORE_PAGE });
	evict(scene);
}

static void start(struct scene *scene, pthread_t *thread, void *(*fn)(void *arg))
{
	CHECK_EQ(pthread_create(thread, NULL, fn, scene), 0);
}

static void keep_reader_busy(struct scene *scene)
{
	ts_hook_park(TS_PHASE_FAULT_CLAIMED);
	start(scene, &scene->toucher, touch);
	CHECK_EQ(ts_hook_wait(TS_PHASE_FAULT_CLAIMED, WAIT_MS), 0);
}

/* The guest moves the page, and waits until somebody reads of it. */
static void begin_move(struct scene *scene, uint64_t page)
{
	struct ts_shard *shard = &scene->guest.region->shards[0];

	scene->moved = page;
	scene->there = mmap(NULL, GUEST_PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(scene->there != MAP_FAILED);
	start(scene, &scene->mover, move);
	for (unsigned ms = 0; !ts_uffd_is_changing(shard->uffd); ms++) {
		CHECK(ms < WAIT_MS);
		usleep(1000);
	}
}

/* Until so many calls have failed. */
static void wait_failed(uint64_t nr_wanted)
{
	uint64_t nr_failed = 0;

	for (unsigned ms = 0; nr_failed < nr_wanted; ms++) {
		CHECK(ms < WAIT_MS);
		usleep(1000);
		ts_hook_inject_count(&nr_failed);
	}
	ts_hook_inject(0, 0, 0, 0);
}

static void evict_up_to_taken(struct scene *scene)
{
	ts_hook_park(TS_PHASE_TAKEN);
	start(scene, &scene->worker, evict);
	CHECK_EQ(ts_hook_wait(TS_PHASE_TAKEN, WAIT_MS), 0);
}

/* The moved page is right where it is now, and goes home. */
static void end_move(struct scene *scene)
{
	struct guest moved = scene->guest;
	unsigned char *home = scene->guest.mem + scene->moved * GUEST_PAGE;

	ts_hook_release(TS_PHASE_FAULT_CLAIMED);
	pthread_join(scene->mover, NULL);
	pthread_join(scene->worker, NULL);
	pthread_join(scene->toucher, NULL);
	moved.mem = scene->there - scene->moved * GUEST_PAGE;
	CHECK(guest_is_right(&moved, scene->moved, 0));
	CHECK(mremap(scene->there, GUEST_PAGE, GUEST_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, home) ==
	      home);
}

static void close_scene(struct scene *scene)
{
	guest_check_all(&scene->guest);
	CHECK_EQ(guest_stats(&scene->guest)->nr_gone, 0);
	evict(scene);
	guest_close(&scene->guest);
}

static void moved_before_an_install(void)
{
	struct scene scene;

	open_scene(&scene);
	keep_reader_busy(&scene);
	begin_move(&scene, TEXT_PAGE);
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_COPY, 1, ENOENT, 0);
	start(&scene, &scene.worker, prefetch);
	wait_failed(1);
	end_move(&scene);
	close_scene(&scene);
}

static void moved_before_it_is_given_back(void)
{
	struct scene scene;

	open_scene(&scene);
	keep_reader_busy(&scene);
	evict_up_to_taken(&scene);
	begin_move(&scene, NOISE_PAGE);
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_MOVE, 1, ENOENT, 0);
	ts_hook_release(TS_PHASE_TAKEN);
	wait_failed(1);
	end_move(&scene);
	close_scene(&scene);
}

static void said_to_be_there_when_given_back(void)
{
	struct scene scene;

	open_scene(&scene);
	evict_up_to_taken(&scene);
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_MOVE | UINT64_C(1) << TS_SITE_IOCTL_COPY, 1,
		       EEXIST, 1);
	ts_hook_release(TS_PHASE_TAKEN);
	wait_failed(2);
	pthread_join(scene.worker, NULL);
	close_scene(&scene);
}

static void *touch_hole(void *arg)
{
	struct scene *scene = arg;

	CHECK(guest_is_right(&scene->guest, TEXT_PAGE, GUEST_ZEROED));
	return NULL;
}

static void *detach(void *arg)
{
	struct scene *scene = arg;

	CHECK_EQ(ts_region_detach(scene->guest.region), 0);
	scene->guest.region = NULL;
	return NULL;
}

static bool is_back(pthread_t thread)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MS / 4000;
	return !pthread_timedjoin_np(thread, NULL, &until);
}

/* A fault that waits for an event, and a detach after which nobody reads events: the fault needs no
 * answer any more, for the memory is nobody's but the guest's. */
static void detached_before_an_event_is_read(void)
{
	struct scene scene;

	open_scene(&scene);
	/* Nothing is away, so that detach asks the kernel for nothing. */
	guest_check_all(&scene.guest);
	CHECK_EQ(madvise(scene.guest.mem + TEXT_PAGE * GUEST_PAGE, GUEST_PAGE, MADV_DONTNEED), 0);
	atomic_store(&scene.guest.versions[TEXT_PAGE], GUEST_ZEROED);
	ts_hook_inject(UINT64_C(1) << TS_SITE_IOCTL_ZEROPAGE | UINT64_C(1) << TS_SITE_IOCTL_COPY, 1,
		       EAGAIN, 1);
	start(&scene, &scene.toucher, touch_hole);
	for (uint64_t nr_failed = 0; nr_failed < 2; ts_hook_inject_count(&nr_failed))
		usleep(1000);
	start(&scene, &scene.worker, detach);
	CHECK(is_back(scene.worker));
	CHECK(is_back(scene.toucher));
	ts_hook_inject(0, 0, 0, 0);
	guest_close(&scene.guest);
}

CHECK_MAIN({ "moved_before_an_install", moved_before_an_install },
	   { "moved_before_it_is_given_back", moved_before_it_is_given_back },
	   { "said_to_be_there_when_given_back", said_to_be_there_when_given_back },
	   { "detached_before_an_event_is_read", detached_before_an_event_is_read })
