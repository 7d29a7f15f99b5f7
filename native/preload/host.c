/* SPDX-License-Identifier: Apache-2.0
 *
 * host.c — the shim's life in the program: settings, the agent thread, forks.
 *
 * A program that maps nothing of interest gets no thread and no engine.  The thread is started from
 * the mmap() that brings the first area, if malloc is the C library's: that one never calls us.
 * Another malloc may call mmap() with its locks held, and starting a thread allocates; there the
 * thread is started early.
 *
 * A fork waits until the agent has brought everything back and closed its engine.  Then the
 * child has all the memory, and no lock of the agent's C library is held in it.
 */
#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

enum agent_state { AGENT_NONE, AGENT_IDLE, AGENT_BUSY, AGENT_OFF };

enum { STACK_BYTES = 1 << 20, SETTINGS_MAX = 8192 };

static char settings[SETTINGS_MAX];
static const char *socket_path;
static bool is_on, is_eager;
static _Atomic uint32_t wake_word, is_pausing, agent_state, is_wanted;
static _Atomic(const struct tsp_agent *) agent;
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
_Thread_local bool tsp_is_forking;
static sigset_t forkers_mask;
static bool has_guard;

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void set_state(enum agent_state state)
{
	atomic_store(&agent_state, (uint32_t)state);
	futex_wake(&agent_state);
}

static void news(void)
{
	atomic_fetch_add(&wake_word, 1);
	futex_wake(&wake_word);
}

const struct tsp_agent *tsp_host_agent(void)
{
	return atomic_load(&agent);
}

/* ---- The agent thread ---------------------------------------------------------------------- */

static void complain(const char *why)
{
	char line[600];
	int len = snprintf(line, sizeof(line), "tierstore: process %d runs without tiers: %s\n",
			   (int)getpid(), why);

	if (len > 0 && write(STDERR_FILENO, line, strnlen(line, sizeof(line))) < 0)
		return; /* Nobody listens. */
}

static void on_prepare(void)
{
	if (!tsp_is_forking)
		tsp_fork_prepare();
}

static void on_parent(void)
{
	/* Nobody says here whether there is a child. */
	if (!tsp_is_forking)
		tsp_fork_parent(true);
}

static void on_child(void)
{
	if (!tsp_is_forking)
		tsp_fork_child();
}

/* For fork()s inside of the C library (daemon, forkpty), which do not come through our own.  So
 * late, because handlers registered last prepare first: before malloc locks itself. */
static void guard_forks(void)
{
	if (!has_guard)
		has_guard = !pthread_atfork(on_prepare, on_parent, on_child);
}

/* The agent lies beside this library. */
static int load_agent(char *why, unsigned why_len)
{
	char path[PATH_MAX + 32];
	Dl_info info;

	if (atomic_load(&agent))
		return 0;
	if (!dladdr(&tsp_table, &info) || !info.dli_fname || strlen(info.dli_fname) > PATH_MAX) {
		snprintf(why, why_len, "can't find its own library");
		return -1;
	}
	const char *slash = strrchr(info.dli_fname, '/');
	int folder_len = slash ? (int)(slash - info.dli_fname) + 1 : 0;
	snprintf(path, sizeof(path), "%.*slibtierstore-agent.so", folder_len, info.dli_fname);
	void *handle = dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_LOCAL);
	const struct tsp_agent *found = handle ? dlsym(handle, "tsp_agent") : NULL;
	if (!found) {
		const char *error = dlerror();
		snprintf(why, why_len, "can't load the engine: %.400s", error ? error : path);
		return -1;
	}
	atomic_store(&agent, found);
	return 0;
}

static int run_session(void)
{
	static const struct tsp_host host_template = {
		.table = &tsp_table, .wake = &wake_word, .is_pausing = &is_pausing,
		.lock = tsp_lock, .unlock = tsp_unlock, .guard_forks = guard_forks,
	};
	static struct tsp_host host;
	char why[512] = "";

	host = host_template;
	host.socket_path = socket_path;
	int rc = load_agent(why, sizeof(why));
	if (!rc)
		rc = atomic_load(&agent)->session(&host, why, sizeof(why));
	if (rc < 0 && why[0])
		complain(why);
	return rc;
}

static void *agent_main(void *unused)
{
	(void)unused;
	for (;;) {
		uint32_t seen = atomic_load(&wake_word);
		if (atomic_load(&is_wanted) && !atomic_load(&is_pausing)) {
			set_state(AGENT_BUSY);
			/* Whoever forks sets is_pausing before it looks at the state. */
			if (!atomic_load(&is_pausing) && run_session() < 0) {
				set_state(AGENT_OFF);
				return NULL;
			}
			set_state(AGENT_IDLE);
			continue;
		}
		futex_wait(&wake_word, seen);
	}
}

