/* SPDX-License-Identifier: Apache-2.0
 *
 * COPY to memory that an mremap() moves this moment.  Since Linux 6.10 it looks whether an event is
 * queued, then for the mapping, and what was moved between the two is not there: ENOENT, as of
 * memory that is gone.  But whoever is told so finds the event queued.
 */
#include "kern_thread.h"

enum { NR_MOVES = 3000, AT_ONCE = 16 };

static struct {
	int uffd;
	char *places[2];
	_Atomic(char *) at;          /* as far as events have told */
	pthread_mutex_t gate;        /* held to read events, or to copy */
	atomic_bool is_over;
} scene = { .gate = PTHREAD_MUTEX_INITIALIZER };

static long move_to_and_fro(void *arg)
{
	for (unsigned i = 0; i < NR_MOVES; i++) {
		char *to = scene.places[1 - i % 2];
		CHECK(mremap(scene.places[i % 2], KERN_PAGE, KERN_PAGE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	}
	atomic_store(&scene.is_over, true);
	return 0;
}

static long read_events(void *arg)
{
	struct uffd_msg msg;

	while (!atomic_load(&scene.is_over)) {
		CHECK_EQ(pthread_mutex_lock(&scene.gate), 0);
		while (read(scene.uffd, &msg, sizeof(msg)) == sizeof(msg))
			if (msg.event == UFFD_EVENT_REMAP)
				atomic_store(&scene.at, (char *)(uintptr_t)msg.arg.remap.to);
		CHECK_EQ(pthread_mutex_unlock(&scene.gate), 0);
		sched_yield();
	}
	return 0;
}

/* How often it was told that nothing is there. */
static unsigned copy_some(const char *source)
{
	unsigned nr_absent = 0;

	CHECK_EQ(pthread_mutex_lock(&scene.gate), 0);
	for (unsigned i = 0; i < AT_ONCE; i++) {
		int rc = kern_copy(scene.uffd, atomic_load(&scene.at), source, KERN_PAGE);
		CHECK(rc == 0 || rc == -EEXIST || rc == -EAGAIN || rc == -ENOENT);
		if (rc != -ENOENT)
			continue;
		nr_absent++;
		CHECK_EQ(kern_copy(scene.uffd, atomic_load(&scene.at), source, KERN_PAGE), -EAGAIN);
	}
	CHECK_EQ(pthread_mutex_unlock(&scene.gate), 0);
	return nr_absent;
}

int main(void)
{
	struct kern_thread mover, reader;
	char *area = kern_anon(8), *source = kern_anon(1);
	unsigned nr_absent = 0;

	scene.uffd = kern_uffd(UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP);
	kern_fill(source, 1, 's');
	scene.places[0] = area + KERN_PAGE;
	scene.places[1] = area + 5 * KERN_PAGE;
	atomic_store(&scene.at, scene.places[0]);
	CHECK_EQ(kern_register(scene.uffd, scene.places[0], KERN_PAGE,
			       UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&reader, read_events, NULL);
	kern_start(&mover, move_to_and_fro, NULL);
	while (!atomic_load(&scene.is_over)) {
		nr_absent += copy_some(source);
		sched_yield();
	}
	CHECK_EQ(kern_join(&mover), 0);
	CHECK_EQ(kern_join(&reader), 0);
	printf("%u of %d moves were met between two looks\n", nr_absent, NR_MOVES);
	return 0;
}
