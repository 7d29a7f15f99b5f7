/* SPDX-License-Identifier: Apache-2.0
 *
 * When KSM merges write-protected pages, what becomes of the protection?  On 6.18 the merged page
 * has lost it: a write breaks the sharing silently, where a WP fault was ordered.  So a tracker may
 * not trust WP on MADV_MERGEABLE memory.  KSM is switched on for the test's length only.
 */
#include "kern_ksm.h"

int main(void)
{
	enum { NR = 64 };
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(NR);
	kern_fill(area, NR, 'k');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_WP), 0);
	CHECK_EQ(kern_wp(uffd, area, NR * KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	kern_ksm_merge(area, NR * KERN_PAGE);

	char *merged = area + 7 * KERN_PAGE;
	CHECK(kern_is_present(merged));
	CHECK(!kern_is_wp(merged));
	merged[0] = 'w';
	CHECK(!kern_has_msg(uffd));
	return 0;
}
