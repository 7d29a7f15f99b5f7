/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_API with a feature the kernel lacks, or another API number: EINVAL, the struct comes back
 * zeroed, and the descriptor is as unusable as before, but may ask again.  A second UFFDIO_API
 * after a good one is EINVAL.  Every other ioctl, read() and poll() before it fail.
 */
#include "kern_thread.h"

int main(void)
{
	int uffd = kern_uffd_raw(0);
	char *area = kern_anon(1);
	struct uffdio_api api = {.api = UFFD_API, .features = 1ull << 62};
	struct uffd_msg msg;
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), -EINVAL);
	CHECK_EQ(read(uffd, &msg, sizeof msg), -1);
	CHECK_EQ(errno, EINVAL);
	CHECK_EQ(poll(&p, 1, 0), 1);
	CHECK_EQ(p.revents, POLLERR);

	CHECK_EQ(ioctl(uffd, UFFDIO_API, &api), -1);
	CHECK_EQ(errno, EINVAL);
	CHECK_EQ(api.api, 0);
	CHECK_EQ(api.features, 0);
	CHECK_EQ(api.ioctls, 0);
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), -EINVAL);
	api = (struct uffdio_api){.api = UFFD_API + 1};
	CHECK_EQ(ioctl(uffd, UFFDIO_API, &api), -1);
	CHECK_EQ(errno, EINVAL);

	CHECK_EQ(kern_api(uffd, 0, &api), 0);
	CHECK(api.features & UFFD_FEATURE_SIGBUS);
	CHECK(api.ioctls & 1ull << TS_UFFD_NR_REGISTER);
	CHECK_EQ(kern_api(uffd, 0, NULL), -EINVAL);
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	return 0;
}
