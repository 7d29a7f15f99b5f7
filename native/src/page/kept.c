/* SPDX-License-Identifier: Apache-2.0
 * kept.c — hashes of pages that came back (kept.h). */
#include "page/kept.h"

#include <errno.h>

#include "os/sys.h"

enum {
	PAGES_PER_ENTRY = 8
}; /* 1 byte a page: what is left of the 8 that a resident page may cost */

int ts_kept_init(struct ts_kept *kept, uint32_t nr_pages, uint64_t secret)
{
	uint32_t nr_entries = 512;

	while (nr_entries < nr_pages / PAGES_PER_ENTRY)
		nr_entries *= 2;
	if (nr_entries > nr_pages / PAGES_PER_ENTRY && nr_entries > 512)
		nr_entries /= 2;
	kept->mask = nr_entries - 1;
	kept->secret = secret;
	kept->hashes = ts_sys_alloc_pages((size_t)nr_entries * sizeof(uint64_t));
	return kept->hashes ? 0 : -ENOMEM;
}

static size_t table_bytes(const struct ts_kept *kept)
{
	return ((size_t)kept->mask + 1) * sizeof(uint64_t);
}

void ts_kept_finish(struct ts_kept *kept)
{
	ts_sys_free_pages((void *)kept->hashes, table_bytes(kept));
	kept->hashes = NULL;
}

uint64_t ts_kept_bytes(const struct ts_kept *kept)
{
	return kept->hashes ? ts_sys_resident_bytes((const void *)kept->hashes,
						    table_bytes(kept)) : 0;
}
