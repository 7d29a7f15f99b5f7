/* SPDX-License-Identifier: Apache-2.0
 * mapfile.c — files that are mapped shared (mapfile.h). */
#include "os/mapfile.h"

#include <sys/stat.h>

#include "os/sys.h"
#include "util/base.h"

static int map_fd(const char *path, int fd, size_t len_bytes, struct ts_mapfile *map_out)
{
	void *base = TS_INJECT(TS_SITE_MMAP) ? MAP_FAILED :
		     mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED) {
		int error = -errno;
		close(fd);
		return ts_fail(error, "mmap %s: %s", path, ts_strerror(error));
	}
	/* Read at random, and a child has no business with it. */
	(void)madvise(base, len_bytes, MADV_DONTFORK);
	*map_out = (struct ts_mapfile){ fd, base, len_bytes };
	return 0;
}

int ts_mapfile_create(const char *path, size_t len_bytes, struct ts_mapfile *map_out)
{
	*map_out = (struct ts_mapfile){ .fd = -1 };
	/* Not truncated in place: a map of the old one, anybody's, must not lose its pages. */
	if (unlink(path) && errno != ENOENT)
		return ts_fail(-errno, "unlink %s: %m", path);
	int fd = TS_INJECT(TS_SITE_OPEN) ? -1 :
		 open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return ts_fail(-errno, "create %s: %m", path);
	if (ftruncate(fd, (off_t)len_bytes)) {
		int error = -errno;
		close(fd);
		return ts_fail(error, "ftruncate %s to %zu bytes: %s", path, len_bytes,
			       ts_strerror(error));
	}
	return map_fd(path, fd, len_bytes, map_out);
}

int ts_mapfile_open(const char *path, size_t len_min_bytes, struct ts_mapfile *map_out)
{
	struct stat info;

	*map_out = (struct ts_mapfile){ .fd = -1 };
	int fd = TS_INJECT(TS_SITE_OPEN) ? -1 : open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return ts_fail(-errno, "open %s: %m", path);
	if (fstat(fd, &info) || !S_ISREG(info.st_mode) || info.st_size < (off_t)len_min_bytes) {
		close(fd);
		return ts_fail(TS_ECORRUPT, "%s is shorter than it must be", path);
	}
	return map_fd(path, fd, (size_t)info.st_size, map_out);
}

void ts_mapfile_close(struct ts_mapfile *map)
{
	if (!map->base)
		return;
	TS_ASSERT(munmap(map->base, map->len_bytes) == 0);
	close(map->fd);
	*map = (struct ts_mapfile){ .fd = -1 };
}

int ts_mapfile_reserve(const struct ts_mapfile *map, size_t off_bytes, size_t len_bytes)
{
	int rc = ts_sys_fallocate(map->fd, 0, (off_t)off_bytes, (off_t)len_bytes);

	/* A file system that can't promise it; its own fault, then. */
	return rc == -EOPNOTSUPP ? 0 : rc;
}

bool ts_mapfile_next_data(const struct ts_mapfile *map, size_t *off_bytes, size_t *len_bytes_out,
			  size_t end_bytes)
{
	off_t data = lseek(map->fd, (off_t)*off_bytes, SEEK_DATA);

	/* What can't be asked is taken for data. */
	if (data < 0 && errno != ENXIO)
		data = (off_t)*off_bytes;
	if (data < 0 || data >= (off_t)end_bytes)
		return false;
	off_t hole = lseek(map->fd, data, SEEK_HOLE);
	if (hole < 0 || hole > (off_t)end_bytes)
		hole = (off_t)end_bytes;
	*off_bytes = (size_t)data;
	*len_bytes_out = (size_t)(hole - data);
	return true;
}
