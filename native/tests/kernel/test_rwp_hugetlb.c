/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of hugetlbfs under read-write protection: the unit is the huge page (4 KiB: EINVAL);
 * MADV_DONTNEED of a shared mapping only unmaps, and the next touch gets the old bytes and asks
 * nobody; PUNCH_HOLE takes the page away, and after UFFDIO_WAKE a waiter finds it missing.
 */
#include "kern_rwp.h"

static const char nr_path[] = "/proc/sys/vm/nr_hugepages";
static long nr_before;

static void write_nr(long nr)
{
	FILE *f = fopen(nr_path, "we");
	if (f) {
		fprintf(f, "%ld\n", nr);
		fclose(f);
	}
}

static void restore(void)
{
	write_nr(nr_before);
}

static char *huge_memfd(int *fd_out)
{
	FILE *f = fopen(nr_path, "re");
	if (!f || fscanf(f, "%ld", &nr_before) != 1)
		KERN_SKIP("cannot read %s", nr_path);
	fclose(f);
	CHECK_EQ(atexit(restore), 0);
	write_nr(nr_before + 4);
	/* What cannot be had shows at mmap(). */
	*fd_out = memfd_create("kern", MFD_CLOEXEC | MFD_HUGETLB);
	CHECK(*fd_out >= 0);
	CHECK_EQ(ftruncate(*fd_out, KERN_HUGE), 0);
	char *area = mmap(NULL, KERN_HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd_out, 0);
	if (area == MAP_FAILED)
		KERN_SKIP("no page of hugetlbfs to be had: %s", strerror(errno));
	return area;
}

int main(void)
{
	int uffd = kern_rwp_uffd(0), fd;
	char *area = huge_memfd(&fd), *source = kern_anon(512);
	struct kern_thread reader;
	kern_fill(area, 512, 'o');
	kern_fill(source, 512, 's');
	kern_rwp_register(uffd, area, 512, UFFDIO_REGISTER_MODE_MISSING);
	CHECK_EQ(kern_rwprotect(uffd, area, 1), -EINVAL);
	CHECK_EQ(kern_rwprotect(uffd, area, 512), 0);
	CHECK_EQ(kern_nr_accessed(area, 512), 0);
	CHECK_EQ(madvise(area, KERN_HUGE, MADV_DONTNEED), 0);
	kern_touch_unseen(uffd, area);
	CHECK_EQ(area[0], 'o');

	CHECK_EQ(kern_rwprotect(uffd, area, 512), 0);
	kern_start(&reader, kern_run_read, area);
	kern_wait_asleep(&reader);
	CHECK_EQ(kern_read_msg(uffd).arg.pagefault.flags, KERN_RWP);
	CHECK_EQ(kern_punch(fd, 0, 512), 0);
	CHECK(kern_slept_through(&reader));
	CHECK_EQ(kern_wake(uffd, area, KERN_HUGE), 0);
	CHECK_EQ(kern_read_msg(uffd).arg.pagefault.flags, 0);
	CHECK_EQ(kern_copy(uffd, area, source, KERN_HUGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
	return 0;
}
