/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_MOVE of an aligned 2 MiB keeps the huge page on both sides; of 4 KiB out of a huge page it
 * works and splits the huge page.
 */
#include "kern_thread.h"

static const char huge_field[] = "AnonHugePages:";

int main(void)
{
	int fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon_huge(2), *staging = kern_anon_huge(2), *small = kern_anon(1);
	memset(guest, 'h', 2 * KERN_HUGE);
	if (kern_smaps_kib(guest, huge_field) != 4096)
		KERN_SKIP("the kernel gave no huge pages");
	CHECK_EQ(kern_register(fd, staging, 2 * KERN_HUGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(fd, small, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);

	CHECK_EQ(kern_move(fd, staging, guest, KERN_HUGE), 0);
	CHECK_EQ(kern_smaps_kib(guest, huge_field), 2048);
	CHECK_EQ(kern_smaps_kib(staging, huge_field), 2048);
	CHECK(kern_is_all(staging, KERN_HUGE, 'h'));

	CHECK_EQ(kern_move(fd, small, guest + KERN_HUGE + 7 * KERN_PAGE, KERN_PAGE), 0);
	CHECK_EQ(kern_smaps_kib(guest, huge_field), 0);
	CHECK(kern_is_all(small, KERN_PAGE, 'h'));
	CHECK(kern_is_present(guest + KERN_HUGE + 6 * KERN_PAGE));
	CHECK(!kern_is_present(guest + KERN_HUGE + 7 * KERN_PAGE));
	return 0;
}
