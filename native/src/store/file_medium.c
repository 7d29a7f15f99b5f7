/* SPDX-License-Identifier: Apache-2.0
 *
 * file_medium.c — what is behind a path: opening a regular file or a block device with care,
 * blocking transfers for the control thread, and giving room back. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/file.h"
#include "util/hook.h"

enum { LOCK_WAIT_MS = 1000, LOCK_ORPHAN_WAIT_MS = 30000, LOCK_PAUSE_MS = 5 };

/* ---- Options ----------------------------------------------------------------------------- */

static int option_set(const char *key, const char *value, struct ts_file_options *options)
{
	char *end;

	if (!strcmp(key, "direct")) {
		options->direct = !strcmp(value, "on") ? 1 : !strcmp(value, "off") ? 0 : -1;
		if (options->direct < 0 && strcmp(value, "auto"))
			return ts_fail(TS_ECONFIG, "store file: direct=%s: on, off or auto", value);
		return 0;
	}
	if (!strcmp(key, "depth")) {
		unsigned long depth = strtoul(value, &end, 10);

		if (*end || end == value || depth < 1 || depth > 1024)
			return ts_fail(TS_ECONFIG, "store file: depth=%s: 1 to 1024", value);
		options->depth = (uint32_t)depth;
		return 0;
	}
	bool is_one = !strcmp(value, "1");
	if (!is_one && strcmp(value, "0"))
		return ts_fail(TS_ECONFIG, "store file: %s=%s: 0 or 1", key, value);
	if (!strcmp(key, "keep"))
		options->is_kept = is_one;
	else if (!strcmp(key, "init"))
		options->is_init = is_one;
	else
		return ts_fail(TS_ECONFIG, "store file: unknown option \"%s\"; there are direct, "
			       "depth, keep and init", key);
	return 0;
}

