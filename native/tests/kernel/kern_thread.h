/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_thread.h — threads that touch memory and go to sleep in it, and accesses that end in a
 * signal, for the kernel tests.
 *
 * A thread that is expected to sleep is never given "enough time".  kern_wait_asleep() waits for
 * the state itself (its wait channel in /proc), and kern_slept_through() proves that nothing woke
 * the thread since: a wake-up makes it runnable before the waker's call returns, and each return to
 * sleep counts a voluntary context switch.
 */
#ifndef TS_TESTS_KERNEL_KERN_THREAD_H
#define TS_TESTS_KERNEL_KERN_THREAD_H

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

#include "kern.h"

/* ---- Threads that touch memory ---------------------------------------------------------- */

/* One call on a thread of its own.  `run` gets the argument; what it returns is the result. */
struct kern_thread {
	pthread_t thread;
	long (*run)(void *arg);
	void *arg;
	_Atomic int tid;
	_Atomic bool is_done;
	long result;
	long nr_switches; /* at the last kern_wait_asleep() */
};

static inline void *kern_thread_main(void *self)
{
	struct kern_thread *t = self;
	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	t->result = t->run(t->arg);
	atomic_store(&t->is_done, true);
	return NULL;
}

static inline void kern_start(struct kern_thread *t, long (*run)(void *arg), void *arg)
{
	*t = (struct kern_thread){.run = run, .arg = arg};
	CHECK_EQ(pthread_create(&t->thread, NULL, kern_thread_main, t), 0);
	while (atomic_load(&t->tid) == 0)
		sched_yield();
}

static inline long kern_join(struct kern_thread *t)
{
	CHECK_EQ(pthread_join(t->thread, NULL), 0);
	return t->result;
}

/* This thread, and those it starts, on one CPU. */
static inline void kern_pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

/* Reads one byte / writes 'W' into one byte. */
static inline long kern_run_read(void *arg)
{
	return *(volatile unsigned char *)arg;
}

static inline long kern_run_write(void *arg)
{
	*(volatile char *)arg = 'W';
	return 0;
}

static inline void kern_task_file(struct kern_thread *t, const char *name, char *buf, size_t cap)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/task/%d/%s", atomic_load(&t->tid), name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, cap - 1);
	buf[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

static inline long kern_nr_switches(struct kern_thread *t)
{
	char buf[4096];
	kern_task_file(t, "status", buf, sizeof buf);
	const char *line = strstr(buf, "\nvoluntary_ctxt_switches:");
	return line ? strtol(line + 25, NULL, 10) : -1;
}

/* Is the thread asleep (state S or D), inside a kernel function of this name if one is given? */
static inline bool kern_is_asleep(struct kern_thread *t, const char *wait_channel)
{
	char buf[1024];
	if (atomic_load(&t->is_done))
		return false;
	kern_task_file(t, "wchan", buf, sizeof buf);
	if (wait_channel && strstr(buf, wait_channel) == NULL)
		return false;
	kern_task_file(t, "stat", buf, sizeof buf);
	const char *state = strrchr(buf, ')');
	return state && (state[2] == 'S' || state[2] == 'D');
}

/* Waits until the thread sleeps in this kernel function ("handle_userfault"; events:
 * "userfaultfd_event_wait_completion"). */
static inline void kern_wait_asleep_in(struct kern_thread *t, const char *wait_channel)
{
	uint64_t end_ms = kern_now_ms() + KERN_TIMEOUT_MS;
	while (!kern_is_asleep(t, wait_channel)) {
		if (atomic_load(&t->is_done))
			KERN_FAIL("the thread ended (%ld) instead of sleeping in %s", t->result,
				wait_channel);
		CHECK(kern_now_ms() < end_ms);
		usleep(50); /* only paces the polling */
	}
	t->nr_switches = kern_nr_switches(t);
}

static inline void kern_wait_asleep(struct kern_thread *t)
{
	kern_wait_asleep_in(t, "handle_userfault");
}

/* Has nothing woken the thread since kern_wait_asleep()? */
static inline bool kern_slept_through(struct kern_thread *t)
{
	return kern_is_asleep(t, "handle_userfault") && kern_nr_switches(t) == t->nr_switches;
}

/* ---- Faults that end in a signal -------------------------------------------------------- */

static __thread sigjmp_buf kern_jump;
static __thread siginfo_t kern_siginfo;

static inline void kern_on_signal(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)context;
	kern_siginfo = *info;
	siglongjmp(kern_jump, 1);
}

/* Reads the byte; 0, or the signal's number where the read ended in SIGBUS or SIGSEGV. */
static inline int kern_read_signal(const void *addr)
{
	struct sigaction action = {.sa_sigaction = kern_on_signal, .sa_flags = SA_SIGINFO};
	CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
	CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
	if (sigsetjmp(kern_jump, 1))
		return kern_siginfo.si_signo;
	(void)*(volatile const char *)addr;
	return 0;
}

#endif
