/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared zero page (from UFFDIO_ZEROPAGE, or from a read of fresh memory) moves like any other
 * page; PAGEMAP_SCAN tells it apart with PFNZERO, so it need not be moved at all.
 */
#include "kern_thread.h"

int main(void)
{
	int guest_fd = kern_uffd(0);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(3), *staging = kern_anon(3);
	CHECK_EQ(((volatile char *)guest)[KERN_PAGE], 0); /* a read, before registration */
	guest[2 * KERN_PAGE] = 0;                          /* zeros, but a page of its own */
	CHECK_EQ(kern_register(guest_fd, guest, 3 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, 3 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);
	CHECK_EQ(kern_zeropage(guest_fd, guest, KERN_PAGE), 0);
	CHECK_EQ(kern_scan(guest, 3 * KERN_PAGE, PAGE_IS_PFNZERO, 0), 2);
	CHECK_EQ(kern_scan(guest, 3 * KERN_PAGE, PAGE_IS_PRESENT, 0), 3);

	CHECK_EQ(kern_move(staging_fd, staging, guest, 3 * KERN_PAGE), 0);
	CHECK_EQ(kern_scan(guest, 3 * KERN_PAGE, PAGE_IS_PRESENT, 0), 0);
	CHECK_EQ(kern_scan(staging, 3 * KERN_PAGE, PAGE_IS_PFNZERO, 0), 2);
	CHECK(kern_is_all(staging, 3 * KERN_PAGE, 0));

	CHECK_EQ(kern_move(guest_fd, guest, staging, 3 * KERN_PAGE), 0);
	guest[0] = 'w'; /* copy on write, as ever */
	CHECK_EQ(guest[0], 'w');
	CHECK_EQ(guest[KERN_PAGE], 0);
	return 0;
}
