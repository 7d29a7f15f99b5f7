/* SPDX-License-Identifier: Apache-2.0
 * vcpu.c — the double's vCPU threads (vcpu.h). */
#include "vcpu.h"

#include <string.h>
#include <unistd.h>

#include "../../workload/content.h"

enum {
	HOT_RUN_PAGES = 64,
	HOT_TOUCH_PCT = 90,
	BATCH_US = 2000,        /* a vCPU with a rate sleeps this long between its touches */
	WAIT_NS = 10 * 1000,
	BLOCKED_NS = 10 * 1000 * 1000,
};

struct vcpu {
	pthread_t thread;
	uint64_t random;
	_Atomic uint64_t started_ns, nr_reads, nr_writes, nr_waits, wait_ns_max;
};

static struct ram *guest;
static struct vcpu_options with;
static struct vcpu vcpus[VCPU_MAX];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards the next two. */
static bool is_running;
static unsigned nr_resting;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static uint64_t next_random(struct vcpu *vcpu)
{
	return vcpu->random = content_mix(vcpu->random);
}

static bool is_hot(uint64_t page)
{
	return content_mix(guest->seed + page / HOT_RUN_PAGES) % 100 < with.hot_pct;
}

static uint64_t pick_page(struct vcpu *vcpu)
{
	uint64_t nr_pages = atomic_load(&guest->nr_pages);
	uint64_t page = next_random(vcpu) % nr_pages;
	bool is_hot_wanted = next_random(vcpu) % 100 < HOT_TOUCH_PCT;

	for (unsigned i = 0; is_hot_wanted && !is_hot(page) && i < 200; i++)
		page = next_random(vcpu) % nr_pages;
	return page;
}

static void touch_one(struct vcpu *vcpu)
{
	bool is_write = next_random(vcpu) % 100 < with.write_pct;
	struct ram_touch touch =
		ram_touch_page(guest, pick_page(vcpu), is_write, &vcpu->started_ns);

	atomic_fetch_add(is_write ? &vcpu->nr_writes : &vcpu->nr_reads, 1);
	if (touch.wait_ns > WAIT_NS)
		atomic_fetch_add(&vcpu->nr_waits, 1);
	if (touch.wait_ns > atomic_load(&vcpu->wait_ns_max))
		atomic_store(&vcpu->wait_ns_max, touch.wait_ns);
}

static void rest_if_told(void)
{
	pthread_mutex_lock(&lock);
	if (!is_running) {
		nr_resting++;
		pthread_cond_broadcast(&changed);
		while (!is_running)
			pthread_cond_wait(&changed, &lock);
		nr_resting--;
	}
	pthread_mutex_unlock(&lock);
}

static void *vcpu_main(void *argument)
{
	struct vcpu *vcpu = argument;
	unsigned nr_batch = with.touches_per_s / (1000000 / BATCH_US);

	for (;;) {
		rest_if_told();
		for (unsigned i = 0; i < (nr_batch ? nr_batch : 1); i++)
			touch_one(vcpu);
		if (with.touches_per_s)
			usleep(nr_batch ? BATCH_US : 1000000 / with.touches_per_s);
	}
	return NULL;
}

void vcpu_start(struct ram *ram, const struct vcpu_options *options)
{
	guest = ram;
	with = *options;
	for (unsigned i = 0; i < with.nr_vcpus; i++) {
		vcpus[i].random = ram->seed + i + 1;
		int rc = pthread_create(&vcpus[i].thread, NULL, vcpu_main, &vcpus[i]);
		if (rc)
			ram_die(3, "pthread_create: %s", strerror(rc));
	}
}

void vcpu_run(void)
{
	pthread_mutex_lock(&lock);
	is_running = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void vcpu_pause(void)
{
	pthread_mutex_lock(&lock);
	is_running = false;
	while (nr_resting < with.nr_vcpus)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

struct vcpu_stats vcpu_stats_get(void)
{
	struct vcpu_stats stats = { 0 };
	uint64_t now_ns = ram_now_ns();

	for (unsigned i = 0; i < with.nr_vcpus; i++) {
		uint64_t started_ns = atomic_load(&vcpus[i].started_ns);
		uint64_t wait_ns_max = atomic_load(&vcpus[i].wait_ns_max);
		stats.nr_reads += atomic_load(&vcpus[i].nr_reads);
		stats.nr_writes += atomic_load(&vcpus[i].nr_writes);
		stats.nr_waits += atomic_load(&vcpus[i].nr_waits);
		if (wait_ns_max > stats.wait_ns_max)
			stats.wait_ns_max = wait_ns_max;
		if (!started_ns || now_ns < started_ns + BLOCKED_NS)
			continue;
		stats.nr_blocked++;
		if (now_ns - started_ns > stats.blocked_ns_max)
			stats.blocked_ns_max = now_ns - started_ns;
	}
	return stats;
}
