/* SPDX-License-Identifier: Apache-2.0
 *
 * With UFFD_FEATURE_SIGBUS a missing page is no message but SIGBUS for the thread that touched it,
 * and EFAULT (or a short count) for a system call; COPY works as ever and makes the page usable.
 */
#include "kern_thread.h"

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_SIGBUS), file = kern_memfd(2);
	char *area = kern_anon(2), source[KERN_PAGE];
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_read_signal(area + 17), SIGBUS);
	CHECK_EQ(kern_siginfo.si_code, BUS_ADRERR);
	CHECK_EQ(kern_addr(kern_siginfo.si_addr), kern_addr(area + 17));

	CHECK_EQ(write(file, area, KERN_PAGE), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_read_signal(area), 0);
	CHECK_EQ(write(file, area, 2 * KERN_PAGE), KERN_PAGE);
	CHECK(!kern_has_msg(uffd));
	return 0;
}
