/* SPDX-License-Identifier: Apache-2.0
 *
 * A descriptor that another process made and handed over works on that process's memory: messages,
 * COPY, WRITEPROTECT and WAKE.  MOVE is refused (EINVAL): it needs the memory to be the caller's.
 * When the owner has died COPY answers ESRCH, and neither poll() nor read() says that it died: the
 * holder must watch the process by other means.
 */
#include "kern_thread.h"

#include <sys/prctl.h>

enum { NR = 4 };

struct shared {
	_Atomic int uffd; /* its number in the owner, + 1 */
	_Atomic int seen; /* what the owner read from its missing page, + 1 */
	_Atomic bool may_exit;
};

static void owner(struct shared *shared, char *area)
{
	CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE,
			 UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	atomic_store(&shared->uffd, uffd + 1);
	int seen = *(volatile unsigned char *)area;
	atomic_store(&shared->seen, seen + 1);
	while (!atomic_load(&shared->may_exit))
		sched_yield();
	_exit(0);
}

/* The owner's descriptor, in this process. */
static int take_uffd(pid_t pid, struct shared *shared)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	CHECK(pidfd >= 0);
	while (atomic_load(&shared->uffd) == 0) {
		CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
		sched_yield();
	}
	int uffd = (int)syscall(SYS_pidfd_getfd, pidfd, atomic_load(&shared->uffd) - 1, 0);
	if (uffd < 0)
		KERN_SKIP("pidfd_getfd: %s", strerror(errno));
	CHECK_EQ(close(pidfd), 0);
	return uffd;
}

int main(void)
{
	struct shared *shared = mmap(NULL, KERN_PAGE, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	close(kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP)); /* skip here, not in the child */
	char *area = kern_anon(NR), source[KERN_PAGE];
	kern_fill(source, 1, 's');
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		owner(shared, area);
	int uffd = take_uffd(pid, shared);

	kern_expect_fault(uffd, area, 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	while (atomic_load(&shared->seen) == 0) {
		CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
		sched_yield();
	}
	CHECK_EQ(atomic_load(&shared->seen), 's' + 1);
	CHECK(!kern_is_present(area)); /* ours is untouched */
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	CHECK_EQ(kern_wake(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_move(uffd, area + KERN_PAGE, area, KERN_PAGE), -EINVAL);

	atomic_store(&shared->may_exit, true);
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), -ESRCH);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, 0), -ESRCH);
	CHECK(!kern_has_msg(uffd));
	struct uffd_msg msg;
	CHECK_EQ(read(uffd, &msg, sizeof msg), -1);
	CHECK_EQ(errno, EAGAIN);
	return 0;
}
