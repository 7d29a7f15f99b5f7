/* SPDX-License-Identifier: Apache-2.0
 * thread.c — starting threads (thread.h). */
#include "util/thread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "util/base.h"
#include "util/hook.h"

int ts_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
	char short_name[16];
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = TS_INJECT(TS_SITE_THREAD) ? errno : pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return ts_fail(-rc, "thread %s: pthread_create: %s", name, strerror(rc));
	snprintf(short_name, sizeof(short_name), "%.15s", name);
	pthread_setname_np(*thread, short_name);
	return 0;
}

void ts_thread_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void ts_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}
