/* SPDX-License-Identifier: Apache-2.0
 * handoff.c — the double's userfaultfd and its messages (handoff.h). */
#include "handoff.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/uapi.h"
#include "wrong.h"

enum {
	FDS_MAX = RAM_RANGES_MAX + 1,
	VANISHED = 9,
};

/* ---- The userfaultfd -------------------------------------------------------------------- */

static bool has_token(const char *mode, const char *token)
{
	size_t len = strlen(token);

	for (const char *at = mode; (at = strstr(at, token)); at += len)
		if ((at == mode || at[-1] == '|') && (at[len] == '|' || !at[len]))
			return true;
	return false;
}

static uint64_t modes_of(const char *mode)
{
	uint64_t modes = 0;

	if (has_token(mode, "MISSING"))
		modes |= UFFDIO_REGISTER_MODE_MISSING;
	if (has_token(mode, "WP"))
		modes |= UFFDIO_REGISTER_MODE_WP;
	if (has_token(mode, "RWP"))
		modes |= UFFDIO_REGISTER_MODE_RWP;
	return modes;
}

static uint64_t features_of(const struct handoff *handoff, bool is_memfd)
{
	uint64_t features = 0;

	if (handoff->protocol == HANDOFF_FIRECRACKER)
		return handoff->has_no_remove ? 0 : UFFD_FEATURE_EVENT_REMOVE;
	if (has_token(handoff->mode, "WP"))
		features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	if (has_token(handoff->mode, "WP_UNPOPULATED"))
		features |= UFFD_FEATURE_WP_UNPOPULATED;
	if (has_token(handoff->mode, "WP_ASYNC"))
		features |= UFFD_FEATURE_WP_ASYNC;
	/* What is in the memfd and not mapped is not protected: MINOR is agreed on, for a manager
	 * that wants to evict, and the VMM itself does not register for it. */
	if (has_token(handoff->mode, "RWP"))
		features |= UFFD_FEATURE_RWP | (is_memfd ? UFFD_FEATURE_MINOR_SHMEM : 0);
	if (has_token(handoff->mode, "RWP_ASYNC"))
		features |= UFFD_FEATURE_RWP_ASYNC;
	return features;
}

/* The device first, as the VMMs do: it asks for file permissions only. */
static int open_uffd(void)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), uffd = -1;

	if (device >= 0) {
		uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	}
	if (uffd < 0)
		uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return uffd;
}

void handoff_open_uffd(struct handoff *handoff, const struct ram *ram)
{
	struct uffdio_api api = {
		.api = UFFD_API, .features = features_of(handoff, ram->is_memfd),
	};

	handoff->uffd = open_uffd();
	if (handoff->uffd < 0)
		ram_die(77, "userfaultfd: %s", strerror(errno));
	if (ioctl(handoff->uffd, UFFDIO_API, &api))
		ram_die(77, "UFFDIO_API for %s: %s", handoff->mode, strerror(errno));
	for (unsigned i = 0; i < atomic_load(&ram->nr_ranges); i++)
		handoff_register(handoff, &ram->ranges[i]);
}

void handoff_register(const struct handoff *handoff, const struct ram_range *range)
{
	struct uffdio_register arg = {
		.range = { (uintptr_t)range->addr, range->len_bytes },
		.mode = modes_of(handoff->mode),
	};

	if (ioctl(handoff->uffd, UFFDIO_REGISTER, &arg))
		ram_die(77, "UFFDIO_REGISTER for %s: %s", handoff->mode, strerror(errno));
}

/* ---- Bodies ----------------------------------------------------------------------------- */

static void put_firecracker(const struct handoff *handoff, FILE *body,
			    const struct wrong_region *region)
{
	fprintf(body, "{\"base_host_virt_addr\":%s,", region->addr);
	if (!wrong_is(handoff, "missing-key"))
		fprintf(body, "\"size\":%s,", region->len);
	fprintf(body, "\"offset\":%" PRIu64, region->offset_bytes);
	if (handoff->page_size_fields > 1)
		fputs(",\"page_size\":4096", body);
	if (handoff->page_size_fields > 0)
		fputs(",\"page_size_kib\":4096", body);
	fputc('}', body);
}

static void put_cloud_hypervisor(const struct handoff *handoff, FILE *body,
				 const struct wrong_region *region)
{
	fprintf(body, "{\"guest_phys_addr\":%" PRIu64 ",\"host_virt_addr\":%s,",
		region->guest_addr, region->addr);
	if (!wrong_is(handoff, "missing-key"))
		fprintf(body, "\"size\":%s,", region->len);
	fprintf(body, "\"backing_file_offset\":%" PRIu64 "}", region->offset_bytes);
}

