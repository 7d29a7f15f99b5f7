/* SPDX-License-Identifier: Apache-2.0
 * wire.c — whole messages over a stream socket (wire.h). */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "agent.h"

enum { LINE_MAX_BYTES = 500 };

int tsp_send(int fd, enum tsp_type type, int rc, const void *payload, size_t len_bytes)
{
	struct tsp_head head = { .type = type, .rc = rc, .len_bytes = (uint32_t)len_bytes };
	struct iovec parts[2] = {
		{ .iov_base = &head, .iov_len = sizeof(head) },
		{ .iov_base = (void *)(uintptr_t)payload, .iov_len = len_bytes },
	};
	struct msghdr msg = { .msg_iov = parts, .msg_iovlen = len_bytes ? 2 : 1 };

	while (msg.msg_iovlen) {
		ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		while (msg.msg_iovlen && (size_t)sent >= msg.msg_iov->iov_len) {
			sent -= (ssize_t)msg.msg_iov->iov_len;
			msg.msg_iov++;
			msg.msg_iovlen--;
		}
		if (msg.msg_iovlen) {
			msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + sent;
			msg.msg_iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

void tsp_send_line(int fd, int level, const char *text)
{
	struct {
		struct tsp_head head;
		char text[LINE_MAX_BYTES];
	} line;
	size_t len = strnlen(text, sizeof(line.text));

	line.head = (struct tsp_head){ .type = TSP_LINE, .rc = level, .len_bytes = (uint32_t)len };
	memcpy(line.text, text, len);
	/* One message, so that lines do not mix; so short that it goes whole or not at all. */
	if (send(fd, &line, sizeof(line.head) + len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

int tsp_recv(int fd, void *data, size_t len_bytes)
{
	size_t done = 0;

	while (done < len_bytes) {
		ssize_t got = recv(fd, (char *)data + done, len_bytes - done, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EPIPE;
		done += (size_t)got;
	}
	return 0;
}
