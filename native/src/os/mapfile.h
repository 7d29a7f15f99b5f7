/* SPDX-License-Identifier: Apache-2.0
 *
 * mapfile.h — files that are mapped shared: memory that outlives the process.
 *
 * What a process stored in such a map is in the page cache the moment it is stored, so that the
 * next process finds it there, however the first one ended.  Nothing is ever synced: the host's end
 * is not survived, nor meant to be.
 */
#ifndef TS_OS_MAPFILE_H
#define TS_OS_MAPFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ts_mapfile {
	int fd;              /* -1: not open */
	void *base;
	size_t len_bytes;
};

/* A new, empty file (0600) in place of what was at the path; sparse: reads as zeros. */
int ts_mapfile_create(const char *path, size_t len_bytes, struct ts_mapfile *map_out);
/* An existing one, as long as it is.  -ENOENT; TS_ECORRUPT if shorter than len_min_bytes. */
int ts_mapfile_open(const char *path, size_t len_min_bytes, struct ts_mapfile *map_out);
/* Accepts one that is not open. */
void ts_mapfile_close(struct ts_mapfile *map);

/* Sees to it that stores to this stretch can't fail for want of room (that would be a SIGBUS).
 * 0 or -errno. */
int ts_mapfile_reserve(const struct ts_mapfile *map, size_t off_bytes, size_t len_bytes);
/* The next stretch at or after *off_bytes that may hold something else than zeros, before
 * end_bytes; false: none. */
bool ts_mapfile_next_data(const struct ts_mapfile *map, size_t *off_bytes, size_t *len_bytes_out,
			  size_t end_bytes);

#endif
