/* SPDX-License-Identifier: Apache-2.0
 * swap.h — a swap file for a test. */
#ifndef TS_TESTS_SWAP_H
#define TS_TESTS_SWAP_H

#include <errno.h>
#include <fcntl.h>
#include <sys/swap.h>

#include "../guest.h"

enum { SWAP_MIB = 96 };

static char swap_path[160];

/* A check that fails ends the program, and must not leave its swap behind. */
static inline void swap_forget(void)
{
	for (unsigned n = 0; swap_path[0] && n < 10 && swapoff(swap_path) && errno != EINVAL; n++)
		usleep(100000);
	swap_path[0] = '\0';
}

/* The header's page as swapon(2) wants it (version 1, last page, magic).  False: no swap here (not
 * root, or a file system without). */
static inline bool swap_on(const char *path)
{
	static unsigned char page[GUEST_PAGE];
	uint32_t *words = (uint32_t *)(page + 1024);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	words[0] = 1;
	words[1] = SWAP_MIB * 256 - 1;
	memcpy(page + GUEST_PAGE - 10, "SWAPSPACE2", 10);
	CHECK_EQ(posix_fallocate(fd, 0, (off_t)SWAP_MIB << 20), 0);
	CHECK_EQ(pwrite(fd, page, sizeof(page), 0), GUEST_PAGE);
	CHECK_EQ(fsync(fd), 0);
	close(fd);
	if (!swapon(path, 0)) {
		bool is_first = !swap_path[0];
		snprintf(swap_path, sizeof(swap_path), "%s", path);
		CHECK(!is_first || atexit(swap_forget) == 0);
		return true;
	}
	CHECK(errno == EPERM || errno == EINVAL || errno == ENOSYS);
	return false;
}

#endif
