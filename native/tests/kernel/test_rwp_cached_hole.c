/* SPDX-License-Identifier: Apache-2.0
 *
 * What is cached but not mapped is not stopped by read-write protection: RWPROTECT leaves no
 * marker in a hole of the page table, and in sync mode a write to such a page of a memfd goes
 * through.  So "not accessed" is not "safe to take": only a page that was seen present and
 * protected while in sync mode is.  Registered for MINOR as well, the touch waits.
 */
#include "kern_rwp.h"

static char *cached(int *fd_out)
{
	char *alias = kern_shared(*fd_out = kern_memfd(1), 1);
	kern_fill(alias, 1, 'o');
	return kern_shared(*fd_out, 1);
}

int main(void)
{
	int uffd = kern_rwp_uffd(0), fd;
	char *page = cached(&fd);
	struct kern_thread reader;
	kern_rwp_register(uffd, page, 1, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, page, 1), 0);
	CHECK_EQ(kern_nr_accessed(page, 1), 0);
	CHECK(!kern_is_present(page));
	page[0] = 'w';
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(kern_punch(fd, 0, 1), 0);

	int minor = kern_rwp_uffd(UFFD_FEATURE_MINOR_SHMEM);
	page = cached(&fd);
	kern_rwp_register(minor, page, 1,
		UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	CHECK_EQ(kern_rwprotect(minor, page, 1), 0);
	kern_start(&reader, kern_run_read, page);
	kern_wait_asleep(&reader);
	kern_expect_fault(minor, page, UFFD_PAGEFAULT_FLAG_MINOR);
	CHECK_EQ(kern_continue(minor, page, KERN_PAGE, NULL), 0);
	CHECK_EQ(kern_join(&reader), 'o');
	return 0;
}
