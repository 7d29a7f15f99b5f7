/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_UNREGISTER wakes the threads asleep in a range only when the range had MODE_MISSING.
 * A writer asleep on a write-protected page of a range registered for WP alone sleeps on, although
 * its page is writable by then, until somebody says UFFDIO_WAKE, which may name the range that is
 * no longer registered.
 */
#include "kern_thread.h"

static void wp_only(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *page = kern_anon(1);
	struct kern_thread writer;
	kern_fill(page, 1, 'o');
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE, UFFDIO_REGISTER_MODE_WP), 0);
	CHECK_EQ(kern_wp(uffd, page, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&writer, kern_run_write, page);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, page, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_unregister(uffd, page, KERN_PAGE), 0);
	CHECK(!kern_is_wp(page));
	CHECK(kern_slept_through(&writer));
	CHECK_EQ(kern_wake(uffd, page, KERN_PAGE), 0);
	kern_join(&writer);
	CHECK_EQ(page[0], 'W');
}

static void missing_too(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *page = kern_anon(1);
	struct kern_thread writer;
	kern_fill(page, 1, 'o');
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE,
			  UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING),
		0);
	CHECK_EQ(kern_wp(uffd, page, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&writer, kern_run_write, page);
	kern_wait_asleep(&writer);
	CHECK_EQ(kern_unregister(uffd, page, KERN_PAGE), 0);
	kern_join(&writer);
	CHECK_EQ(page[0], 'W');
}

int main(void)
{
	wp_only();
	missing_too();
	return 0;
}
