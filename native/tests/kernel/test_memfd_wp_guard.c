/* SPDX-License-Identifier: Apache-2.0
 *
 * How a memfd page leaves without RWP, end to end, on a region registered MISSING|WP: zap (the
 * next touch maps the page silently, and no neighbours), WRITEPROTECT mapped and zapped entries
 * alike, read the page through another way, PUNCH_HOLE, lift the protection.  Meanwhile a read maps
 * the page and sends nothing; a write sleeps as WP|WRITE, comes back as MISSING|WRITE after the
 * punch, and gets the stored bytes by COPY.  Lifting the protection without a punch cancels the
 * eviction: the write goes through.
 */
#include "kern_thread.h"

enum { NR = 16 };

static int uffd, fd;
static char *guest;

static void protect(size_t page)
{
	char *start = guest + page * KERN_PAGE;
	CHECK_EQ(kern_wp(uffd, start, KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
}

static void zap_shows_touches(void)
{
	CHECK_EQ(madvise(guest, NR * KERN_PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(kern_scan(guest, NR * KERN_PAGE, PAGE_IS_PRESENT, 0), 0);
	CHECK_EQ(guest[5 * KERN_PAGE], 'o');
	guest[9 * KERN_PAGE + 1] = 'o';
	CHECK_EQ(kern_scan(guest, NR * KERN_PAGE, PAGE_IS_PRESENT, 0), 2);
	CHECK(!kern_has_msg(uffd));
}

static void reads_pass(size_t page)
{
	protect(page);
	CHECK(!kern_is_present(guest + page * KERN_PAGE));
	CHECK(kern_is_wp(guest + page * KERN_PAGE)); /* a marker */
	CHECK_EQ(guest[page * KERN_PAGE], 'o');
	CHECK(kern_is_present(guest + page * KERN_PAGE));
	CHECK(kern_is_wp(guest + page * KERN_PAGE)); /* and still guarded */
	CHECK(!kern_has_msg(uffd));
}

static void writer_loses(size_t page)
{
	char stored[KERN_PAGE], *start = guest + page * KERN_PAGE;
	struct kern_thread writer;
	protect(page);
	kern_start(&writer, kern_run_write, start);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, start, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(pread(fd, stored, KERN_PAGE, (off_t)(page * KERN_PAGE)), KERN_PAGE);
	CHECK_EQ(kern_punch(fd, page, 1), 0);
	CHECK(kern_slept_through(&writer));
	CHECK_EQ(kern_wp(uffd, start, KERN_PAGE, 0), 0);
	kern_expect_fault(uffd, start, UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_copy(uffd, start, stored, KERN_PAGE), 0);
	kern_join(&writer);
	CHECK_EQ(start[0], 'W');
	CHECK(kern_is_all(start + 1, KERN_PAGE - 1, 'o'));
}

static void writer_wins(size_t page)
{
	char *start = guest + page * KERN_PAGE;
	struct kern_thread writer;
	protect(page);
	kern_start(&writer, kern_run_write, start);
	kern_wait_asleep(&writer);
	kern_expect_fault(uffd, start, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
	CHECK_EQ(kern_wp(uffd, start, KERN_PAGE, 0), 0);
	kern_join(&writer);
	CHECK_EQ(start[0], 'W');
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	fd = kern_memfd(NR);
	guest = kern_shared(fd, NR);
	kern_fill(guest, NR, 'o');
	CHECK_EQ(kern_register(uffd, guest, NR * KERN_PAGE,
			 UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		0);
	zap_shows_touches();
	reads_pass(1);
	writer_loses(2); /* from a zapped entry */
	writer_loses(5); /* from a mapped one */
	writer_wins(3);
	writer_wins(9);
	return 0;
}
