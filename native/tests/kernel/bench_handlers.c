/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_handlers.c — where should the threads run that answer faults?  Prints, for one and two
 * handlers, pinned and free, on one descriptor: the latency of faults on CPU 0, and what a thread
 * that computes on CPU 1 loses by the wake-ups.  Needs two CPUs, and an otherwise idle machine: on
 * a loaded one the losses mean nothing.  Each row is a process of its own.
 *
 * Reading: a handler on the faulting CPU answers several times faster than one on another CPU, and
 * a free one is pulled there by the scheduler.  Pinning one to each CPU wakes all of them for each
 * fault.
 */
#include "kern_thread.h"

#include <time.h>

enum { NR_FAULTS = 3000, ANYWHERE = -1 };

struct row {
	const char *name;
	int nr_handlers;
	int cpus[2];
};

static int uffd;
static char source[KERN_PAGE];
static _Atomic uint64_t work;
static _Atomic uint64_t nr_idle_wakeups;

static double now_us(void)
{
	struct timespec t;
	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &t), 0);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void pin_to(int cpu)
{
	if (cpu != ANYWHERE)
		kern_pin(cpu);
}

/* Serves until the process ends; so does compute(). */
static long serve(void *arg)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	struct uffd_msg msg;
	pin_to(*(const int *)arg);
	for (;;) {
		CHECK(poll(&p, 1, -1) == 1);
		if (read(uffd, &msg, sizeof msg) != sizeof msg) {
			atomic_fetch_add(&nr_idle_wakeups, 1);
			continue;
		}
		char *page = (char *)(uintptr_t)(msg.arg.pagefault.address & ~(KERN_PAGE - 1ull));
		CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	}
	return 0;
}

static long compute(void *arg)
{
	(void)arg;
	kern_pin(1);
	for (;;) {
		for (int i = 0; i < 10000; i++)
			__asm__ volatile("" ::: "memory");
		atomic_fetch_add(&work, 1);
	}
	return 0;
}

/* Work a millisecond while CPU 0 is busy with itself. */
static double work_undisturbed(void)
{
	double start_us = now_us();
	uint64_t before = atomic_load(&work);
	while (now_us() - start_us < 100e3)
		continue;
	return (double)(atomic_load(&work) - before) / (now_us() - start_us);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void measure(const struct row *row, bool is_computing)
{
	static double latency_us[NR_FAULTS];
	static struct kern_thread handlers[2], computer;
	char *area = kern_anon(NR_FAULTS);
	uffd = kern_uffd(0);
	CHECK_EQ(kern_register(uffd, area, (size_t)NR_FAULTS * KERN_PAGE,
			 UFFDIO_REGISTER_MODE_MISSING),
		0);
	for (int i = 0; i < row->nr_handlers; i++) {
		kern_start(&handlers[i], serve, (void *)(uintptr_t)&row->cpus[i]);
		kern_wait_asleep_in(&handlers[i], "poll");
	}
	if (is_computing)
		kern_start(&computer, compute, NULL);
	kern_pin(0);
	double quiet = work_undisturbed(), start_us = now_us();
	uint64_t before = atomic_load(&work);
	for (size_t i = 0; i < NR_FAULTS; i++) {
		double t = now_us();
		(void)*(volatile char *)(area + i * KERN_PAGE);
		latency_us[i] = now_us() - t;
	}
	double took_us = now_us() - start_us;
	double busy = (double)(atomic_load(&work) - before) / took_us;
	qsort(latency_us, NR_FAULTS, sizeof latency_us[0], compare);
	printf("%-28s p50 %6.1f us  p99 %7.1f us  %7.0f faults/s  idle wake-ups %5" PRIu64,
		row->name, latency_us[NR_FAULTS / 2], latency_us[NR_FAULTS * 99 / 100],
		NR_FAULTS / took_us * 1e6, atomic_load(&nr_idle_wakeups));
	if (is_computing)
		printf("  CPU 1 loses %3.0f %%", 100 * (1 - busy / quiet));
	putchar('\n');
}

int main(void)
{
	static const struct row rows[] = {
		{"1 handler, CPU 0", 1, {0, 0}},
		{"1 handler, CPU 1", 1, {1, 1}},
		{"1 handler, free", 1, {ANYWHERE, ANYWHERE}},
		{"2 handlers, CPU 0 and CPU 1", 2, {0, 1}},
		{"2 handlers, free", 2, {ANYWHERE, ANYWHERE}},
	};
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		KERN_SKIP("needs two CPUs");
	for (int is_computing = 0; is_computing < 2; is_computing++)
		for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
			pid_t pid = fork();
			CHECK(pid >= 0);
			if (pid == 0) {
				measure(&rows[i], is_computing);
				fflush(stdout);
				_exit(0);
			}
			int status;
			CHECK_EQ(waitpid(pid, &status, 0), pid);
			if (WEXITSTATUS(status))
				return WEXITSTATUS(status);
		}
	return 0;
}
