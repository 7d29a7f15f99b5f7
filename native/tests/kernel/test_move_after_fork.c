/* SPDX-License-Identifier: Apache-2.0
 *
 * After a fork every page answers UFFDIO_MOVE with EBUSY, also when the child is long gone, until
 * the page is next written: then it is exclusive again.  MADV_DONTFORK keeps pages movable.
 */
#include "kern_thread.h"

static void fork_and_wait(void)
{
	pid_t child = fork();
	int status;
	CHECK(child >= 0);
	if (child == 0)
		_exit(0);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
}

int main(void)
{
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(3), *staging = kern_anon(3);
	int64_t done;
	kern_fill(guest, 3, 'o');
	CHECK_EQ(kern_register(staging_fd, staging, 3 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);
	CHECK_EQ(madvise(guest + 2 * KERN_PAGE, KERN_PAGE, MADV_DONTFORK), 0);
	fork_and_wait();

	CHECK_EQ(kern_move_mode(staging_fd, staging, guest, KERN_PAGE, 0, &done), -EBUSY);
	CHECK_EQ(done, -EBUSY);
	CHECK_EQ(kern_move(staging_fd, staging, guest + 2 * KERN_PAGE, KERN_PAGE), 0);

	guest[0] = 'w';
	CHECK_EQ(kern_move(staging_fd, staging + KERN_PAGE, guest, KERN_PAGE), 0);
	CHECK_EQ(staging[KERN_PAGE], 'w');
	CHECK_EQ(kern_move(staging_fd, staging + 2 * KERN_PAGE, guest + KERN_PAGE, KERN_PAGE),
		-EBUSY);
	return 0;
}