static void put_regions(const struct handoff *handoff, FILE *body, const struct ram *ram)
{
	struct wrong_region *list;
	unsigned nr = wrong_regions(handoff, ram, &list);

	fputc('[', body);
	for (unsigned i = 0; i < nr; i++) {
		if (i)
			fputc(',', body);
		if (handoff->protocol == HANDOFF_FIRECRACKER)
			put_firecracker(handoff, body, &list[i]);
		else
			put_cloud_hypervisor(handoff, body, &list[i]);
	}
	fputc(']', body);
	free(list);
}

static void put_first(const struct handoff *handoff, FILE *body, const struct ram *ram)
{
	if (wrong_body(handoff, body))
		return;
	if (handoff->protocol == HANDOFF_FIRECRACKER) {
		put_regions(handoff, body, ram);
		return;
	}
	fprintf(body, "{\"type\":\"handoff\",\"version\":%d,\"vmm_pid\":%d,",
		wrong_is(handoff, "version") ? 99 : 0, wrong_is(handoff, "pid") ? 1 : getpid());
	if (!wrong_is(handoff, "no-mode"))
		fprintf(body, "\"mode\":\"%s\",",
			wrong_is(handoff, "mode") ? "MISSING|TELEPATHY" : handoff->mode);
	fputs("\"regions\":", body);
	put_regions(handoff, body, ram);
	fputc('}', body);
}

/* ---- Sending ---------------------------------------------------------------------------- */

struct message {
	char *bytes;
	size_t len_bytes;
};

static FILE *message_open(struct message *message)
{
	FILE *body = open_memstream(&message->bytes, &message->len_bytes);

	if (!body)
		ram_die(3, "no memory");
	return body;
}

static void message_close(struct message *message, FILE *body)
{
	if (fclose(body))
		ram_die(3, "no memory");
}

/* A frame of cloud-hypervisor's; firecracker has none. */
static void message_frame(const struct handoff *handoff, struct message *message)
{
	uint32_t len = (uint32_t)message->len_bytes;

	if (handoff->protocol == HANDOFF_FIRECRACKER)
		return;
	if (wrong_is(handoff, "huge-length"))
		len = UINT32_MAX - 1;
	if (wrong_is(handoff, "zero-length"))
		len = 0;
	char *framed = malloc(message->len_bytes + 4);
	if (!framed)
		ram_die(3, "no memory");
	for (unsigned i = 0; i < 4; i++)
		framed[i] = (char)(len >> 8 * i);
	memcpy(framed + 4, message->bytes, message->len_bytes);
	free(message->bytes);
	message->bytes = framed;
	message->len_bytes += 4;
}

static ssize_t send_with_fds(int sock, const char *bytes, size_t len_bytes, const int *fds,
			     unsigned nr_fds)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FDS_MAX)] = { 0 };
	struct iovec part = { (void *)bytes, len_bytes };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (nr_fds) {
		header.msg_control = control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * nr_fds);
	}
	return sendmsg(sock, &header, MSG_NOSIGNAL);
}

/* All of a message, in the pieces that were asked for.  False: the manager hung up or hangs. */
static bool send_message(const struct handoff *handoff, const struct message *message,
			 const int *fds, unsigned nr_fds)
{
	bool is_slow = handoff->byte_delay_ms > 0, is_fd_late = handoff->is_fd_late && nr_fds;
	size_t done = 0;

	while (done < message->len_bytes) {
		size_t len = message->len_bytes - done;
		bool has_fds = nr_fds && done == (is_fd_late ? 1 : 0);
		if (is_slow || (is_fd_late && done == 0))
			len = 1;
		ssize_t sent = send_with_fds(handoff->socket, message->bytes + done, len, fds,
					     has_fds ? nr_fds : 0);
		if (sent <= 0)
			return false;
		done += (size_t)sent;
		if (len == 1)
			usleep(1000 * (is_slow ? handoff->byte_delay_ms : 50));
	}
	return true;
}

static void vanish_at(const struct handoff *handoff, const char *step)
{
	if (strcmp(handoff->vanish, step) == 0)
		_exit(VANISHED);
}

static enum handoff_result await_answer(struct handoff *handoff)
{
	struct pollfd events = { .fd = handoff->socket, .events = POLLIN };
	char byte;

	if (handoff->protocol == HANDOFF_FIRECRACKER && !*handoff->wrong)
		return HANDOFF_READY;
	int rc = poll(&events, 1, (int)handoff->patience_ms);
	if (rc <= 0)
		return HANDOFF_TIMEOUT;
	return recv(handoff->socket, &byte, 1, 0) == 1 ? HANDOFF_READY : HANDOFF_CLOSED;
}

/* ---- The first message ------------------------------------------------------------------ */

static int make_null(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		ram_die(70, "/dev/null: %s", strerror(errno));
	return fd;
}

