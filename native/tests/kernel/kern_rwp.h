/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_rwp.h — read-write protection (Linux 7.3) with bare ioctls, for the kernel tests.
 *
 * Each program that starts with kern_rwp_uffd() is skipped on an older kernel.  "Async" is the mode
 * in which a touch of a protected page is noted and let through, "sync" the one in which it waits.
 */
#ifndef TS_TESTS_KERNEL_KERN_RWP_H
#define TS_TESTS_KERNEL_KERN_RWP_H

#include "kern_thread.h"

enum { KERN_RWP = UFFD_PAGEFAULT_FLAG_RWP, KERN_WRITE = UFFD_PAGEFAULT_FLAG_WRITE };

/* In sync mode; `more` are further features. */
static inline int kern_rwp_uffd(uint64_t more)
{
	return kern_uffd(UFFD_FEATURE_RWP | more);
}

static inline int kern_rwprotect_mode(int uffd, void *addr, size_t len_bytes, uint64_t mode)
{
	struct uffdio_rwprotect arg = {.range = {kern_addr(addr), len_bytes}, .mode = mode};
	return ioctl(uffd, UFFDIO_RWPROTECT, &arg) ? -errno : 0;
}

static inline int kern_rwprotect(int uffd, void *addr, size_t nr_pages)
{
	return kern_rwprotect_mode(uffd, addr, nr_pages * KERN_PAGE, UFFDIO_RWPROTECT_MODE_RWP);
}

static inline int kern_rwclear(int uffd, void *addr, size_t nr_pages)
{
	return kern_rwprotect_mode(uffd, addr, nr_pages * KERN_PAGE, 0);
}

static inline int kern_set_mode(int uffd, uint64_t enable, uint64_t disable)
{
	struct uffdio_set_mode arg = {.enable = enable, .disable = disable};
	return ioctl(uffd, UFFDIO_SET_MODE, &arg) ? -errno : 0;
}

static inline int kern_rwp_async(int uffd)
{
	return kern_set_mode(uffd, UFFD_FEATURE_RWP_ASYNC, 0);
}

static inline int kern_rwp_sync(int uffd)
{
	return kern_set_mode(uffd, 0, UFFD_FEATURE_RWP_ASYNC);
}

static inline void kern_rwp_register(int uffd, void *addr, size_t nr_pages, uint64_t more_modes)
{
	CHECK_EQ(kern_register(uffd, addr, nr_pages * KERN_PAGE,
			  UFFDIO_REGISTER_MODE_RWP | more_modes),
		0);
}

/* Pages that count as accessed. */
static inline long kern_nr_accessed(const void *addr, size_t nr_pages)
{
	return kern_scan(addr, nr_pages * KERN_PAGE, PAGE_IS_ACCESSED, 0);
}

/* Present, protected, and so not accessed. */
static inline bool kern_is_cold(const void *page)
{
	return kern_is_present(page) && kern_pm_bit(page, KERN_PM_UFFD) &&
		kern_nr_accessed(page, 1) == 0;
}

/* Nobody was asked: the touch went through and left no message. */
static inline void kern_touch_unseen(int uffd, const void *page)
{
	struct kern_thread reader;
	kern_start(&reader, kern_run_read, (void *)(uintptr_t)page);
	kern_join(&reader);
	CHECK(!kern_has_msg(uffd));
}

#endif
