/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd_io.h — a batch's pages as parts of a memfd: read them, punch them out.
 *
 * By descriptor and offset alone: neither needs an address, and no event can change an offset.
 */
#ifndef TS_MEMORY_MEMFD_IO_H
#define TS_MEMORY_MEMFD_IO_H

#include "memory/memory.h"

/* Reads the owned pages to batch->data, holes as zeros.  What can't be read is added to `unread`
 * and counted. */
void ts_memfd_read(struct ts_batch *batch, struct ts_pageset *unread);

/* Gives the RAM of the pages of `set` back.  What could not be released is added to `failed`, and
 * counted; the page cache holds it as before.  Where the kernel cleared a part of a huge page that
 * it could not split, the contents are written back from batch->data; a page for which even that
 * failed becomes GONE. */
void ts_memfd_punch(struct ts_batch *batch, const struct ts_pageset *set,
		    struct ts_pageset *failed);

#endif
