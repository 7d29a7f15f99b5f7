/* SPDX-License-Identifier: Apache-2.0
 *
 * forks.h — the ways in which program.c forks: by fork(), by clone(), inside of the C library, in a
 * signal handler while it forks already, and in vain.
 */
#ifndef FORKS_H
#define FORKS_H

#include <errno.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"

static bool wait_for(pid_t pid)
{
	int status = 0;

	if (waitpid(pid, &status, 0) != pid)
		return bad("waitpid: %s", strerror(errno));
	return status == 0 ? true : bad("the child ended with status %x", status);
}

static int in_child(void *unused)
{
	(void)unused;
	if (!check())
		return 1;
	for (unsigned a = 0; a < nr_areas; a++)
		for (size_t page = 0; page < areas[a].nr_pages && areas[a].fd < 0; page += 3)
			write_page(a, page, 1000);
	return check() ? 0 : 1;
}

static bool fork_and_check(uint32_t generation)
{
	pid_t pid = fork();

	if (pid < 0)
		return bad("fork: %s", strerror(errno));
	if (!pid)
		_exit(in_child(NULL));
	for (unsigned a = 0; a < nr_areas; a++)
		for (size_t page = 0; page < areas[a].nr_pages && areas[a].fd < 0; page += 7)
			write_page(a, page, generation);
	return check() & wait_for(pid);
}

/* The C library's own way to fork, which calls no fork() that could be interposed. */
static bool fork_inside(void)
{
	int terminal, pid = forkpty(&terminal, NULL, NULL, NULL);

	if (pid < 0)
		return bad("forkpty: %s", strerror(errno));
	if (!pid)
		_exit(in_child(NULL));
	bool is_right = wait_for(pid);
	close(terminal);
	return check() & is_right;
}

static bool clone_and_check(void)
{
	static char stack[1 << 20];
	int pid = clone(in_child, stack + sizeof(stack), SIGCHLD, NULL);

	return pid < 0 ? bad("clone: %s", strerror(errno)) : wait_for(pid);
}

/* ---- In vain ------------------------------------------------------------------------------- */

/* As a user who may have no process more: root may always.  For this thread alone, as the kernel
 * has it; the agent's go on as they are. */
static pid_t fork_beyond_limit(void)
{
	struct rlimit before, none;

	if (getrlimit(RLIMIT_NPROC, &before))
		return 0;
	none = before;
	none.rlim_cur = 0;
	if (setrlimit(RLIMIT_NPROC, &none) || syscall(SYS_setresuid, 65534, 65534, 0))
		return 0;
	pid_t pid = fork();
	int error = errno;
	if (syscall(SYS_setresuid, 0, 0, 0) || setrlimit(RLIMIT_NPROC, &before) ||
	    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
		return 0;
	errno = error;
	return pid;
}

static bool fork_and_fail(void)
{
	static char stack[4096];

	if (fork_beyond_limit() != -1 || errno != EAGAIN)
		return bad("fork beyond a limit: %s", strerror(errno));
	/* CLONE_SIGHAND is not for processes. */
	if (clone(in_child, stack + sizeof(stack), SIGCHLD | CLONE_SIGHAND, NULL) != -1 ||
	    errno != EINVAL)
		return bad("clone: %s", strerror(errno));
	return check();
}

/* ---- In a signal handler ------------------------------------------------------------------- */

static volatile bool child_was_right;
static _Atomic unsigned nr_handled;

static void fork_on_signal(int number)
{
	pid_t pid = fork();

	(void)number;
	if (!pid)
		_exit(in_child(NULL));
	child_was_right &= pid > 0 && wait_for(pid);
	nr_handled++;
}

static void *send_signals(void *arg)
{
	pthread_t target = *(pthread_t *)arg;
	struct timespec moment = { .tv_nsec = 500000 };

	/* Into the fork that brings memory back, which takes some of these moments. */
	for (unsigned i = 0; i < 3; i++) {
		nanosleep(&moment, NULL);
		pthread_kill(target, SIGUSR1);
	}
	return NULL;
}

/* Ended by SIGALRM if the handler's fork waits for the one that it interrupts. */
static bool fork_in_handler(void)
{
	struct sigaction action = { .sa_handler = fork_on_signal }, before;
	pthread_t self = pthread_self(), sender;

	child_was_right = true;
	nr_handled = 0;
	if (sigaction(SIGUSR1, &action, &before) ||
	    pthread_create(&sender, NULL, send_signals, &self))
		return bad("signal: %s", strerror(errno));
	alarm(30);
	bool is_right = fork_and_check(12);
	pthread_join(sender, NULL);
	while (!nr_handled)
		sched_yield();
	alarm(0);
	return is_right && child_was_right && !sigaction(SIGUSR1, &before, NULL) && check();
}

#endif