static unsigned collect_fds(const struct handoff *handoff, const struct ram *ram, int *fds)
{
	unsigned nr = 0;

	if (wrong_is(handoff, "no-fd"))
		return 0;
	fds[nr++] = wrong_is(handoff, "null-fd") ? make_null() : handoff->uffd;
	if (wrong_is(handoff, "two-fds"))
		fds[nr++] = handoff->uffd;
	while (wrong_is(handoff, "many-fds") && nr < FDS_MAX)
		fds[nr++] = handoff->uffd;
	for (unsigned i = 0; handoff->has_memfds && i < ram->nr_ranges && nr < FDS_MAX; i++)
		if (i == 0 || ram->ranges[i].memfd != ram->ranges[i - 1].memfd)
			fds[nr++] = ram->ranges[i].memfd;
	return nr;
}

static int connect_to(const char *path, unsigned patience_ms)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = patience_ms / 1000 };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0 || strlen(path) >= sizeof(address.sun_path))
		ram_die(2, "%s: not a possible socket", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)))
		ram_die(70, "setsockopt: %s", strerror(errno));
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)) == 0)
		return sock;
	close(sock);
	return -1;
}

static enum handoff_result send_first(struct handoff *handoff, const struct ram *ram)
{
	struct message message;
	int fds[FDS_MAX];
	unsigned nr_fds = collect_fds(handoff, ram, fds);
	FILE *body = message_open(&message);

	put_first(handoff, body, ram);
	message_close(&message, body);
	message_frame(handoff, &message);
	bool is_half = wrong_is(handoff, "truncated") || strcmp(handoff->vanish, "message") == 0;
	if (is_half)
		message.len_bytes /= 2;
	bool is_sent = send_message(handoff, &message, fds, nr_fds);
	if (is_sent && wrong_is(handoff, "duplicate"))
		is_sent = send_message(handoff, &message, fds, nr_fds);
	free(message.bytes);
	vanish_at(handoff, "message");
	vanish_at(handoff, "handoff");
	if (wrong_is(handoff, "truncated") && shutdown(handoff->socket, SHUT_WR))
		return HANDOFF_CLOSED;
	return is_sent ? await_answer(handoff) : HANDOFF_CLOSED;
}

enum handoff_result handoff_connect(struct handoff *handoff, const struct ram *ram)
{
	if (handoff_is_open(handoff))
		return HANDOFF_REFUSED;
	handoff_disconnect(handoff);
	handoff->socket = connect_to(handoff->path, handoff->patience_ms);
	if (handoff->socket < 0)
		return HANDOFF_REFUSED;
	vanish_at(handoff, "connect");
	enum handoff_result result = send_first(handoff, ram);
	if (result == HANDOFF_READY)
		vanish_at(handoff, "ready");
	else
		handoff_disconnect(handoff);
	return result;
}

/* ---- Later ------------------------------------------------------------------------------ */

static enum handoff_result send_body(struct handoff *handoff, struct message *message)
{
	message_frame(handoff, message);
	bool is_sent = send_message(handoff, message, NULL, 0);
	free(message->bytes);
	return is_sent ? await_answer(handoff) : HANDOFF_CLOSED;
}

enum handoff_result handoff_add_region(struct handoff *handoff, const struct ram_range *range)
{
	struct wrong_region region = { .offset_bytes = range->offset_bytes,
				       .guest_addr = range->guest_addr };
	struct message message;

	if (handoff->protocol == HANDOFF_FIRECRACKER || handoff->socket < 0)
		return HANDOFF_REFUSED;
	snprintf(region.addr, sizeof(region.addr), "%" PRIuPTR, (uintptr_t)range->addr);
	snprintf(region.len, sizeof(region.len), "%" PRIu64, range->len_bytes);
	FILE *body = message_open(&message);
	fputs("{\"type\":\"add_region\",\"region\":", body);
	put_cloud_hypervisor(handoff, body, &region);
	fputc('}', body);
	message_close(&message, body);
	return send_body(handoff, &message);
}

enum handoff_result handoff_send_text(struct handoff *handoff, const char *text)
{
	struct message message;

	if (handoff->socket < 0)
		return HANDOFF_REFUSED;
	FILE *body = message_open(&message);
	fputs(text, body);
	message_close(&message, body);
	return send_body(handoff, &message);
}

void handoff_disconnect(struct handoff *handoff)
{
	if (handoff->socket >= 0)
		close(handoff->socket);
	handoff->socket = -1;
}

bool handoff_is_open(struct handoff *handoff)
{
	char bytes[256];

	while (handoff->socket >= 0) {
		ssize_t got = recv(handoff->socket, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (got < 0)
			return errno == EAGAIN;
		if (got == 0)
			return false;
		handoff->received_bytes += (uint64_t)got;
	}
	return false;
}

const char *handoff_result_name(enum handoff_result result)
{
	static const char *const names[] = { "ready", "timeout", "closed", "refused" };

	return names[result];
}
