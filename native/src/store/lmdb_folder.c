/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb_folder.c — the folder of an LMDB store: whose it is, who has it open, and what of it counts.
 *
 * A small text file, the marker, says that the folder is ours, the format's version, and one
 * word of state.  "open": somebody works in it, or did until a crash; the frames belonged to guests
 * that are gone, so whoever opens it next removes them.  "kept": an orderly close with keep=1 left
 * complete frames.  "held": the frames belong to an engine's state folder and outlive the process
 * that put them.  The marker is on disk before the first frame is, and says "kept" only after the
 * last one is, so it can't promise too much, not even after a power cut.
 *
 * A folder that has something in it but no marker is somebody else's and is not touched.
 */
#include "store/lmdb.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/sys.h"
#include "util/base.h"

static const char marker_name[] = "tierstore-lmdb";
static const char marker_magic[] = "tierstore-lmdb ";
static const char marker_open[] = "tierstore-lmdb 1 open\n";
static const char marker_kept[] = "tierstore-lmdb 1 kept\n";
static const char marker_held[] = "tierstore-lmdb 1 held ";  /* and the boot */
static_assert(sizeof(marker_open) == sizeof(marker_kept), "one replaces the other in place");

/* The only names that are ever removed. */
static const char *const data_names[] = { "data.mdb", "lock.mdb" };

/* The path's folder, opened and locked; created if it is not there. */
static int folder_lock(const char *path, bool *is_created)
{
	if (TS_INJECT(TS_SITE_OPEN))
		return ts_fail(-errno, "open %s: %m", path);
	*is_created = mkdir(path, 0700) == 0;
	if (!*is_created && errno != EEXIST)
		return ts_fail(-errno, "mkdir %s: %m; the folder above it must exist and be "
			       "writable", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOTDIR)
		return ts_fail(TS_EWRONGFILE, "%s is no folder; an lmdb store needs one of its own",
			       path);
	if (fd < 0)
		return ts_fail(-errno, "open %s: %m", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int error = errno == EWOULDBLOCK ? TS_ELOCKED : -errno;

		ts_fail(error, "flock %s: %s", path, error == TS_ELOCKED ?
			"another store has this folder open; give each a folder of its own" :
			strerror(errno));
		close(fd);
		return error;
	}
	return fd;
}

static bool name_is_ours(const char *name)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(data_names); i++)
		if (strcmp(name, data_names[i]) == 0)
			return true;
	return strcmp(name, marker_name) == 0;
}

/* Whether there is anything in the folder, a fresh file system's own folder aside.  @foreign_out:
 * a name that is not one of ours, or "". */
static int folder_look(int dir_fd, bool *is_empty, char foreign_out[64])
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		int error = -errno;

		if (fd >= 0)
			close(fd);
		return error;
	}
	*is_empty = true;
	foreign_out[0] = '\0';
	while ((entry = readdir(dir))) {
		const char *name = entry->d_name;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    strcmp(name, "lost+found") == 0)
			continue;
		*is_empty = false;
		if (!name_is_ours(name))
			snprintf(foreign_out, 64, "%.63s", name);
	}
	closedir(dir);
	return 0;
}

/* What the marker says.  An empty one is what a crash right after its creation leaves. */
static int marker_read(int fd, const char *path, bool *is_kept, bool *is_held)
{
	char text[128] = "", boot[TS_BOOT_ID_BYTES];
	unsigned version;
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);

	*is_kept = false;
	if (len < 0)
		return ts_fail(-errno, "read %s/%s: %m", path, marker_name);
	if (strncmp(text, marker_magic, strlen(marker_magic)) != 0 ||
	    sscanf(text + strlen(marker_magic), "%u", &version) != 1)
		return ts_fail(TS_EWRONGFILE, "%s/%s is not the marker of an lmdb store; give the "
			       "store an empty folder", path, marker_name);
	if (version != 1)
		return ts_fail(TS_EVERSION, "%s holds an lmdb store of version %u, this library "
			       "writes version 1; delete the folder or use another", path, version);
	*is_kept = strcmp(text, marker_kept) == 0;
	if (ts_sys_boot_id(boot) < 0)
		return TS_ESTATE;
	/* What was held in another boot is as good as gone: nobody has its index. */
	*is_held = strncmp(text, marker_held, strlen(marker_held)) == 0 &&
		   strncmp(text + strlen(marker_held), boot, strlen(boot)) == 0;
	return 0;
}

/* Durable when this returns: see the head of the file. */
static int marker_write(const struct ts_lmdb_folder *folder, const char *text)
{
	size_t len = strlen(text);

	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	ssize_t written = pwrite(folder->marker_fd, text, len, 0);
	if (written != (ssize_t)len)
		return written < 0 ? -errno : -EIO;
	if (ftruncate(folder->marker_fd, (off_t)len) < 0 || fsync(folder->marker_fd) < 0 ||
	    fsync(folder->dir_fd) < 0)
		return -errno;
	return 0;
}

