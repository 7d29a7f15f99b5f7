/* SPDX-License-Identifier: Apache-2.0
 *
 * A page that is pinned for I/O (here: registered with io_uring) answers UFFDIO_MOVE with EBUSY and
 * stays where it is, until the pin is gone.  A page whose content merely sits in a pipe moves.
 */
#include "kern_thread.h"

#include <liburing.h>
#include <sys/uio.h>

int main(void)
{
	int fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE), pipe_fds[2];
	char *guest = kern_anon(2), *staging = kern_anon(2);
	struct iovec pinned = {guest, KERN_PAGE}, spliced = {guest + KERN_PAGE, KERN_PAGE};
	struct io_uring ring;
	int64_t done;
	kern_fill(guest, 2, 'o');
	CHECK_EQ(kern_register(fd, staging, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	int rc = io_uring_queue_init(2, &ring, 0);
	if (rc)
		KERN_SKIP("io_uring: %s", strerror(-rc));
	CHECK_EQ(io_uring_register_buffers(&ring, &pinned, 1), 0);
	CHECK_EQ(kern_move_mode(fd, staging, guest, KERN_PAGE, 0, &done), -EBUSY);
	CHECK_EQ(done, -EBUSY);
	CHECK(kern_is_present(guest));
	CHECK_EQ(io_uring_unregister_buffers(&ring), 0);
	io_uring_queue_exit(&ring);
	/* The kernel drops the pin by deferred work: ask until it has. */
	uint64_t end_ms = kern_now_ms() + KERN_TIMEOUT_MS;
	while ((rc = kern_move(fd, staging, guest, KERN_PAGE)) == -EBUSY) {
		CHECK(kern_now_ms() < end_ms);
		usleep(1000);
	}
	CHECK_EQ(rc, 0);
	CHECK_EQ(staging[0], 'o');

	CHECK_EQ(pipe(pipe_fds), 0);
	CHECK_EQ(vmsplice(pipe_fds[1], &spliced, 1, 0), KERN_PAGE);
	CHECK_EQ(kern_move(fd, staging + KERN_PAGE, guest + KERN_PAGE, KERN_PAGE), 0);
	return 0;
}