static void start_agent(void)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, before;
	uint32_t none = AGENT_NONE;

	if (!atomic_compare_exchange_strong(&agent_state, &none, AGENT_IDLE))
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, agent_main, NULL)) {
		complain("it can't start a thread");
		set_state(AGENT_OFF);
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void tsp_host_want(void)
{
	if (!is_on)
		return;
	if (!atomic_exchange(&is_wanted, 1))
		news();
	if (!is_eager && atomic_load(&agent_state) == AGENT_NONE)
		start_agent();
}

/* ---- Forks --------------------------------------------------------------------------------- */

/* A handler that forks would wait for the fork that it interrupts.  What an instruction of the
 * thread's own raises stays open: blocked, it would end a program whose fork handlers count on it.
 */
static void block_handlers(sigset_t *before)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t all;

	sigfillset(&all);
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_BLOCK, &all, before);
}

void tsp_fork_prepare(void)
{
	sigset_t before;

	if (!is_on)
		return;
	block_handlers(&before);
	pthread_mutex_lock(&fork_lock);
	forkers_mask = before;
	atomic_store(&is_pausing, 1);
	news();
	while (atomic_load(&agent_state) == AGENT_BUSY)
		futex_wait(&agent_state, AGENT_BUSY);
	tsp_lock();
	/* Detaching has undone what the program had said about these. */
	for (uint32_t i = 0; i < tsp_table.nr_used; i++) {
		struct tsp_area *area = &tsp_table.areas[i];
		int advice = area->is_dontfork ? MADV_DONTFORK : MADV_DOFORK;
		if ((area->is_dontfork || area->has_grown) && area->end > area->start)
			syscall(SYS_madvise, area->start, area->end - area->start, advice);
		area->has_grown = false;
	}
}

void tsp_fork_parent(bool has_child)
{
	if (!is_on)
		return;
	sigset_t before = forkers_mask;
	for (uint32_t i = 0; has_child && i < tsp_table.nr_used; i++) {
		struct tsp_area *area = &tsp_table.areas[i];
		/* A write of the child's to shared memory could be lost: that stays where it is. */
		if (area->kind == TSP_KIND_MEMFD && !area->is_dontfork)
			area->state = TSP_AREA_LEFT;
		area->was_shared = true;
	}
	tsp_unlock();
	atomic_store(&is_pausing, 0);
	pthread_mutex_unlock(&fork_lock);
	news();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void tsp_fork_child(void)
{
	if (!is_on)
		return;
	/* What came along is shared with the parent, which can't be moved. */
	for (uint32_t i = 0; i < tsp_table.nr_used; i++) {
		tsp_table.areas[i].state = TSP_AREA_LEFT;
		tsp_table.areas[i].region = 0;
	}
	tsp_lock_renew();
	if (atomic_load(&agent))
		atomic_load(&agent)->child();
	fork_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	atomic_store(&is_wanted, 0);
	atomic_store(&is_pausing, 0);
	if (atomic_load(&agent_state) != AGENT_OFF)
		atomic_store(&agent_state, AGENT_NONE);
	if (is_eager)
		start_agent();
	sigset_t before = forkers_mask;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- Settings ------------------------------------------------------------------------------ */

static void apply(const char *key, const char *value)
{
	struct tsp_rule *rule = &tsp_table.rule;

	if (!strcmp(key, "socket"))
		socket_path = value;
	else if (!strcmp(key, "min"))
		rule->bytes_min = strtoull(value, NULL, 10);
	else if (!strcmp(key, "max"))
		rule->bytes_max = strtoull(value, NULL, 10);
	else if (!strcmp(key, "anon"))
		rule->has_anon = value[0] == '1';
	else if (!strcmp(key, "memfd"))
		rule->has_memfd = value[0] == '1';
	else if (!strcmp(key, "name"))
		snprintf(rule->memfd_name, sizeof(rule->memfd_name), "%s", value);
	else if (!strcmp(key, "preload")) {
		/* What the program starts by exec starts without us. */
		unsetenv("TIERSTORE_RUN");
		if (value[0])
			setenv("LD_PRELOAD", value, 1);
		else
			unsetenv("LD_PRELOAD");
	}
}

/* "key=value;key=value": TIERSTORE_RUN, written by tierstore/preload/launch.py. */
static void parse_settings(const char *text)
{
	char *save = NULL;

	if (strlen(text) >= sizeof(settings)) {
		complain("TIERSTORE_RUN is too long");
		return;
	}
	memcpy(settings, text, strlen(text) + 1);
	for (char *word = strtok_r(settings, ";", &save); word; word = strtok_r(NULL, ";", &save)) {
		char *equals = strchr(word, '=');
		if (!equals)
			continue;
		*equals = '\0';
		apply(word, equals + 1);
	}
	is_on = socket_path != NULL && tsp_table.rule.bytes_min > 0;
}

static bool has_own_malloc(void)
{
	Dl_info of_malloc, of_libc;
	void *found = dlsym(RTLD_DEFAULT, "malloc");

	if (!found || !dladdr(found, &of_malloc) || !dladdr(&gnu_get_libc_version, &of_libc))
		return true;
	return of_malloc.dli_fbase != of_libc.dli_fbase;
}

__attribute__((constructor)) static void start(void)
{
	const char *text = getenv("TIERSTORE_RUN");

	if (!text)
		return;
	parse_settings(text);
	is_eager = has_own_malloc();
	if (is_on && is_eager)
		start_agent();
}
