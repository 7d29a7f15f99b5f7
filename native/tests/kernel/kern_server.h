/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_server.h — threads that read a userfaultfd and answer: for kernel tests with load.
 *
 * Start as many servers on one descriptor as wanted; each calls `answer` with one message at a
 * time.  They stop through an eventfd, after the messages that were queued by then.
 */
#ifndef TS_TESTS_KERNEL_KERN_SERVER_H
#define TS_TESTS_KERNEL_KERN_SERVER_H

#include <sys/eventfd.h>

#include "kern_thread.h"

struct kern_server {
	int uffd;
	int stop_fd;
	void (*answer)(struct kern_server *server, const struct uffd_msg *msg);
	void *arg;
	uint64_t nr_answered;
	struct kern_thread thread;
};

static inline long kern_server_run(void *arg)
{
	struct kern_server *server = arg;
	struct pollfd fds[2] = {
		{.fd = server->uffd, .events = POLLIN}, {.fd = server->stop_fd, .events = POLLIN}};
	for (;;) {
		struct uffd_msg msg;
		CHECK(poll(fds, 2, KERN_TIMEOUT_MS) > 0);
		/* Another server may have been faster: then there is nothing to read. */
		if (fds[0].revents && read(server->uffd, &msg, sizeof msg) == sizeof msg) {
			server->answer(server, &msg);
			server->nr_answered++;
		} else if (fds[1].revents) {
			return 0;
		}
	}
}

static inline void kern_server_start(struct kern_server *server)
{
	server->stop_fd = eventfd(0, EFD_CLOEXEC);
	CHECK(server->stop_fd >= 0);
	kern_start(&server->thread, kern_server_run, server);
}

static inline void kern_server_stop(struct kern_server *server)
{
	CHECK_EQ(eventfd_write(server->stop_fd, 1), 0);
	CHECK_EQ(kern_join(&server->thread), 0);
	CHECK_EQ(close(server->stop_fd), 0);
}

#endif
