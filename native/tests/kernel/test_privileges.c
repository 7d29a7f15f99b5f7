/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may have a userfaultfd: with vm.unprivileged_userfaultfd = 0, userfaultfd() without
 * CAP_SYS_PTRACE is EPERM unless it asks for USER_MODE_ONLY; /dev/userfaultfd goes by the file's
 * permissions alone, so a descriptor of it opened by root serves a process without privileges.
 */
#include "kern_thread.h"

static int sysctl_value(void)
{
	char text[8] = "";
	int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) < 1)
		KERN_SKIP("no vm.unprivileged_userfaultfd");
	CHECK_EQ(close(fd), 0);
	return text[0] - '0';
}

int main(void)
{
	enum { NOBODY = 65534 };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0 || geteuid() != 0)
		KERN_SKIP("needs root and /dev/userfaultfd: %s", strerror(errno));
	bool is_open_to_all = sysctl_value() == 1;
	CHECK_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);

	int full = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	CHECK_EQ(full >= 0, is_open_to_all);
	CHECK(full >= 0 || errno == EPERM);
	int user_only = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	CHECK(user_only >= 0);

	int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	char *page = kern_anon(1);
	CHECK(uffd >= 0);
	CHECK_EQ(kern_api(uffd, 0, NULL), 0);
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_zeropage(uffd, page, KERN_PAGE), 0);
	return 0;
}
