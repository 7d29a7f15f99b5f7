/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_pinned.h — a page that is pinned, as io_uring pins registered buffers, and written past the
 * page table. */
#ifndef KERN_PINNED_H
#define KERN_PINNED_H

#include <liburing.h>
#include <sys/uio.h>

#include "kern.h"

/* The kernel reads one byte from the pipe into the registered buffer. */
static inline void kern_read_fixed(struct io_uring *ring, int fd, char *page)
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	io_uring_prep_read_fixed(sqe, fd, page, 1, 0, 0);
	CHECK_EQ(io_uring_submit(ring), 1);
	CHECK_EQ(io_uring_wait_cqe(ring, &cqe), 0);
	CHECK_EQ(cqe->res, 1);
	io_uring_cqe_seen(ring, cqe);
}

#endif
