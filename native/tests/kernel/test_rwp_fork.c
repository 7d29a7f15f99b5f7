/* SPDX-License-Identifier: Apache-2.0
 *
 * fork() and read-write protection: without EVENT_FORK the child's pages are unprotected and it
 * reads without asking, while the parent keeps its protection; with MADV_DONTFORK the child has no
 * such memory.  What the child shares can't be moved (EBUSY), with it or after it.
 */
#include "kern_rwp.h"

/* What the child says about the page: its first byte, or 'x' where there is none. */
static int child_reads(const char *page)
{
	int status;
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(kern_read_signal(page) ? 'x' : (unsigned char)page[0]);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

int main(void)
{
	int uffd = kern_rwp_uffd(UFFD_FEATURE_MOVE);
	char *area = kern_anon(2), *staging = kern_anon(1);
	kern_fill(area, 2, 'o');
	kern_rwp_register(uffd, area, 2, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_register(uffd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_rwprotect(uffd, area, 2), 0);
	CHECK_EQ(madvise(area + KERN_PAGE, KERN_PAGE, MADV_DONTFORK), 0);
	CHECK_EQ(child_reads(area), 'o');
	CHECK_EQ(child_reads(area + KERN_PAGE), 'x');
	CHECK(kern_is_cold(area));
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(kern_move(uffd, staging, area, KERN_PAGE), -EBUSY);
	CHECK_EQ(kern_move(uffd, staging, area + KERN_PAGE, KERN_PAGE), 0);
	return 0;
}
