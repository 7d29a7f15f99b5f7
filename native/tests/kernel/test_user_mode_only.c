/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFD_USER_MODE_ONLY serves faults of user code alone: a system call that touches a missing page
 * fails with EFAULT, and so would KVM's faults.  Hence it cannot serve guest memory.
 */
#include "kern_thread.h"

int main(void)
{
	int uffd = kern_uffd_raw(UFFD_USER_MODE_ONLY);
	char *area = kern_anon(2), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_api(uffd, 0, NULL), 0);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');

	CHECK_EQ(write(kern_memfd(1), area + KERN_PAGE, KERN_PAGE), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK(!kern_has_msg(uffd));
	return 0;
}
