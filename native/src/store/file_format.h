/* SPDX-License-Identifier: Apache-2.0
 *
 * file_format.h — what the store "file" has on disk (FORMAT.md, "File store", is the normative
 * text).  A superblock in block 0, then segments of 1 MiB; segment s covers the bytes
 * [s MiB, (s + 1) MiB), segment 0 without its first block.  A segment is a log of records, each
 * a head of 16 bytes and one frame.  All integers are little-endian. */
#ifndef TS_STORE_FILE_FORMAT_H
#define TS_STORE_FILE_FORMAT_H

#include <assert.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the structs below are the disk format of little-endian machines only"
#endif

enum {
	TS_FILE_VERSION = 1,
	TS_FILE_BLOCK_BYTES = 4096,    /* the unit of I/O */
	TS_FILE_SEGMENT_BYTES = 1 << 20, /* the unit of reuse */
	TS_FILE_SEGMENT_BLOCKS = TS_FILE_SEGMENT_BYTES / TS_FILE_BLOCK_BYTES,
	TS_FILE_HEAD_BYTES = 16,
	/* Records start at multiples of the unit: a u32 then addresses 64 GiB with the smallest
	 * one, and every head lies within one block. */
	TS_FILE_UNIT_BYTES_MIN = 16,
	TS_FILE_UNIT_BYTES_MAX = TS_FILE_BLOCK_BYTES,
};

#define TS_FILE_MAGIC "TSFILE\r\n"
/* The key of a record that was deleted before the store was closed in order. */
#define TS_FILE_KEY_DEAD UINT32_C(0xffffffff)

enum {
	TS_FILE_CLEAN = 1,   /* closed in order: every record that is not dead is current */
	TS_FILE_CREATED = 2, /* the store itself made this file, and removes it when closed */
	/* The index lies in an engine's state folder: not to be discarded, unless that ended with
	 * another boot, which the upper bits tell. */
	TS_FILE_HELD = 4,
	TS_FILE_BOOT_SHIFT = 8,
};

struct ts_file_super {
	char magic[8];
	uint32_t version;
	uint32_t block_bytes, segment_bytes, unit_bytes;
	uint64_t capacity_bytes;   /* a multiple of segment_bytes */
	uint8_t uuid[16];
	uint32_t record_magic;     /* random; changes whenever the contents are given up */
	uint32_t flags;
	uint64_t checksum;         /* XXH3-64 (seed 0) of the bytes before it */
};
static_assert(sizeof(struct ts_file_super) == 64, "no padding on disk");

struct ts_file_head {
	uint32_t magic;            /* super.record_magic */
	uint32_t sequence;         /* of the segment's current use; serial, larger is newer */
	uint32_t key;
	uint32_t len_bytes;        /* of the frame that follows */
};
static_assert(sizeof(struct ts_file_head) == TS_FILE_HEAD_BYTES, "no padding on disk");

/* Where the log of a segment starts. */
static inline uint32_t ts_file_first_block(uint32_t segment)
{
	return segment == 0 ? 1 : 0;
}

#endif
