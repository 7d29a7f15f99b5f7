/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_swap.h — a swap file for as long as the program runs, and pages that go there on request,
 * for the kernel tests.
 */
#ifndef TS_TESTS_KERNEL_KERN_SWAP_H
#define TS_TESTS_KERNEL_KERN_SWAP_H

#include <sys/swap.h>

#include "kern.h"

static char kern_swap_path[64];

static inline void kern_swap_off(void)
{
	if (kern_swap_path[0] && swapoff(kern_swap_path) == 0)
		unlink(kern_swap_path);
}

/* 16 MiB; the header's page as swapon(2) wants it (version 1, last page, magic). */
static inline void kern_swap_on(void)
{
	enum { NR = 4096 };
	static unsigned char page[KERN_PAGE];
	uint32_t *words = (uint32_t *)(page + 1024);
	snprintf(kern_swap_path, sizeof kern_swap_path, "/tmp/kern-swap-%d", getpid());
	int fd = open(kern_swap_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	words[0] = 1;
	words[1] = NR - 1;
	memcpy(page + KERN_PAGE - 10, "SWAPSPACE2", 10);
	CHECK_EQ(posix_fallocate(fd, 0, (off_t)NR * KERN_PAGE), 0);
	CHECK_EQ(pwrite(fd, page, sizeof page, 0), KERN_PAGE);
	CHECK_EQ(fsync(fd), 0);
	CHECK_EQ(close(fd), 0);
	if (swapon(kern_swap_path, 0)) {
		int error = errno;
		unlink(kern_swap_path);
		KERN_SKIP("swapon: %s", strerror(error));
	}
	CHECK_EQ(atexit(kern_swap_off), 0);
}

/* Returns when the page is mapped no more. */
static inline void kern_page_out(void *page)
{
	uint64_t end_ms = kern_now_ms() + KERN_TIMEOUT_MS;
	while (kern_is_present(page)) {
		CHECK(kern_now_ms() < end_ms);
		if (madvise(page, KERN_PAGE, MADV_PAGEOUT))
			KERN_SKIP("madvise(MADV_PAGEOUT): %s", strerror(errno));
		usleep(1000); /* paces the polling */
	}
}

#endif
