/* SPDX-License-Identifier: Apache-2.0
 *
 * A hole that was write-protected under WP_ASYNC (which implies WP_UNPOPULATED) holds a marker, and
 * a marker is neither page nor hole: MOVE from it fails with EFAULT even where holes are allowed,
 * and MOVE, ZEROPAGE and POISON onto it with EEXIST.  COPY works, a touch is an ordinary MISSING
 * fault, and DONTNEED or lifting the protection removes it.
 *
 * PAGEMAP_SCAN with WP_MATCHING plants them as well when it asks for WRITTEN alone, because holes
 * count as written.  Asking for WRITTEN and PRESENT plants none.
 */
#include "kern_thread.h"

enum { NR = 8 };
static const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;

static void marker_answers(int guest_fd, int staging_fd, char *guest, char *staging)
{
	char source[KERN_PAGE];
	struct kern_thread reader;
	int64_t done;
	kern_fill(source, 1, 's');
	for (int i = 0; i < NR; i++)
		CHECK_EQ(kern_pagemap(guest + i * KERN_PAGE) >> KERN_PM_UFFD & 1, 1);

	CHECK_EQ(kern_move_mode(staging_fd, staging, guest, KERN_PAGE,
			  UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &done),
		-EFAULT);
	CHECK_EQ(done, -EFAULT);
	CHECK_EQ(kern_copy(staging_fd, staging, source, KERN_PAGE), 0);
	CHECK_EQ(kern_move(guest_fd, guest, staging, KERN_PAGE), -EEXIST);
	CHECK_EQ(kern_zeropage(guest_fd, guest, KERN_PAGE), -EEXIST);
	CHECK_EQ(kern_poison(guest_fd, guest, KERN_PAGE), -EEXIST);

	kern_start(&reader, kern_run_read, guest);
	kern_wait_asleep(&reader);
	kern_expect_fault(guest_fd, guest, 0);
	CHECK_EQ(kern_copy(guest_fd, guest, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');

	CHECK_EQ(madvise(guest + KERN_PAGE, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_move(guest_fd, guest + KERN_PAGE, staging, KERN_PAGE), 0);
	CHECK_EQ(kern_wp(guest_fd, guest + 2 * KERN_PAGE, KERN_PAGE, 0), 0);
	CHECK_EQ(kern_zeropage(guest_fd, guest + 2 * KERN_PAGE, KERN_PAGE), 0);
}

int main(void)
{
	const uint64_t flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
	int guest_fd = kern_uffd(UFFD_FEATURE_WP_ASYNC);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON);
	char *protected = kern_anon(NR), *scanned = kern_anon(NR), *careful = kern_anon(NR);
	char *staging = kern_anon(NR);
	CHECK_EQ(kern_register(staging_fd, staging, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);
	CHECK_EQ(kern_register(guest_fd, protected, NR * KERN_PAGE, both), 0);
	CHECK_EQ(kern_register(guest_fd, scanned, NR * KERN_PAGE, both), 0);
	CHECK_EQ(kern_register(guest_fd, careful, NR * KERN_PAGE, both), 0);

	CHECK_EQ(kern_wp(guest_fd, protected, NR * KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	marker_answers(guest_fd, staging_fd, protected, staging);
	CHECK_EQ(kern_scan(scanned, NR * KERN_PAGE, PAGE_IS_WRITTEN, flags), NR);
	marker_answers(guest_fd, staging_fd, scanned, staging);

	CHECK_EQ(kern_scan(careful, NR * KERN_PAGE, PAGE_IS_WRITTEN | PAGE_IS_PRESENT, flags), 0);
	CHECK_EQ(kern_pagemap(careful), 0);
	CHECK_EQ(kern_move_mode(staging_fd, staging, careful, NR * KERN_PAGE,
			  UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, NULL),
		0);
	return 0;
}
