/* SPDX-License-Identifier: Apache-2.0
 *
 * test_nth_once.c — every call of every kind fails once: nothing lost, nobody asleep, nothing left
 * open. One RAM tier; test_nth_ladder.c does the same with all three stores. */
#include "nth.h"

#define ONCE(site, err)                                                               \
	nth_sweep_both((struct nth){ .sites = NTH_SITE(site), .error = (err), .name = #site, \
				     .dense = 16 })

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
	ONCE(IOCTL_API, EINVAL);
	ONCE(IOCTL_REGISTER, ENOMEM);
	ONCE(IOCTL_SCAN, ENOMEM);
}

static void installing(void)
{
	ONCE(IOCTL_COPY, ENOMEM);
	ONCE(IOCTL_ZEROPAGE, EAGAIN);
	ONCE(IOCTL_WAKE, EINVAL);
	ONCE(UFFD_READ, EAGAIN);
}

static void taking(void)
{
	ONCE(IOCTL_MOVE, EBUSY);
	ONCE(IOCTL_MOVE, EAGAIN);
	ONCE(IOCTL_MOVE, ENOMEM);
	ONCE(IOCTL_WP, EAGAIN);
	ONCE(IOCTL_WP, ENOMEM);
	ONCE(FALLOCATE, EIO);
	ONCE(PREAD, EIO);
}

static void storing(void)
{
	ONCE(STORE_PUT, EIO);
	ONCE(STORE_PUT, ENOSPC);
	ONCE(STORE_GET, EIO);
	ONCE(STORE_DEL, EIO);
}

CHECK_MAIN({ "memory", memory }, { "opening", opening }, { "installing", installing },
	   { "taking", taking }, { "storing", storing })
