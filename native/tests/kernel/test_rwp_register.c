/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be registered with what.  RWP and WP exclude each other; the mode needs the feature, and
 * RWP_ASYNC needs RWP.  Registering again can add MISSING, cannot drop RWP (EBUSY), and with a
 * subset returns 0 and drops nothing: MISSING still stops the guest.  UNREGISTER is the way out.
 */
#include "kern_rwp.h"

int main(void)
{
	const uint64_t rwp = UFFDIO_REGISTER_MODE_RWP, missing = UFFDIO_REGISTER_MODE_MISSING;
	int uffd = kern_rwp_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP), plain = kern_uffd(0);
	int other = kern_rwp_uffd(0), raw = kern_uffd_raw(0);
	char *area = kern_anon(2), source[KERN_PAGE];
	struct kern_thread reader;
	kern_fill(source, 1, 's');

	CHECK_EQ(kern_api(raw, UFFD_FEATURE_RWP_ASYNC, NULL), -EINVAL);
	CHECK_EQ(kern_register(plain, area, KERN_PAGE, rwp), -EINVAL);
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, rwp | UFFDIO_REGISTER_MODE_WP), -EINVAL);

	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, rwp), 0);
	CHECK_EQ(kern_register(other, area, 2 * KERN_PAGE, rwp), -EBUSY);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, rwp | missing), 0);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, missing), -EBUSY);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_WP), -EBUSY);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, rwp), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');

	CHECK_EQ(kern_unregister(uffd, area, 2 * KERN_PAGE), 0);
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, rwp), 0);
	CHECK_EQ(kern_run_read(area + KERN_PAGE), 0);
	CHECK(!kern_has_msg(uffd));
	return 0;
}
