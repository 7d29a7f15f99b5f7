/* SPDX-License-Identifier: Apache-2.0
 *
 * file_ring.c — setting up an io_uring for the store "file", and handing one request to it so
 * that a refusal leaves nothing behind. */
#include <errno.h>
#include <string.h>

#include "store/file.h"
#include "util/hook.h"

int ts_file_ring_open(struct ts_file *file, unsigned nr_entries, struct io_uring *ring_out,
		      bool *has_file_out)
{
	/* No interrupt to the waiting CPU where the kernel can do without (5.19). */
	unsigned flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
	int ret;

	if (TS_INJECT(TS_SITE_URING_SUBMIT)) {
		ret = -errno;
	} else {
		ret = io_uring_queue_init(nr_entries, ring_out, flags);
		if (ret == -EINVAL)
			ret = io_uring_queue_init(nr_entries, ring_out, 0);
	}
	switch (ret) {
	case 0:
		*has_file_out = io_uring_register_files(ring_out, &file->fd, 1) == 0;
		return 0;
	case -EPERM:
	case -EACCES:
		return ts_fail(TS_EPERMISSION, "io_uring_setup for %s: %s; allow it with "
			       "\"sysctl kernel.io_uring_disabled=0\" (in a container: in its "
			       "seccomp profile), or use "
			       "the store \"lmdb\"", file->path, strerror(-ret));
	case -ENOSYS:
		return ts_fail(TS_EUNSUPPORTED, "io_uring_setup for %s: this kernel is built "
			       "without io_uring; use the store \"lmdb\"", file->path);
	case -ENOMEM:
		return ts_fail(ret, "io_uring_setup for %s: out of locked memory; raise "
			       "RLIMIT_MEMLOCK (ulimit -l)", file->path);
	default:
		return ts_fail(ret, "io_uring_setup for %s: %s", file->path, strerror(-ret));
	}
}

bool ts_file_ring_register(struct io_uring *ring, void *base, size_t len_bytes)
{
	struct iovec range = { .iov_base = base, .iov_len = len_bytes };

	return io_uring_register_buffers(ring, &range, 1) == 0;
}

struct io_uring_sqe *ts_file_ring_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	/* Full of what was refused earlier: see whether the kernel takes it now. */
	if (!sqe && !TS_INJECT(TS_SITE_URING_SUBMIT) && io_uring_submit(ring) > 0)
		sqe = io_uring_get_sqe(ring);
	return sqe;
}

static int submit_once(struct io_uring *ring)
{
	return TS_INJECT(TS_SITE_URING_SUBMIT) ? -errno : io_uring_submit(ring);
}

int ts_file_ring_send(struct io_uring *ring)
{
	int ret = 0;

	/* The kernel may take fewer than there are, or be short of memory for a moment. */
	for (unsigned i = 0; i < TS_FILE_RETRY_MAX && io_uring_sq_ready(ring) > 0; i++) {
		ret = submit_once(ring);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN)
			break;
	}
	if (io_uring_sq_ready(ring) == 0)
		return 0;
	return ret < 0 ? ret : -EIO;
}

int ts_file_ring_submit(struct io_uring *ring, struct io_uring_sqe *sqe)
{
	int ret = ts_file_ring_send(ring);

	if (ret == 0)
		return 0;
	/* The entry stays in the ring and would go out with the next one, into a buffer that is
	 * no longer ours: turn it into a request for nothing that nobody waits for. */
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	return ret;
}
