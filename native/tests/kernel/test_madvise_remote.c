/* SPDX-License-Identifier: Apache-2.0
 *
 * process_madvise(MADV_DONTNEED) works on the caller's own memory, several ranges a call, and is
 * EINVAL on another process's: private memory can be given back only from inside its process.
 */
#include "kern_thread.h"

#include <sys/uio.h>

static long advise(int pidfd, const struct iovec *ranges, int advice)
{
	long n = syscall(SYS_process_madvise, pidfd, ranges, 2, advice, 0);
	return n < 0 ? -errno : n;
}

int main(void)
{
	char *area = kern_anon(4);
	struct iovec ranges[2] = {{area, KERN_PAGE}, {area + 2 * KERN_PAGE, KERN_PAGE}};
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		pause();
		_exit(0);
	}
	int self_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	int child_fd = (int)syscall(SYS_pidfd_open, child, 0);
	CHECK(self_fd >= 0 && child_fd >= 0);
	kern_fill(area, 4, 'o');

	long other = advise(child_fd, ranges, MADV_DONTNEED);
	long other_cold = advise(child_fd, ranges, MADV_COLD);
	long own = advise(self_fd, ranges, MADV_DONTNEED);
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	CHECK_EQ(other, -EINVAL);
	CHECK_EQ(other_cold, 2 * KERN_PAGE);
	if (own == -EINVAL)
		KERN_SKIP("process_madvise(self, MADV_DONTNEED) came with Linux 6.13");
	CHECK_EQ(own, 2 * KERN_PAGE);
	CHECK_EQ(kern_scan(area, 4 * KERN_PAGE, PAGE_IS_PRESENT, 0), 2);
	return 0;
}
