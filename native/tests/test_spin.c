/* SPDX-License-Identifier: Apache-2.0
 *
 * test_spin.c — a thread that waits for a read looks around before it sleeps (fault/spin.h), and
 * more and more seldom where that is in vain. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "fault/spin.h"

static void *write_late(void *arg)
{
	uint64_t one = 1;

	usleep(20000);  /* many times the longest look around */
	CHECK_EQ(write(*(int *)arg, &one, sizeof(one)), sizeof(one));
	return NULL;
}

static void drain(struct pollfd *polls)
{
	uint64_t value;

	CHECK_EQ(read(polls->fd, &value, sizeof(value)), sizeof(value));
}

static void wait_late(struct ts_spin *spin, struct pollfd *polls, unsigned nr_reads)
{
	pthread_t thread;

	CHECK_EQ(pthread_create(&thread, NULL, write_late, &polls->fd), 0);
	CHECK_EQ(ts_spin_poll(spin, polls, 1, 0, nr_reads), 1);
	pthread_join(thread, NULL);
	drain(polls);
}

static void wait_ready(struct ts_spin *spin, struct pollfd *polls)
{
	uint64_t one = 1;

	CHECK_EQ(write(polls->fd, &one, sizeof(one)), sizeof(one));
	CHECK_EQ(ts_spin_poll(spin, polls, 1, 0, 1), 1);
	drain(polls);
}

static void what_is_in_vain_becomes_rare(void)
{
	struct pollfd polls = { eventfd(0, EFD_CLOEXEC), POLLIN, 0 };
	struct ts_spin spin = { .has_cpus = true };

	CHECK(polls.fd >= 0);
	wait_late(&spin, &polls, 1);
	CHECK_EQ(spin.nr_misses, 1);
	CHECK_EQ(spin.nr_skips, 2);
	wait_ready(&spin, &polls);
	wait_ready(&spin, &polls);
	CHECK_EQ(spin.nr_misses, 1);
	CHECK_EQ(spin.nr_skips, 0);
	wait_late(&spin, &polls, 2);
	CHECK_EQ(spin.nr_skips, 4);
	for (unsigned i = 0; i < 5; i++)
		wait_ready(&spin, &polls);
	CHECK_EQ(spin.nr_misses, 0);
	CHECK_EQ(spin.nr_skips, 0);
	close(polls.fd);
}

static void nobody_looks_around_for_nothing(void)
{
	struct pollfd polls = { eventfd(0, EFD_CLOEXEC), POLLIN, 0 };
	struct ts_spin spin = { .has_cpus = true };

	wait_late(&spin, &polls, 0);    /* no read under way */
	wait_late(&spin, &polls, 16);   /* many: the next is near */
	spin.has_cpus = false;
	wait_late(&spin, &polls, 1);
	CHECK_EQ(spin.nr_misses, 0);
	close(polls.fd);
}

CHECK_MAIN({ "what_is_in_vain_becomes_rare", what_is_in_vain_becomes_rare },
	   { "nobody_looks_around_for_nothing", nobody_looks_around_for_nothing })
