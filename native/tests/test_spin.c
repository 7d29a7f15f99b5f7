/* SPDX-License-Identifier: Apache-2.0
 *
 * test_spin.c — a thread looks around before it sleeps, for a read or for the next fault
 * (fault/spin.h), and more and more seldom where that is in vain. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "fault/spin.h"

enum { FOR_FAULTS = -1 };

static struct pollfd event;

static void *write_late(void *arg)
{
	uint64_t one = 1;

	usleep(20000);  /* many times the longest look around */
	CHECK_EQ(write(*(int *)arg, &one, sizeof(one)), sizeof(one));
	return NULL;
}

static void wait_event(struct ts_spin *spin, int nr_reads)
{
	uint64_t value;

	CHECK_EQ(ts_spin_poll(spin, &(struct ts_spin_wait){
					.polls = &event,
					.nr_polls = 1,
					.start_ns = ts_now_ns(),
					.is_for_faults = nr_reads == FOR_FAULTS,
					.nr_reads = nr_reads == FOR_FAULTS ? 0 : (unsigned)nr_reads,
				}), 1);
	CHECK_EQ(read(event.fd, &value, sizeof(value)), sizeof(value));
}

static void wait_late(struct ts_spin *spin, int nr_reads)
{
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, write_late, &event.fd), 0);
	wait_event(spin, nr_reads);
	pthread_join(thread, NULL);
}

static void wait_ready(struct ts_spin *spin, int nr_reads)
{
	uint64_t one = 1;

	CHECK_EQ(write(event.fd, &one, sizeof(one)), sizeof(one));
	wait_event(spin, nr_reads);
}

static struct ts_spin begin(void)
{
	event = (struct pollfd){ eventfd(0, EFD_CLOEXEC), POLLIN, 0 };
	CHECK(event.fd >= 0);
	return (struct ts_spin){ .has_cpus = true };
}

static void what_is_in_vain_becomes_rare(void)
{
	struct ts_spin spin = begin();

	wait_late(&spin, 1);
	CHECK_EQ(spin.nr_misses, 1);
	CHECK_EQ(spin.nr_skips, 2);
	wait_ready(&spin, 1);
	wait_ready(&spin, 1);
	CHECK_EQ(spin.nr_misses, 1);
	CHECK_EQ(spin.nr_skips, 0);
	wait_late(&spin, 2);
	CHECK_EQ(spin.nr_skips, 4);
	for (unsigned i = 0; i < 5; i++)
		wait_ready(&spin, 1);
	CHECK_EQ(spin.nr_misses, 0);
	CHECK_EQ(spin.nr_skips, 0);
	close(event.fd);
}

static void nobody_looks_around_for_nothing(void)
{
	struct ts_spin spin = begin();

	wait_late(&spin, 0);    /* no read under way */
	wait_late(&spin, 16);   /* many: the next is near */
	spin.has_cpus = false;
	wait_late(&spin, 1);
	CHECK_EQ(spin.nr_misses, 0);
	for (unsigned i = 0; i < 4; i++)
		wait_ready(&spin, FOR_FAULTS);
	CHECK_EQ(spin.nr_soon, 0);
	close(event.fd);
}

/* CPU time is what tells a thread that looked around from one that slept at once. */
static uint64_t cpu_ns(void)
{
	struct timespec used;

	CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used), 0);
	return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static uint64_t cpu_ns_of_late_wait(struct ts_spin *spin)
{
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, write_late, &event.fd), 0);
	uint64_t start_ns = cpu_ns();
	wait_event(spin, FOR_FAULTS);
	uint64_t used_ns = cpu_ns() - start_ns;
	pthread_join(thread, NULL);
	return used_ns;
}

static void faults_that_come_soon_are_awaited(void)
{
	struct ts_spin spin = begin();

	/* Another process may have the CPU for a moment, which then was not soon. */
	for (unsigned i = 0; i < 1000 && spin.nr_soon < 4; i++)
		wait_ready(&spin, FOR_FAULTS);
	CHECK_EQ(spin.nr_soon, 4);
	wait_late(&spin, FOR_FAULTS);
	CHECK_EQ(spin.nr_soon, 2);
	wait_late(&spin, FOR_FAULTS);
	CHECK_EQ(spin.nr_soon, 0);
	/* From here on none is expected, and the thread sleeps at once. */
	CHECK(cpu_ns_of_late_wait(&spin) < 20000000 / 10);
	CHECK_EQ(spin.nr_soon, 0);
	/* What a read takes is no fault's. */
	wait_ready(&spin, 1);
	CHECK_EQ(spin.nr_soon, 0);
	close(event.fd);
}

CHECK_MAIN({ "what_is_in_vain_becomes_rare", what_is_in_vain_becomes_rare },
	   { "nobody_looks_around_for_nothing", nobody_looks_around_for_nothing },
	   { "faults_that_come_soon_are_awaited", faults_that_come_soon_are_awaited })
