/* SPDX-License-Identifier: Apache-2.0
 *
 * What UFFDIO_COPY answers, in errno and in its `copy` field.  All present: EEXIST in both.  Some
 * present: EAGAIN, and `copy` says how many bytes went in before the first present page.  A source
 * that cannot be read: EFAULT, or EAGAIN with the part before it; a hole of a range with
 * UFFD_FEATURE_SIGBUS is such a source, and does not hang.  `copy` must be looked at, always.
 */
#include "kern_thread.h"

static void expect_copy(int uffd, char *dst, const char *src, int nr_pages, int rc, int64_t done)
{
	int64_t got;
	CHECK_EQ(kern_copy_mode(uffd, dst, src, (size_t)nr_pages * KERN_PAGE, 0, &got), rc);
	CHECK_EQ(got, done);
}

static void destinations(int uffd, const char *source)
{
	char *guest = kern_anon(8);
	CHECK_EQ(kern_copy(uffd, guest, source, KERN_PAGE), -ENOENT); /* not registered */
	CHECK_EQ(kern_register(uffd, guest, 8 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	expect_copy(uffd, guest + 2 * KERN_PAGE, source, 2, 0, 2 * KERN_PAGE);
	expect_copy(uffd, guest + 2 * KERN_PAGE, source, 2, -EEXIST, -EEXIST);
	expect_copy(uffd, guest, source, 4, -EAGAIN, 2 * KERN_PAGE);
	expect_copy(uffd, guest + 3 * KERN_PAGE, source, 2, -EEXIST, -EEXIST);
	CHECK(!kern_is_present(guest + 4 * KERN_PAGE));
	CHECK_EQ(kern_copy(uffd, guest + 4 * KERN_PAGE, source, 100), -EINVAL);
}

static void sources(int uffd, const char *source)
{
	int staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS), file = kern_memfd(2);
	char *guest = kern_anon(2), *staging = kern_anon(2);
	CHECK_EQ(kern_register(uffd, guest, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING),
		0);
	expect_copy(uffd, guest, staging, 1, -EFAULT, -EFAULT);
	CHECK_EQ(kern_copy(staging_fd, staging, source, KERN_PAGE), 0);
	expect_copy(uffd, guest, staging, 2, -EAGAIN, KERN_PAGE);
	CHECK(kern_is_all(guest, KERN_PAGE, 's'));
	CHECK(!kern_is_present(guest + KERN_PAGE));

	/* A system call that reads the hole: EFAULT, or short. */
	CHECK_EQ(pwrite(file, staging + KERN_PAGE, KERN_PAGE, 0), -1);
	CHECK_EQ(errno, EFAULT);
	CHECK_EQ(pwrite(file, staging, 2 * KERN_PAGE, 0), KERN_PAGE);
}

int main(void)
{
	int uffd = kern_uffd(0);
	char *source = kern_anon(8);
	kern_fill(source, 8, 's');
	destinations(uffd, source);
	sources(uffd, source);
	return 0;
}
