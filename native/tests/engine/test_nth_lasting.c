/* SPDX-License-Identifier: Apache-2.0
 *
 * test_nth_lasting.c — from the Nth call on all of a kind fail, as they do when memory, room or a
 * device runs out, until it passes: whoever waited meanwhile goes on.  Gets are left out: a tier
 * that can't be read is the loss of a page by design (test_store_trouble.c). */
#include "nth.h"

#define LASTING(site, err)                                                            \
	nth_sweep_both((struct nth){ .sites = NTH_SITE(site), .error = (err), .name = #site, \
				     .is_sticky = true, .dense = 4 })

static void installing(void)
{
	LASTING(IOCTL_COPY, ENOMEM);
	LASTING(IOCTL_COPY, EAGAIN);
	LASTING(IOCTL_ZEROPAGE, ENOMEM);
	LASTING(UFFD_READ, EAGAIN);
}

static void taking(void)
{
	LASTING(IOCTL_MOVE, EAGAIN);
	LASTING(IOCTL_MOVE, ENOMEM);
	LASTING(IOCTL_WP, EAGAIN);
	LASTING(FALLOCATE, ENOMEM);
	LASTING(PREAD, EIO);
	LASTING(MADVISE, ENOMEM);
	LASTING(IOCTL_SCAN, ENOMEM);
}

static void storing(void)
{
	LASTING(STORE_PUT, ENOSPC);
	LASTING(STORE_DEL, EIO);
	LASTING(ALLOC, ENOMEM);
}

/* Both ways out of the staging area at once. */
static void everything_but_wake(void)
{
	nth_sweep_both((struct nth){ .sites = NTH_SITE(IOCTL_COPY) | NTH_SITE(IOCTL_MOVE) |
					      NTH_SITE(IOCTL_ZEROPAGE) | NTH_SITE(IOCTL_WP) |
					      NTH_SITE(STORE_PUT),
				     .error = EAGAIN, .name = "many", .is_sticky = true,
				     .dense = 4 });
}

CHECK_MAIN({ "installing", installing }, { "taking", taking }, { "storing", storing },
	   { "everything_but_wake", everything_but_wake })
