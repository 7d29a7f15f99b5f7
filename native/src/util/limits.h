/* SPDX-License-Identifier: Apache-2.0
 * limits.h — every bound of the library, with its reason.  Full means back-pressure, never
 * allocation. */
#ifndef TS_UTIL_LIMITS_H
#define TS_UTIL_LIMITS_H

#include <assert.h>
#include <stdint.h>

enum {
	TS_PAGE_SHIFT = 12,
	TS_PAGE_BYTES = 1 << TS_PAGE_SHIFT,

	/* Pages of one frame: one bit each in the frame header's 64-bit map. */
	TS_FRAME_PAGES_MAX = 64,
	TS_FRAME_RAW_MAX = TS_FRAME_PAGES_MAX * TS_PAGE_BYTES,
	/* Header plus a payload that is never longer than raw (raw is the fallback codec). */
	TS_FRAME_BYTES_MAX = TS_FRAME_RAW_MAX + 64,
	/* A reader's buffer: the frame, plus a block before and after for stores that read whole
	 * blocks of 4 KiB (store.h). */
	TS_FRAME_BUF_BYTES = TS_FRAME_RAW_MAX + 4 * TS_PAGE_BYTES,

	/* A page word has 27 bits for a frame id, a staging slot or a fill value (page/word.h). */
	TS_PAYLOAD_BITS = 27,
	/* Distinct 8-byte fill patterns an engine remembers; pages with others are encoded. */
	TS_FILL_MAX = 4096,
	/* The last payloads are fills: a page that is COMING says by its word alone what it was. */
	TS_COMING_FILL = (1 << TS_PAYLOAD_BITS) - TS_FILL_MAX,
	TS_FRAME_ID_MAX = TS_COMING_FILL - 1,

	/* Dictionaries an engine may hold at one time, old ones included while frames use them.
	 * They are stored under keys above all frame ids, for the offline tools. */
	TS_DICT_MAX = 16,
	TS_KEY_DICT = 1 << TS_PAYLOAD_BITS, /* key of dictionary d: TS_KEY_DICT + d */
	TS_KEY_MAX = TS_KEY_DICT + 0xffff,
	TS_DICT_BYTES_MAX = 128 * 1024,

	TS_REGION_MAX = 64,
	TS_SHARD_MAX = 16,          /* userfaultfds a region */
	TS_EXTENT_MAX = 16,         /* pieces a region may be cut into by mremap and munmap */
	TS_FAULT_THREAD_MAX = 16,
	TS_EVICT_THREAD_MAX = 16,

	/* One read(2) of struct uffd_msg (32 bytes each). */
	TS_FAULT_BATCH_MAX = 64,
	/* Store reads that one fault thread keeps in flight on one tier: the depth at which a
	 * disk's pages a second stop growing (bench/README.md). */
	TS_FAULT_DEPTH_MAX = 32,
	/* What is read around a frame whose neighbours on the disk are wanted, too, and where more
	 * of them are: a disk gives it in little more time than one block (bench/README.md). */
	TS_MATES_AROUND_BYTES = 64 * 1024,
	TS_MATES_AROUND_MAX_BYTES = 128 * 1024,
	TS_MATES_EXAMPLE_BYTES = 32 * 1024,
	/* Hugetlb pages that one thread brings back at one time, each in a buffer of 2 MiB. */
	TS_UNIT_MAX = 4,
	/* Faults whose install met EAGAIN (an event is queued), waiting for the event to be
	 * read. */
	TS_DEFER_MAX = 256,

	/* Frames in one put() or del(). */
	TS_STORE_BATCH_MAX = 256,
	/* Readers of one store: fault threads, evictors, detach and prefetch callers, in-thread
	 * faults, tools. */
	TS_READER_MAX = 64,
	/* Threads of one in-thread region that answer their own faults at one time; each has a
	 * reader of every tier, so they bound the number of such regions. */
	TS_INTHREAD_CONTEXTS = 4,
	/* Threads in ts_region_serve() that are served at one time; each has a reader of every
	 * tier.  Further ones wait for these. */
	TS_CALLER_CONTEXTS = 4,
};

static_assert(TS_FRAME_PAGES_MAX <= 64, "one bit a page in the frame header");
static_assert(TS_READER_MAX >= TS_FAULT_THREAD_MAX + 2 + TS_CALLER_CONTEXTS +
			       8 * TS_INTHREAD_CONTEXTS,
	      "readers for every fault thread, keeper, tool, callers, and eight in-thread regions");

#endif
