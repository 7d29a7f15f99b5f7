/* SPDX-License-Identifier: Apache-2.0
 *
 * What a fault message says: the page's address, or the byte's with EXACT_ADDRESS; the thread with
 * THREAD_ID, else 0.  A fault that a system call causes is a message like any other.
 */
#include "kern_thread.h"

static long read_file_into(void *dst)
{
	int fd = kern_memfd(1);
	return pread(fd, dst, 16, 0);
}

static void check(uint64_t features)
{
	int uffd = kern_uffd(features);
	char *page = kern_anon(2), source[KERN_PAGE] = {0};
	struct kern_thread reader;
	CHECK_EQ(kern_register(uffd, page, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&reader, kern_run_read, page + 123);
	struct uffd_msg msg = kern_read_msg(uffd);
	CHECK_EQ(msg.arg.pagefault.address - kern_addr(page),
		features & UFFD_FEATURE_EXACT_ADDRESS ? 123 : 0);
	CHECK_EQ(msg.arg.pagefault.feat.ptid,
		features & UFFD_FEATURE_THREAD_ID ? atomic_load(&reader.tid) : 0);
	CHECK_EQ(kern_copy(uffd, page, source, KERN_PAGE), 0);
	kern_join(&reader);

	kern_start(&reader, read_file_into, page + KERN_PAGE);
	kern_expect_fault(uffd, page + KERN_PAGE, UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_copy(uffd, page + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 16);
}

int main(void)
{
	check(0);
	check(UFFD_FEATURE_EXACT_ADDRESS);
	check(UFFD_FEATURE_THREAD_ID);
	check(UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_THREAD_ID);
	return 0;
}
