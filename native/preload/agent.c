/* SPDX-License-Identifier: Apache-2.0
 *
 * agent.c — a session: from the connection to the controller to the closed engine.
 *
 * The agent thread and all threads that it starts have a table of descriptors of their own, so
 * that a program that closes or counts its descriptors finds none of ours.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_TEXT_MAX = 500, ANSWER_TIMEOUT_S = 10 };

/* One at a time; static, for requests and hooks may look at it whenever they like. */
static struct tsp_session session = {
	.regions_lock = PTHREAD_RWLOCK_INITIALIZER,
	.fds = { -1, -1, -1 },
};
static pid_t files_owner;  /* the thread whose table is our own: not one in a child */

uint64_t tsp_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- Before anything is started ------------------------------------------------------------ */

/* Our calls would be held to the program's rules, and might end it. */
static bool is_filtered(void)
{
	char text[4096], *found;
	int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	ssize_t len = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[len > 0 ? len : 0] = '\0';
	found = strstr(text, "Seccomp:");
	return found && strtol(found + 8, NULL, 10) != 0;
}

/* From here on descriptors are ours alone, and what the program has open it alone keeps open.
 * Of the standard ones stderr stays if it is no pipe that somebody might wait to see closed. */
static int take_own_files(void)
{
	struct stat status;

	if (files_owner == gettid())
		return 0;
	if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_UNSHARE))
		return -errno;
	files_owner = gettid();
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	bool keeps_stderr = !fstat(2, &status) && (S_ISCHR(status.st_mode) ||
						   S_ISREG(status.st_mode));
	if (dup2(fd, 0) < 0 || dup2(fd, 1) < 0 || (!keeps_stderr && dup2(fd, 2) < 0))
		return -errno;
	if (fd > 2)
		close(fd);
	return 0;
}

/* ---- The connections ----------------------------------------------------------------------- */

static int connect_channel(const char *path, enum tsp_channel channel)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct tsp_hello hello = {
		.version = TSP_WIRE_VERSION, .channel = channel, .pid = (uint32_t)getpid(),
		.stats_bytes = sizeof(struct ts_stats), .config_bytes = sizeof(struct tsp_config),
	};

	if (strlen(path) >= sizeof(name.sun_path))
		return -ENAMETOOLONG;
	memcpy(name.sun_path, path, strlen(path) + 1);
	int comm = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
	ssize_t len = comm >= 0 ? read(comm, hello.program, sizeof(hello.program) - 1) : 0;
	if (len > 0)
		hello.program[len - 1] = '\0';
	if (comm >= 0)
		close(comm);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int rc = connect(fd, (struct sockaddr *)&name, sizeof(name)) ? -errno :
		 tsp_send(fd, TSP_HELLO, 0, &hello, sizeof(hello));
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

static void hang_up(void)
{
	for (unsigned i = 0; i < 3; i++) {
		if (session.fds[i] >= 0)
			close(session.fds[i]);
		session.fds[i] = -1;
	}
}

static int fetch_config(char *why, unsigned why_len)
{
	char text[HEAD_TEXT_MAX + 1] = "";
	struct tsp_head head;

	int rc = tsp_recv(session.fds[TSP_CONTROL], &head, sizeof(head));
	if (!rc && head.rc < 0 && head.len_bytes <= HEAD_TEXT_MAX &&
	    !tsp_recv(session.fds[TSP_CONTROL], text, head.len_bytes)) {
		/* The controller has told its user; here it would be said twice. */
		why[0] = '\0';
		return head.rc;
	}
	if (!rc && (head.type != TSP_CONFIG || head.len_bytes != sizeof(session.config)))
		rc = -EPROTO;
	if (!rc)
		rc = tsp_recv(session.fds[TSP_CONTROL], &session.config, sizeof(session.config));
	if (rc)
		snprintf(why, why_len, "the controller sent no configuration: %s", strerror(-rc));
	return rc;
}

static int meet_controller(const struct tsp_host *host, char *why, unsigned why_len)
{
	for (unsigned i = 0; i < 3; i++) {
		int fd = connect_channel(host->socket_path, (enum tsp_channel)i);
		if (fd < 0) {
			snprintf(why, why_len, "no controller at %s: %s", host->socket_path,
				 strerror(-fd));
			return fd;
		}
		session.fds[i] = fd;
	}
	/* Not for ever: a fork may be waiting for us. */
	struct timeval patience = { .tv_sec = ANSWER_TIMEOUT_S }, forever = { 0 };
	(void)setsockopt(session.fds[TSP_CONTROL], SOL_SOCKET, SO_RCVTIMEO, &patience,
			 sizeof(patience));
	int rc = fetch_config(why, why_len);
	(void)setsockopt(session.fds[TSP_CONTROL], SOL_SOCKET, SO_RCVTIMEO, &forever,
			 sizeof(forever));
	return rc;
}

/* ---- The engine ---------------------------------------------------------------------------- */

static void on_log(void *user, int level, const char *text)
{
	(void)user;
	if (level <= TS_LOG_INFO)
		tsp_send_line(session.fds[TSP_LOG], level, text);
}

