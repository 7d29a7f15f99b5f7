/* SPDX-License-Identifier: Apache-2.0
 *
 * Closing the last reference to the descriptor unregisters its memory and wakes everybody: a
 * missing page then reads as zeros, and a protected one is writable again.  A server that dies
 * hence turns lost pages into zeros, silently: whoever owns the memory must keep a descriptor open.
 */
#include "kern_thread.h"

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP), held;
	char *area = kern_anon(2);
	struct kern_thread reader, writer;
	kern_fill(area, 2, 'o');
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE,
			 UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_wp(uffd, area + KERN_PAGE, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_start(&reader, kern_run_read, area);
	kern_start(&writer, kern_run_write, area + KERN_PAGE);
	kern_wait_asleep(&reader);
	kern_wait_asleep(&writer);

	held = dup(uffd);
	CHECK(held >= 0);
	CHECK_EQ(close(uffd), 0);
	CHECK(kern_slept_through(&reader));
	CHECK(kern_slept_through(&writer));
	CHECK_EQ(close(held), 0);
	CHECK_EQ(kern_join(&reader), 0);
	kern_join(&writer);
	CHECK_EQ(area[KERN_PAGE], 'W');
	return 0;
}
