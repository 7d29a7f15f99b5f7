/* SPDX-License-Identifier: Apache-2.0
 *
 * UFFDIO_ZEROPAGE on anonymous memory maps the shared zero page and costs no memory; on a memfd it
 * allocates a page of zeros in the file, where COPY and ZEROPAGE answer EEXIST afterwards.  A hole
 * of the file may as well stay one until it is touched.
 */
#include "kern_thread.h"

#include <sys/stat.h>

static long nr_blocks(int fd)
{
	struct stat st;
	CHECK_EQ(fstat(fd, &st), 0);
	return st.st_blocks;
}

int main(void)
{
	int uffd = kern_uffd(0), fd = kern_memfd(2);
	char *anon = kern_anon(1), *shared = kern_shared(fd, 2), source[KERN_PAGE];
	uint64_t ioctls = 0;
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, anon, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register_mask(uffd, shared, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING,
			 &ioctls),
		0);
	CHECK(ioctls & 1ull << TS_UFFD_NR_ZEROPAGE);
	CHECK_EQ(kern_zeropage(uffd, anon, KERN_PAGE), 0);
	CHECK_EQ(kern_scan(anon, KERN_PAGE, PAGE_IS_PFNZERO, 0), 1);

	CHECK_EQ(nr_blocks(fd), 0);
	CHECK_EQ(kern_zeropage(uffd, shared, KERN_PAGE), 0);
	CHECK_EQ(kern_scan(shared, KERN_PAGE, PAGE_IS_PFNZERO, 0), 0);
	CHECK_EQ(nr_blocks(fd), KERN_PAGE / 512);
	CHECK_EQ(kern_zeropage(uffd, shared, KERN_PAGE), -EEXIST);
	CHECK_EQ(kern_copy(uffd, shared, source, KERN_PAGE), -EEXIST);
	CHECK(kern_is_all(shared, KERN_PAGE, 0));
	return 0;
}
