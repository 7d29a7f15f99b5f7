/* SPDX-License-Identifier: Apache-2.0
 * blocks.c — what was read from words (blocks.h), and the counters of their changes (word.h). */
#include "page/blocks.h"

#include <errno.h>

#include "os/sys.h"

_Alignas(64) _Atomic uint64_t ts_word_counters[TS_WORD_COUNTERS];

int ts_blocks_init(struct ts_blocks *blocks, uint32_t nr_pages)
{
	blocks->nr_blocks = nr_pages / TS_WORD_BLOCK + 1;
	blocks->seen = ts_sys_alloc_pages(blocks->nr_blocks * sizeof(*blocks->seen));
	blocks->resident = ts_sys_alloc_pages(blocks->nr_blocks * sizeof(*blocks->resident));
	return blocks->seen && blocks->resident ? 0 : -ENOMEM;
}

void ts_blocks_finish(struct ts_blocks *blocks)
{
	ts_sys_free_pages((void *)blocks->seen, blocks->nr_blocks * sizeof(*blocks->seen));
	ts_sys_free_pages(blocks->resident, blocks->nr_blocks * sizeof(*blocks->resident));
	blocks->seen = NULL;
	blocks->resident = NULL;
}

/* Scans write both alike. */
uint64_t ts_blocks_bytes(const struct ts_blocks *blocks)
{
	return blocks->resident ? 2 * ts_sys_resident_bytes(blocks->resident, blocks->nr_blocks *
							    sizeof(*blocks->resident)) : 0;
}
