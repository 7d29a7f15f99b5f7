/* SPDX-License-Identifier: Apache-2.0
 *
 * What UFFDIO_MOVE answers, in errno and in its `move` field: EEXIST for a populated destination,
 * ENOENT for a hole in the source, ALLOW_SRC_HOLES counting holes as moved, EAGAIN with the bytes
 * done when it stops half way, EINVAL when the destination is not registered.
 */
#include "kern_thread.h"

static int fd;
static char *guest, *staging;

static void expect_move(int page, int nr_pages, uint64_t mode, int rc, int64_t done)
{
	int64_t got;
	CHECK_EQ(kern_move_mode(fd, staging + page * KERN_PAGE, guest + page * KERN_PAGE,
			  (size_t)nr_pages * KERN_PAGE, mode, &got),
		rc);
	CHECK_EQ(got, done);
}

int main(void)
{
	enum { NR = 16, HOLES = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES };
	fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	guest = kern_anon(NR), staging = kern_anon(NR);
	kern_fill(guest, NR, 'o');
	expect_move(0, 1, 0, -EINVAL, -EINVAL); /* not registered */
	CHECK_EQ(kern_register(fd, staging, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);

	expect_move(0, 2, 0, 0, 2 * KERN_PAGE);
	expect_move(0, 1, 0, -EEXIST, -EEXIST); /* source a hole by now: the destination decides */
	guest[0] = 'n';
	expect_move(0, 1, 0, -EEXIST, -EEXIST);
	CHECK_EQ(staging[0], 'o');

	/* A hole in the middle: what lies before it has gone. */
	CHECK_EQ(madvise(guest + 4 * KERN_PAGE, KERN_PAGE, MADV_DONTNEED), 0);
	expect_move(4, 1, 0, -ENOENT, -ENOENT);
	expect_move(2, 4, 0, -EAGAIN, 2 * KERN_PAGE);
	CHECK(!kern_is_present(guest + 3 * KERN_PAGE));
	CHECK(kern_is_present(guest + 5 * KERN_PAGE));
	expect_move(4, 2, HOLES, 0, 2 * KERN_PAGE);
	CHECK(!kern_is_present(staging + 4 * KERN_PAGE));
	CHECK(kern_is_present(staging + 5 * KERN_PAGE));
	expect_move(4, 1, HOLES, 0, KERN_PAGE); /* nothing but a hole */

	/* A populated destination in the middle stops it the same way. */
	CHECK_EQ(kern_move(fd, staging + 9 * KERN_PAGE, guest + 15 * KERN_PAGE, KERN_PAGE), 0);
	expect_move(8, 3, 0, -EAGAIN, KERN_PAGE);

	CHECK_EQ(kern_move(fd, staging + 12 * KERN_PAGE, guest + 12 * KERN_PAGE, 100), -EINVAL);
	CHECK_EQ(kern_move(fd, staging + 12 * KERN_PAGE, guest + 12 * KERN_PAGE + 1, KERN_PAGE),
		-EINVAL);
	return 0;
}
