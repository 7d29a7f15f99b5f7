/* SPDX-License-Identifier: Apache-2.0
 *
 * MADV_FREE on registered memory sends EVENT_REMOVE like DONTNEED, but the page stays until the
 * kernel wants it: until then reads see the old bytes and send nothing, and UFFDIO_MOVE takes the
 * page with its old bytes.  A page that was really freed is MISSING afterwards, and a write before
 * that keeps it.
 */
#include "kern_thread.h"

static long free_page(void *page)
{
	return madvise(page, KERN_PAGE, MADV_FREE) ? -errno : 0;
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMOVE);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *area = kern_anon(2), *staging = kern_anon(1), source[KERN_PAGE];
	struct kern_thread caller, reader;
	kern_pin(0); /* freed pages wait in a batch of their CPU; PAGEOUT drains its own */
	kern_fill(area, 2, 'o');
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	for (int i = 0; i < 2; i++) {
		kern_start(&caller, free_page, area + i * KERN_PAGE);
		CHECK_EQ(kern_read_msg(uffd).event, UFFD_EVENT_REMOVE);
		CHECK_EQ(kern_join(&caller), 0);
	}
	if (!kern_is_present(area) || !kern_is_present(area + KERN_PAGE))
		KERN_SKIP("the kernel freed the pages at once");
	CHECK_EQ(area[0], 'o');
	CHECK_EQ(kern_move(staging_fd, staging, area, KERN_PAGE), 0);
	CHECK_EQ(staging[0], 'o');

	/* Reclaim it now: the page is clean in the kernel's eyes and is simply dropped. */
	if (madvise(area + KERN_PAGE, KERN_PAGE, MADV_PAGEOUT) || kern_is_present(area + KERN_PAGE))
		KERN_SKIP("MADV_PAGEOUT did not reclaim the page");
	CHECK_EQ(kern_pagemap(area + KERN_PAGE), 0);
	kern_start(&reader, kern_run_read, area + KERN_PAGE);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area + KERN_PAGE, 0);
	CHECK_EQ(kern_copy(uffd, area + KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
