/* SPDX-License-Identifier: Apache-2.0
 *
 * test_nth_ladder.c — every call of every kind fails once, with pages in a ram, an lmdb and a file
 * store. */
#include "nth.h"

#define ONCE(site, err)                                                               \
	nth_sweep_both((struct nth){ .sites = NTH_SITE(site), .error = (err), .name = #site, \
				     .is_ladder = true, .dense = 8 })

static void memory(void)
{
	ONCE(MMAP, ENOMEM);
	ONCE(ALLOC, ENOMEM);
	ONCE(THREAD, EAGAIN);
	ONCE(MADVISE, ENOMEM);
}

static void opening(void)
{
	ONCE(OPEN, EMFILE);
	ONCE(IOCTL_REGISTER, ENOMEM);
}

static void in_and_out(void)
{
	ONCE(IOCTL_COPY, EAGAIN);
	ONCE(IOCTL_MOVE, EAGAIN);
	ONCE(IOCTL_WP, EAGAIN);
	ONCE(FALLOCATE, EIO);
	ONCE(PREAD, EIO);
}

static void storing(void)
{
	ONCE(STORE_PUT, EIO);
	ONCE(STORE_GET, EIO);
	ONCE(STORE_DEL, EIO);
}

static void inside_the_stores(void)
{
	ONCE(URING_SUBMIT, EAGAIN);
	ONCE(URING_RESULT, EIO);
	ONCE(URING_RESULT, ENOSPC);
	ONCE(LMDB, EIO);
}

CHECK_MAIN({ "memory", memory }, { "opening", opening }, { "in_and_out", in_and_out },
	   { "storing", storing }, { "inside_the_stores", inside_the_stores })
