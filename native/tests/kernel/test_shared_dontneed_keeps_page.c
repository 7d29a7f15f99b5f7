/* SPDX-License-Identifier: Apache-2.0
 *
 * On a shared mapping MADV_DONTNEED is no eviction: the page stays in the page cache, the next
 * touch maps it silently, and UFFDIO_COPY onto it fails with EEXIST.  Only PUNCH_HOLE takes it
 * away.  On a private mapping of a cached file page DONTNEED reveals the file's page, silently.
 */
#include "kern_thread.h"

static void private_mapping(int fd)
{
	int uffd = kern_uffd(0);
	char *area = kern_map(KERN_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	area[0] = 'p';
	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(area[0], 'o');
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	int fd = kern_memfd(1), uffd = kern_uffd(0);
	char *area = kern_shared(fd, 1), source[KERN_PAGE];
	struct kern_thread reader;
	int64_t done;
	kern_fill(source, 1, 's');
	kern_fill(area, 1, 'o');
	private_mapping(fd);

	CHECK_EQ(kern_register(uffd, area, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(madvise(area, KERN_PAGE, MADV_DONTNEED), 0);
	CHECK(!kern_is_present(area));
	CHECK_EQ(kern_copy_mode(uffd, area, source, KERN_PAGE, 0, &done), -EEXIST);
	CHECK_EQ(done, -EEXIST);
	CHECK_EQ(area[0], 'o');
	CHECK(!kern_has_msg(uffd));

	CHECK_EQ(kern_punch(fd, 0, 1), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, area, 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
