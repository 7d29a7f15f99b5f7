/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_MOVE works on write-protected pages, of a synchronous and of an asynchronous (WP_ASYNC)
 * descriptor, without a fault, and loses the protection: in staging the page is writable, and back
 * in the guest it counts as written.
 */
#include "kern_thread.h"

static void check(uint64_t features)
{
	int guest_fd = kern_uffd(features);
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	char *guest = kern_anon(1), *staging = kern_anon(1);
	kern_fill(guest, 1, 'o');
	CHECK_EQ(kern_register(guest_fd, guest, KERN_PAGE,
			  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_wp(guest_fd, guest, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	CHECK(kern_is_wp(guest));

	CHECK_EQ(kern_move(staging_fd, staging, guest, KERN_PAGE), 0);
	CHECK(!kern_is_present(guest));
	CHECK(!kern_is_wp(guest));
	CHECK(!kern_is_wp(staging));
	staging[0] = 'w';
	CHECK_EQ(kern_move(guest_fd, guest, staging, KERN_PAGE), 0);
	CHECK(!kern_is_wp(guest));
	CHECK_EQ(kern_scan(guest, KERN_PAGE, PAGE_IS_WRITTEN, 0), 1);
	CHECK_EQ(guest[0], 'w');
	CHECK(!kern_has_msg(guest_fd));
}

int main(void)
{
	check(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	check(UFFD_FEATURE_WP_ASYNC);
	return 0;
}