static int add_tiers(void)
{
	for (uint32_t i = 0; i < session.config.nr_tiers && i < TSP_TIER_MAX; i++) {
		const struct tsp_tier *tier = &session.config.tiers[i];
		struct ts_tier_options options = {
			.size = sizeof(options),
			.name = tier->name,
			.store = tier->store,
			.store_options = tier->options,
			.wrap = tier->wrap[0] ? tier->wrap : NULL,
			.path = tier->path[0] ? tier->path : NULL,
			.size_bytes = tier->size_bytes,
			.codec = tier->codec,
			.level = tier->level,
			.range_bytes = tier->range_bytes,
			.demote_after_ms = tier->demote_after_ms,
			.demote_above_pct = tier->demote_above_pct,
			.admit_ratio_pct = tier->admit_ratio_pct,
			.no_keep = tier->no_keep,
		};
		int rc = ts_engine_add_tier(session.engine, &options);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int open_engine(void)
{
	const struct tsp_config *config = &session.config;
	struct ts_engine_options options = {
		.size = sizeof(options),
		.nr_fault_threads = config->nr_fault_threads,
		.placement = config->placement,
		.fault_cpus = config->fault_cpus,
		.spin_us = config->spin_us,
		.nr_evict_threads = config->nr_evict_threads,
		.staging_bytes = config->staging_bytes,
		.log = on_log,
	};

	(void)ts_set_error(0, "");
	int rc = ts_engine_open(&options, &session.engine);
	if (rc) {
		session.engine = NULL;
		return rc;
	}
	rc = add_tiers();
	if (!rc)
		rc = ts_engine_start(session.engine);
	if (rc) {
		/* Closing might put another error in place of the one that counts. */
		char text[HEAD_TEXT_MAX];
		snprintf(text, sizeof(text), "%s", ts_last_error());
		ts_engine_close(session.engine);
		session.engine = NULL;
		return ts_set_error(rc, text);
	}
	return 0;
}

/* ---- The session --------------------------------------------------------------------------- */

static void *answer_control(void *unused)
{
	(void)unused;
	tsp_answer(&session, session.fds[TSP_CONTROL]);
	atomic_store(&session.is_orphan, true);
	return NULL;
}

static void *answer_watch(void *unused)
{
	(void)unused;
	tsp_answer(&session, session.fds[TSP_WATCH]);
	return NULL;
}

static void run(const struct tsp_host *host)
{
	struct timespec tick = { .tv_nsec = TSP_TICK_MS * 1000000L };

	while (!atomic_load(host->is_pausing)) {
		uint32_t seen = atomic_load(host->wake);
		/* Without a controller nothing more leaves, and what is away is served. */
		if (!atomic_load(&session.is_orphan))
			tsp_watch_tick(&session);
		if (!atomic_load(host->is_pausing))
			syscall(SYS_futex, host->wake, FUTEX_WAIT_PRIVATE, seen, &tick, NULL, 0);
	}
}

static int start_threads(pthread_t *control, pthread_t *watch)
{
	int rc = pthread_create(control, NULL, answer_control, NULL);

	if (rc)
		return -rc;
	rc = pthread_create(watch, NULL, answer_watch, NULL);
	if (rc) {
		shutdown(session.fds[TSP_CONTROL], SHUT_RDWR);
		pthread_join(*control, NULL);
	}
	return -rc;
}

static void end(pthread_t control, pthread_t watch)
{
	atomic_store(&session.is_ending, true);
	shutdown(session.fds[TSP_CONTROL], SHUT_RDWR);
	shutdown(session.fds[TSP_WATCH], SHUT_RDWR);
	pthread_join(control, NULL);
	pthread_join(watch, NULL);
	tsp_watch_end(&session);
}

static int serve(const struct tsp_host *host, char *why, unsigned why_len)
{
	pthread_t control, watch;
	const char *text = "";

	int rc = open_engine();
	if (rc)
		text = ts_last_error();
	(void)tsp_send(session.fds[TSP_CONTROL], TSP_READY, rc, text, strlen(text));
	if (rc) {
		why[0] = '\0'; /* The controller says it. */
		return rc;
	}
	host->guard_forks();
	atomic_store(&session.is_ending, false);
	atomic_store(&session.is_orphan, false);
	rc = start_threads(&control, &watch);
	if (rc) {
		snprintf(why, why_len, "it can't start a thread: %s", strerror(-rc));
		ts_engine_close(session.engine);
		session.engine = NULL;
		return rc;
	}
	run(host);
	end(control, watch);
	return 0;
}

static int run_session(const struct tsp_host *host, char *why, unsigned why_len)
{
	session.host = host;
	if (is_filtered()) {
		snprintf(why, why_len, "a seccomp filter is in force, to which our system calls "
			 "would be held, too");
		return TS_EPERMISSION;
	}
	int rc = take_own_files();
	if (rc) {
		snprintf(why, why_len, "close_range: %s", strerror(-rc));
		return rc;
	}
	pthread_setname_np(pthread_self(), "ts-agent");
	rc = meet_controller(host, why, why_len);
	if (!rc)
		rc = serve(host, why, why_len);
	hang_up();
	return rc;
}

static void on_punch_begin(void)
{
	pthread_rwlock_rdlock(&session.regions_lock);
}

static void on_punch_end(void)
{
	pthread_rwlock_unlock(&session.regions_lock);
}

static void on_child(void)
{
	session.regions_lock = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
}

static void on_punched(uint64_t inode, uint64_t offset, uint64_t len_bytes)
{
	tsp_watch_punched(&session, inode, offset, len_bytes);
}

static void on_removed(uint64_t addr, uint64_t len_bytes)
{
	tsp_watch_removed(&session, addr, len_bytes);
}

__attribute__((visibility("default"))) const struct tsp_agent tsp_agent = {
	.session = run_session,
	.punch_begin = on_punch_begin,
	.punch_end = on_punch_end,
	.child = on_child,
	.punched = on_punched,
	.removed = on_removed,
};
