/* SPDX-License-Identifier: Apache-2.0
 *
 * With UFFD_FEATURE_EVENT_REMAP, mremap() reports from, to and length, and the memory stays
 * registered where it went, also when only a part of it moves.  Without the feature the moved
 * part is registered no more, and its holes are zeros.
 */
#include "kern_thread.h"

enum { NR = 8 };

struct remap {
	char *from;
	size_t len_bytes;
	char *to; /* reserved before, replaced by the call */
};

static long remap(void *arg)
{
	const struct remap *r = arg;
	return mremap(r->from, r->len_bytes, r->len_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, r->to) ==
			r->to
		? 0
		: -errno;
}

static void expect_remap(int uffd, char *from, size_t nr_pages)
{
	struct remap r = {from, nr_pages * KERN_PAGE, kern_anon(nr_pages)};
	char source[KERN_PAGE];
	struct kern_thread caller, reader;
	kern_fill(source, 1, 's');
	CHECK_EQ(madvise(from, KERN_PAGE, MADV_DONTNEED), 0);
	kern_start(&caller, remap, &r);
	struct uffd_msg msg = kern_read_msg(uffd);
	CHECK_EQ(msg.event, UFFD_EVENT_REMAP);
	CHECK_EQ(msg.arg.remap.from, kern_addr(r.from));
	CHECK_EQ(msg.arg.remap.to, kern_addr(r.to));
	CHECK_EQ(msg.arg.remap.len, r.len_bytes);
	CHECK_EQ(kern_join(&caller), 0);

	CHECK_EQ(r.to[KERN_PAGE], 'o');
	kern_start(&reader, kern_run_read, r.to);
	kern_wait_asleep(&reader);
	kern_expect_fault(uffd, r.to, 0);
	CHECK_EQ(kern_copy(uffd, r.to, source, KERN_PAGE), 0);
	CHECK_EQ(kern_join(&reader), 's');
}

static void without_feature(void)
{
	int uffd = kern_uffd(0);
	char *area = kern_anon(2);
	struct remap r = {area, 2 * KERN_PAGE, kern_anon(2)};
	CHECK_EQ(kern_register(uffd, area, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(remap(&r), 0);
	CHECK_EQ(r.to[0], 0);
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_REMAP);
	char *whole = kern_anon(NR), *part = kern_anon(NR);
	kern_fill(whole, NR, 'o');
	kern_fill(part, NR, 'o');
	CHECK_EQ(kern_register(uffd, whole, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(uffd, part, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	expect_remap(uffd, whole, NR);
	expect_remap(uffd, part + 2 * KERN_PAGE, 2);
	without_feature();
	return 0;
}
