/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_POISON: a touch of the page is SIGBUS, for good and without a message; a thread that waits
 * for the page gets it, too.  si_code is BUS_MCEERR_AR on kernels built with CONFIG_MEMORY_FAILURE,
 * and the common BUS_ADRERR on others.
 *
 * A second POISON is EEXIST, but COPY replaces the poison with a page: whoever poisons must
 * remember it, lest a later COPY of the neighbours revive the page.  MADV_DONTNEED clears it, too.
 */
#include "kern_thread.h"

static long read_signal_code(void *page)
{
	return kern_read_signal(page) == SIGBUS ? kern_siginfo.si_code : -1;
}

static int code_expected(void)
{
	bool has_memory_failure = access("/proc/sys/vm/memory_failure_recovery", F_OK) == 0;
	return has_memory_failure ? BUS_MCEERR_AR : BUS_ADRERR;
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_POISON);
	char *area = kern_anon(2), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&reader, read_signal_code, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, 0);
	CHECK_EQ(kern_poison(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), code_expected());

	CHECK_EQ(read_signal_code(area), code_expected());
	CHECK_EQ(kern_zeropage(uffd, area, KERN_PAGE), -EEXIST);
	CHECK_EQ(kern_poison(uffd, area, KERN_PAGE), -EEXIST);
	CHECK_EQ(write(kern_memfd(1), area, KERN_PAGE), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK(!kern_has_msg(uffd));

	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_pagemap(area), 0);
	CHECK_EQ(kern_poison(uffd, area, KERN_PAGE), 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_read_signal(area), 0);
	return 0;
}
