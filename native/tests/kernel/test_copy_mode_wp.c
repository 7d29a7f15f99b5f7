/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_COPY_MODE_WP installs the page write-protected: under WP_ASYNC it counts as not written
 * until somebody writes it, silently; on a synchronous descriptor the first write is a WP fault.
 * A plain COPY installs a page that counts as written.
 */
#include "kern_thread.h"

static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;

static void async(const char *source)
{
	int uffd = kern_uffd(UFFD_FEATURE_WP_ASYNC);
	char *area = kern_anon(2);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, both), 0);
	CHECK_EQ(kern_copy_mode(uffd, area, source, KERN_PAGE, UFFDIO_COPY_MODE_WP, NULL), 0);
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_scan(area, KERN_PAGE, PAGE_IS_WRITTEN, 0), 0);
	CHECK_EQ(kern_scan(area + KERN_PAGE, KERN_PAGE, PAGE_IS_WRITTEN, 0), 1);
	CHECK_EQ(area[0], 's');
	CHECK_EQ(kern_scan(area, KERN_PAGE, PAGE_IS_WRITTEN, 0), 0);
	area[0] = 'w';
	CHECK_EQ(kern_scan(area, KERN_PAGE, PAGE_IS_WRITTEN, 0), 1);
	CHECK(!kern_has_msg(uffd));
}

static void sync_descriptor(const char *source)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(1);
	struct kern_thread writer;
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, both), 0);
	CHECK_EQ(kern_copy_mode(uffd, area, source, KERN_PAGE, UFFDIO_COPY_MODE_WP, NULL), 0);
	kern_start(&writer, kern_run_write, area);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, area, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, 0), 0);
	kern_join(&writer);
	CHECK_EQ(area[0], 'W');
}

int main(void)
{
	char source[KERN_PAGE];
	kern_fill(source, 1, 's');
	async(source);
	sync_descriptor(source);
	return 0;
}