static int marker_hold(const struct ts_lmdb_folder *folder)
{
	char boot[TS_BOOT_ID_BYTES], text[128];
	int result = ts_sys_boot_id(boot);

	snprintf(text, sizeof(text), "%s%s\n", marker_held, boot);
	return result < 0 ? result : marker_write(folder, text);
}

static int data_remove(int dir_fd)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(data_names); i++)
		if (unlinkat(dir_fd, data_names[i], 0) < 0 && errno != ENOENT)
			return -errno;
	return 0;
}

/* The marker of a folder that is locked: an existing one is checked, an empty folder gets one. */
static int marker_open_or_create(struct ts_lmdb_folder *folder, const char *path)
{
	char foreign[64];
	bool is_empty = false;
	struct stat stat;

	int result = folder_look(folder->dir_fd, &is_empty, foreign);
	if (result < 0)
		return ts_fail(result, "readdir %s: %s", path, strerror(-result));
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (is_empty ? O_CREAT : 0);
	folder->marker_fd = openat(folder->dir_fd, marker_name, flags, 0600);
	if (folder->marker_fd < 0 && errno == ENOENT)
		return ts_fail(TS_EWRONGFILE, "%s is not empty and holds no lmdb store of ours "
			       "(found '%s'); give the store an empty folder", path,
			       foreign[0] ? foreign : data_names[0]);
	if (folder->marker_fd < 0)
		return ts_fail(-errno, "open %s/%s: %m", path, marker_name);
	if (fstat(folder->marker_fd, &stat) < 0)
		return ts_fail(-errno, "stat %s/%s: %m", path, marker_name);
	if (stat.st_size == 0 && !foreign[0])
		return 0;
	return marker_read(folder->marker_fd, path, &folder->is_kept, &folder->is_held);
}

static int mode_check(struct ts_lmdb_folder *folder, const char *path, enum ts_lmdb_mode mode)
{
	if (mode == TS_LMDB_RESUME && !folder->is_held)
		return ts_fail(TS_ESTATE, "%s holds no frames of the state folder; put them back, "
			       "or remove the state folder", path);
	if (mode != TS_LMDB_RESUME && folder->is_held)
		return ts_fail(TS_EWRONGFILE, "%s holds frames that belong to an engine's state "
			       "folder; open it with that folder, or delete it", path);
	folder->is_kept = mode == TS_LMDB_RESUME || (folder->is_kept && mode == TS_LMDB_KEEP);
	folder->is_held = mode == TS_LMDB_RESUME || mode == TS_LMDB_HOLD;
	return 0;
}

/* Takes the folder over for this process's own use. */
static int folder_claim(struct ts_lmdb_folder *folder, const char *path, enum ts_lmdb_mode mode)
{
	int result = mode_check(folder, path, mode);

	if (result < 0)
		return result;
	if (fchmod(folder->dir_fd, 0700) < 0)
		return ts_fail(-errno, "chmod %s: %m; the folder must belong to this user", path);
	/* Before the frames are removed: a crash in between must not leave "kept" without them. */
	if (mode != TS_LMDB_RESUME)
		result = marker_write(folder, marker_open);
	if (result < 0)
		return ts_fail(result, "write %s/%s: %s", path, marker_name, strerror(-result));
	if (!folder->is_kept) {
		result = data_remove(folder->dir_fd);
	} else if (unlinkat(folder->dir_fd, "lock.mdb", 0) < 0 && errno != ENOENT) {
		/* Its layout depends on the build of LMDB that made it; nobody else has it open. */
		result = -errno;
	}
	if (result < 0)
		return ts_fail(result, "unlink in %s: %s", path, strerror(-result));
	if (mode == TS_LMDB_HOLD)
		result = marker_hold(folder);
	return result < 0 ? ts_fail(result, "write %s/%s: %s", path, marker_name,
				    strerror(-result)) : 0;
}

static void folder_unlock(struct ts_lmdb_folder *folder)
{
	if (folder->marker_fd >= 0)
		close(folder->marker_fd);
	if (folder->dir_fd >= 0)
		close(folder->dir_fd);
	folder->marker_fd = folder->dir_fd = -1;
}

int ts_lmdb_folder_open(const char *path, enum ts_lmdb_mode mode, struct ts_lmdb_folder *folder)
{
	*folder = (struct ts_lmdb_folder){ .dir_fd = -1, .marker_fd = -1 };
	int result = folder_lock(path, &folder->is_created);
	if (result < 0)
		return result;
	folder->dir_fd = result;
	result = marker_open_or_create(folder, path);
	if (result == 0)
		result = folder_claim(folder, path, mode);
	if (result < 0)
		folder_unlock(folder);
	return result;
}

int ts_lmdb_folder_close(struct ts_lmdb_folder *folder, bool keep)
{
	int result;

	if (folder->dir_fd < 0)
		return 0;
	if (folder->is_held) {
		result = 0;
	} else if (keep) {
		result = marker_write(folder, marker_kept);
	} else {
		/* The marker goes last, so that what is left at any moment is known as ours. */
		result = data_remove(folder->dir_fd);
		if (result == 0 && unlinkat(folder->dir_fd, marker_name, 0) < 0)
			result = -errno;
	}
	folder_unlock(folder);
	return result;
}
