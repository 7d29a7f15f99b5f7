/* SPDX-License-Identifier: Apache-2.0
 *
 * Registering again with fewer modes drops nothing: a mode ends with UNREGISTER only.  It returns
 * 0, or, since Linux 7.3, EBUSY where WP would go and does nothing then.
 * Registering again with more modes adds them.  Neither wakes a thread that sleeps in the range.
 */
#include "kern_thread.h"

int main(void)
{
	const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(2), source[KERN_PAGE];
	struct kern_thread writer, reader;
	kern_fill(source, 1, 's');
	kern_fill(area, 1, 'o');

	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_WP), 0);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&writer, kern_run_write, area);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, area, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);

	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, both), 0);
	CHECK(kern_slept_through(&writer));
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		kern_has_rwp() ? -EBUSY : 0);
	CHECK(kern_is_wp(area));
	CHECK(kern_slept_through(&writer));

	/* WP was "dropped", MISSING was added: both work. */
	kern_start(&reader, kern_run_read, area + KERN_PAGE);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area + KERN_PAGE, 0);
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, 0), 0);
	kern_join(&writer);
	CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	CHECK(kern_is_wp(area));
	return 0;
}
