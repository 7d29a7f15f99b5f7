/* SPDX-License-Identifier: Apache-2.0
 *
 * hugetlb.c — attaching a memfd of huge pages (hugetlb.h).
 *
 * Which pages there are can't be asked of hugetlbfs: SEEK_DATA calls everything data, and the page
 * table knows what is mapped.  UFFDIO_CONTINUE knows: it maps what is in the page cache, and
 * refuses the rest.
 */
#include "engine/hugetlb.h"

#include <errno.h>
#include <sys/vfs.h>

#include "memory/pageset.h"
#include "os/uffd.h"

enum { UNIT_BYTES = TS_CHUNK_PAGES * TS_PAGE_BYTES, TRIES = 1000 };

int ts_hugetlb_check(const struct ts_region_options *options, const char *name)
{
	uint64_t addr = (uintptr_t)options->addr;
	struct statfs fs;

	if (fstatfs(options->memfd, &fs))
		return ts_fail(-errno, "%s: the memfd: fstatfs: %m", name);
	if (fs.f_bsize != UNIT_BYTES)
		return ts_fail(TS_EBACKING, "%s: hugetlb pages of %lld KiB; only those of 2048 KiB "
			       "can be served", name, (long long)fs.f_bsize / 1024);
	if ((addr | options->len_bytes | options->memfd_offset) % UNIT_BYTES)
		return ts_fail(TS_EALIGN, "%s: address, length and offset of hugetlb memory must "
			       "be multiples of %d", name, UNIT_BYTES);
	if (options->is_persistent)
		return ts_fail(TS_EUNSUPPORTED, "%s: hugetlb memory can't outlive its process yet; "
			       "attach it without persistence", name);
	return 0;
}

/* Before anybody is served: who faults meanwhile waits, and is woken by what we do here, or
 * answered later. */
static int populate_unit(struct ts_region *region, uint32_t first, uint64_t addr)
{
	struct ts_shard *shard = ts_region_shard(region, first);
	struct ts_uffd_result result;
	unsigned nr_tries = 0;

	do
		result = ts_uffd_continue(shard->uffd, addr, UNIT_BYTES);
	while (result.outcome == TS_UFFD_RETRY && ++nr_tries < TRIES);
	if (result.outcome == TS_UFFD_ABSENT)
		return 0;
	if (result.outcome != TS_UFFD_DONE && result.outcome != TS_UFFD_PRESENT)
		return result.error;
	for (uint32_t page = first; page < first + TS_CHUNK_PAGES; page++)
		atomic_store_explicit(&region->words[page], ts_word_make(TS_RESIDENT, 0, 0),
				      memory_order_relaxed);
	return 0;
}

int ts_hugetlb_populate(struct ts_region *region)
{
	int rc = 0;

	for (uint32_t first = 0; first < region->nr_pages && !rc; first += TS_CHUNK_PAGES)
		rc = populate_unit(region, first,
				   ts_shard_addr(ts_region_shard(region, first), first, NULL));
	return rc;
}
