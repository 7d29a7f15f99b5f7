/* SPDX-License-Identifier: Apache-2.0
 * place.c — how many fault threads there are, and on which CPUs (place.h). */
#include "fault/place.h"

#include <pthread.h>
#include <sched.h>

#include "util/base.h"
#include "util/limits.h"

/* More than this on one userfaultfd only wake each other up. */
enum { AUTO_THREADS_MAX = 4 };

unsigned ts_place_threads(const struct ts_engine_options *options, int *cpus)
{
	unsigned nr_cpus = 0, nr_threads = options->nr_fault_threads;
	cpu_set_t ours;

	for (int cpu = 0; cpu < 64 && options->placement == TS_PLACEMENT_FIXED; cpu++)
		if (options->fault_cpus >> cpu & 1 && nr_cpus < TS_FAULT_THREAD_MAX)
			cpus[nr_cpus++] = cpu;
	if (!nr_threads && nr_cpus)
		nr_threads = nr_cpus;
	if (!nr_threads && !sched_getaffinity(0, sizeof(ours), &ours))
		nr_threads = TS_MIN((unsigned)CPU_COUNT(&ours), (unsigned)AUTO_THREADS_MAX);
	nr_threads = TS_MAX(nr_threads, 1);
	nr_threads = TS_MIN(nr_threads, (unsigned)TS_FAULT_THREAD_MAX);
	for (unsigned i = nr_cpus; i < nr_threads; i++)
		cpus[i] = nr_cpus ? cpus[i % nr_cpus] : -1;
	return nr_threads;
}

void ts_place_pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	/* A CPU that is not ours any more: the scheduler's choice is right, too, only slower. */
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}
