/* SPDX-License-Identifier: Apache-2.0
 *
 * 512 COPYs of 4 KiB make no huge page by themselves, also where one is wanted; MADV_COLLAPSE makes
 * one, on memory registered for MISSING, MISSING|WP, or WP_ASYNC.  One hole stops it (EBUSY, on 6.1
 * EINVAL, and the hole stays a hole), and so does one write-protected page (EINVAL).
 */
#include "kern_thread.h"

static const char huge_field[] = "AnonHugePages:";
static char source[KERN_PAGE];

static void check(uint64_t features, uint64_t modes)
{
	int uffd = kern_uffd(features);
	char *area = kern_anon_huge(1);
	CHECK_EQ(kern_register(uffd, area, KERN_HUGE, modes), 0);
	for (size_t i = 0; i < 511; i++)
		CHECK_EQ(kern_copy(uffd, area + i * KERN_PAGE, source, KERN_PAGE), 0);
	int rc = kern_collapse(area);
	CHECK(rc == -EBUSY || rc == -EINVAL);
	CHECK(!kern_is_present(area + 511 * KERN_PAGE));
	CHECK_EQ(kern_copy(uffd, area + 511 * KERN_PAGE, source, KERN_PAGE), 0);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 0);
	if (modes & UFFDIO_REGISTER_MODE_WP) {
		CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
		CHECK_EQ(kern_collapse(area), -EINVAL);
		CHECK_EQ(kern_wp(uffd, area, KERN_PAGE, 0), 0);
	}
	CHECK_EQ(kern_collapse(area), 0);
	CHECK_EQ(kern_smaps_kib(area, huge_field), 2048);
	CHECK(kern_is_all(area, KERN_HUGE, 's'));
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	const uint64_t missing = UFFDIO_REGISTER_MODE_MISSING, wp = UFFDIO_REGISTER_MODE_WP;
	char *plain = kern_anon_huge(1);
	memset(plain, 's', KERN_HUGE);
	memset(source, 's', sizeof source);
	int plain_rc = kern_collapse(plain);
	if (plain_rc)
		KERN_SKIP("MADV_COLLAPSE: %s", strerror(-plain_rc));
	check(0, missing);
	check(UFFD_FEATURE_PAGEFAULT_FLAG_WP, missing | wp);
	check(UFFD_FEATURE_WP_ASYNC, missing | wp);
	return 0;
}
