/* SPDX-License-Identifier: Apache-2.0
 *
 * After MOVE the staging area holds the only copy: MADV_DONTNEED there gives the memory back, the
 * guest's page stays a hole, and the staging slot can take the next page.  A touch of an empty slot
 * is SIGBUS (UFFD_FEATURE_SIGBUS), not a silent page of zeros.
 */
#include "kern_thread.h"

enum { NR = 256 };

int main(void)
{
	int guest_fd = kern_uffd(0);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(NR), *staging = kern_anon(NR);
	kern_fill(guest, NR, 'o');
	CHECK_EQ(kern_register(guest_fd, guest, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);
	CHECK_EQ(kern_smaps_kib(guest, "Rss:"), NR * 4);
	CHECK_EQ(kern_move(staging_fd, staging, guest, NR * KERN_PAGE), 0);
	CHECK_EQ(kern_smaps_kib(guest, "Rss:"), 0);
	CHECK_EQ(kern_smaps_kib(staging, "Rss:"), NR * 4);
	CHECK_EQ(madvise(staging, NR * KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_smaps_kib(staging, "Rss:"), 0);
	CHECK_EQ(kern_read_signal(staging), SIGBUS);
	CHECK(!kern_has_msg(staging_fd));

	CHECK_EQ(kern_zeropage(guest_fd, guest, KERN_PAGE), 0);
	guest[0] = 'n';
	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	CHECK_EQ(staging[0], 'n');
	return 0;
}
