/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_MOVE wants both sides alike: mlock() or another protection on one side alone is EINVAL.
 * MADV_DONTNEED refuses locked memory (EINVAL), MADV_DONTNEED_LOCKED does not.
 */
#include "kern_thread.h"

int main(void)
{
	int fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(2), *staging = kern_anon(2);
	kern_fill(guest, 2, 'o');
	CHECK_EQ(kern_register(fd, staging, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	if (syscall(SYS_mlock, guest, 2 * KERN_PAGE)) /* sanitizers turn mlock() into nothing */
		KERN_SKIP("mlock: %s", strerror(errno));
	CHECK_EQ(kern_move(fd, staging, guest, KERN_PAGE), -EINVAL);
	CHECK_EQ(madvise(guest + KERN_PAGE, KERN_PAGE, MADV_DONTNEED), -1);
	CHECK_EQ(errno, EINVAL);
	CHECK_EQ(syscall(SYS_mlock2, staging, 2 * KERN_PAGE, 1 /* MLOCK_ONFAULT */), 0);
	CHECK_EQ(kern_move(fd, staging, guest, KERN_PAGE), 0);
	CHECK_EQ(staging[0], 'o');
	CHECK_EQ(madvise(staging, KERN_PAGE, MADV_DONTNEED_LOCKED), 0);
	CHECK(!kern_is_present(staging));

	CHECK_EQ(syscall(SYS_munlock, staging, 2 * KERN_PAGE), 0);
	CHECK_EQ(syscall(SYS_munlock, guest, 2 * KERN_PAGE), 0);
	CHECK_EQ(mprotect(guest, 2 * KERN_PAGE, PROT_READ), 0);
	CHECK_EQ(kern_move(fd, staging, guest + KERN_PAGE, KERN_PAGE), -EINVAL);
	return 0;
}
