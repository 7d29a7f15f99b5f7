/* SPDX-License-Identifier: Apache-2.0
 *
 * Two descriptors cannot register one range: EBUSY, and nothing of the second's range is
 * registered, not even the part that was free.  Nor should one unregister what the other owns
 * (EINVAL); older kernels let it.
 */
#include "kern_thread.h"

int main(void)
{
	int first = kern_uffd(0), second = kern_uffd(0);
	char *area = kern_anon(4);
	CHECK_EQ(kern_register(first, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(second, area, 4 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), -EBUSY);
	CHECK_EQ(kern_zeropage(second, area + 3 * KERN_PAGE, KERN_PAGE), -ENOENT);
	CHECK_EQ(kern_register(first, area, 4 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	int rc = kern_unregister(second, area, 2 * KERN_PAGE);
	CHECK(rc == -EINVAL || rc == 0);
	CHECK_EQ(kern_unregister(first, area, 2 * KERN_PAGE), 0);
	CHECK_EQ(kern_register(second, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);

	/* Closing the descriptor frees its range. */
	CHECK_EQ(close(second), 0);
	CHECK_EQ(kern_register(first, area, 4 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	return 0;
}