int ts_file_options_parse(const char *text, struct ts_file_options *options_out)
{
	char copy[256];

	*options_out = (struct ts_file_options){ .direct = -1 };
	if (!text)
		return 0;
	if (strlen(text) >= sizeof(copy))
		return ts_fail(TS_ECONFIG, "store file: options longer than %zu characters",
			       sizeof(copy) - 1);
	memcpy(copy, text, strlen(text) + 1);
	char *rest = copy;
	for (char *word; (word = strtok_r(rest, ",", &rest)) != NULL;) {
		char *equals = strchr(word, '=');

		if (!equals)
			return ts_fail(TS_ECONFIG, "store file: option \"%s\" has no value", word);
		*equals = '\0';
		int ret = option_set(word, equals + 1, options_out);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- Opening ----------------------------------------------------------------------------- */

static int sys_open(const char *path, int flags)
{
	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	int fd = open(path, flags | O_RDWR | O_CLOEXEC, 0600);
	return fd >= 0 ? fd : -errno;
}

/* Opens what is there, or makes a new file; never truncates, never waits for a tape. */
static int open_or_create(struct ts_file *file, int flags)
{
	for (unsigned i = 0; i < TS_FILE_RETRY_MAX; i++) {
		int fd = sys_open(file->path, flags | O_NONBLOCK);

		if (fd != -ENOENT)
			return fd;
		fd = sys_open(file->path, flags | O_CREAT | O_EXCL);
		if (fd >= 0)
			file->is_created = true;
		if (fd != -EEXIST)
			return fd;
	}
	return -EEXIST;
}

static int open_failed(const char *path, int error)
{
	const char *remedy = "";

	switch (error) {
	case -EISDIR: remedy = "; it is a folder, name a file in it"; break;
	case -ENOENT: remedy = "; create the folder first"; break;
	case -EACCES:
	case -EPERM: remedy = "; it must be readable and writable for this user"; break;
	case -EROFS: remedy = "; the file system is read-only"; break;
	case -EINVAL: remedy = "; O_DIRECT is refused there, use direct=auto or direct=off"; break;
	case -EBUSY: remedy = "; the device is mounted or used by a driver"; break;
	case -ENXIO: remedy = "; it is no regular file and no block device"; break;
	}
	return ts_fail(error, "open %s: %s%s", path, strerror(-error), remedy);
}

static int open_path(struct ts_file *file, int direct)
{
	file->is_direct = direct != 0;
	file->fd = open_or_create(file, direct ? O_DIRECT : 0);
	if (file->fd == -EINVAL && direct < 0) {
		/* The probe may have left an empty file of ours; is_created remembers. */
		file->is_direct = false;
		file->fd = open_or_create(file, 0);
	}
	return file->fd < 0 ? open_failed(file->path, file->fd) : 0;
}

static int check_device(struct ts_file *file, const struct ts_store_config *config)
{
	uint64_t size_bytes;
	int sector_bytes;

	file->is_device = true;
	if (ioctl(file->fd, BLKGETSIZE64, &size_bytes) || ioctl(file->fd, BLKSSZGET, &sector_bytes))
		return ts_fail(-errno, "ioctl on device %s: %m", file->path);
	if (sector_bytes > TS_FILE_BLOCK_BYTES)
		return ts_fail(TS_EUNSUPPORTED, "device %s has sectors of %d bytes; at most %d",
			       file->path, sector_bytes, TS_FILE_BLOCK_BYTES);
	if (size_bytes < config->size_bytes)
		return ts_fail(TS_ECONFIG, "device %s has %llu bytes, size says %llu", file->path,
			       (unsigned long long)size_bytes,
			       (unsigned long long)config->size_bytes);
	return 0;
}

static int check_kind(struct ts_file *file, const struct ts_store_config *config)
{
	struct stat info;

	if (fstat(file->fd, &info))
		return ts_fail(-errno, "fstat %s: %m", file->path);
	if (S_ISBLK(info.st_mode))
		return check_device(file, config);
	if (!S_ISREG(info.st_mode))
		return ts_fail(TS_EWRONGFILE, "%s is no regular file and no block device",
			       file->path);
	return 0;
}

/* Is the process that locked the file still there?  In doubt: yes. */
static bool lock_has_owner(const struct ts_file *file)
{
	FILE *locks = fopen("/proc/locks", "re");
	unsigned long inode;
	struct stat info;
	char line[256];
	bool is_listed = false, has_owner = false;
	int pid;

	if (!locks || fstat(file->fd, &info)) {
		if (locks)
			fclose(locks);
		return true;
	}
	while (fgets(line, sizeof(line), locks)) {
		if (sscanf(line, "%*s FLOCK %*s WRITE %d %*x:%*x:%lu", &pid, &inode) != 2 ||
		    inode != info.st_ino)
			continue;
		is_listed = true;
		has_owner |= pid <= 0 || !kill(pid, 0) || errno != ESRCH;
	}
	fclose(locks);
	return has_owner || !is_listed;
}

/* A process that was killed leaves its rings to the kernel, which takes them down, and lets go of
 * the file and its lock, a little after the process is gone: so give a lock some time, and one
 * without an owner as long as that may take on a busy machine. */
static int lock(struct ts_file *file)
{
	static const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000 };

	for (unsigned i = 0; flock(file->fd, LOCK_EX | LOCK_NB); i++) {
		if (errno != EWOULDBLOCK)
			return ts_fail(-errno, "flock %s: %m", file->path);
		if (i >= LOCK_WAIT_MS / LOCK_PAUSE_MS &&
		    (i >= LOCK_ORPHAN_WAIT_MS / LOCK_PAUSE_MS || lock_has_owner(file)))
			return ts_fail(TS_ELOCKED, "%s is in use by another process (\"lsof %s\" "
				       "tells which); each store needs a path of its own",
				       file->path, file->path);
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Whether the path still leads to what we have locked: its last user may have removed it. */
static bool is_at_path(const struct ts_file *file)
{
	struct stat ours, theirs;

	return !fstat(file->fd, &ours) && !stat(file->path, &theirs) &&
	       ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

int ts_file_medium_open(struct ts_file *file, const struct ts_store_config *config,
			const struct ts_file_options *options)
{
	for (unsigned i = 0; i < TS_FILE_RETRY_MAX; i++) {
		int ret = open_path(file, options->direct);

		if (!ret)
			ret = lock(file);
		if (ret)
			return ret;
		if (is_at_path(file)) {
			file->is_locked = true;
			return check_kind(file, config);
		}
		close(file->fd);
		file->fd = -1;
		file->is_created = false;
	}
	return ts_fail(TS_ELOCKED, "%s is created and removed again and again by others",
		       file->path);
}

/* ---- Transfers --------------------------------------------------------------------------- */

int ts_file_transfer(struct ts_file *file, bool is_write, void *buf, size_t len_bytes,
		     uint64_t offset)
{
	size_t done = 0;

	while (done < len_bytes) {
		uint8_t *at = (uint8_t *)buf + done;
		ssize_t ret;

		if (TS_INJECT(TS_SITE_PREAD))
			ret = -1;
		else if (is_write)
			ret = pwrite(file->fd, at, len_bytes - done, (off_t)(offset + done));
		else
			ret = pread(file->fd, at, len_bytes - done, (off_t)(offset + done));
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return ret < 0 ? -errno : -EIO;
		done += (size_t)ret;
	}
	if (is_write)
		atomic_fetch_add(&file->device_bytes, len_bytes);
	return 0;
}

int ts_file_sync(struct ts_file *file)
{
	if (TS_INJECT(TS_SITE_PWRITE))
		return -errno;
	return fdatasync(file->fd) ? -errno : 0;
}

int ts_file_discard(struct ts_file *file, uint64_t offset, uint64_t len_bytes)
{
	uint64_t range[2] = { offset, len_bytes };
	int ret;

	if (TS_INJECT(TS_SITE_FALLOCATE))
		return -errno;
	if (file->is_device)
		ret = ioctl(file->fd, BLKDISCARD, range);
	else
		ret = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)offset, (off_t)len_bytes);
	return ret ? -errno : 0;
}
