/* SPDX-License-Identifier: Apache-2.0
 * handed.c — descriptors that another process made (handed.h). */
#include "os/handed.h"

#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "os/sys.h"
#include "util/base.h"

enum { PAGE_BYTES = 4096 };

/* The kernel's own mark of a userfaultfd that has been through UFFDIO_API. */
#define FEATURE_INITIALIZED (UINT64_C(1) << 31)

static bool has_name(int fd, const char *name)
{
	char path[64], target[128];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return false;
	target[len] = 0;
	size_t name_len = strlen(name);
	return (size_t)len >= name_len && !strcmp(target + (size_t)len - name_len, name);
}

/* "API: <version>:<features>:<ioctls>", all hex. */
static int parse_fdinfo(FILE *info, uint64_t *features_out)
{
	unsigned long long version, features;
	char line[128];

	while (fgets(line, sizeof(line), info))
		if (sscanf(line, "API: %llx:%llx:", &version, &features) == 2) {
			*features_out = features & ~FEATURE_INITIALIZED;
			return features & FEATURE_INITIALIZED ? 0 : -EINVAL;
		}
	return -EINVAL;
}

int ts_handed_features(int uffd, uint64_t *features_out)
{
	char path[64];

	*features_out = 0;
	if (fcntl(uffd, F_GETFD) < 0)
		return -EBADF;
	if (!has_name(uffd, "anon_inode:[userfaultfd]"))
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", uffd);
	FILE *info = fopen(path, "re");
	if (!info)
		return -errno;
	int rc = parse_fdinfo(info, features_out);
	fclose(info);
	return rc;
}

bool ts_handed_is_same(int fd, int other_fd)
{
	pid_t self = getpid();

	return syscall(SYS_kcmp, self, self, KCMP_FILE, fd, other_fd) == 0;
}

int ts_handed_unblock(int uffd)
{
	int flags = fcntl(uffd, F_GETFL);

	if (flags < 0)
		return -errno;
	if (flags & O_NONBLOCK)
		return 0;
	return fcntl(uffd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

/* COPY looks for the destination before it looks at the source, which here can't be read. */
int ts_handed_probe(int uffd, uint64_t addr)
{
	void *unreadable = mmap(NULL, PAGE_BYTES, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (unreadable == MAP_FAILED)
		return -errno;
	struct uffdio_copy copy = { .dst = addr, .src = (uintptr_t)unreadable,
				    .len = PAGE_BYTES };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_COPY, uffd, UFFDIO_COPY, &copy);
	munmap(unreadable, PAGE_BYTES);
	/* EFAULT: it would have been copied.  EEXIST: there is a page.  EAGAIN: an event is queued,
	 * so a range of it lives. */
	return rc == -EFAULT || rc == -EEXIST || rc == -EAGAIN ? 0 : rc;
}

ssize_t ts_handed_read(int uffd, void *buf, size_t len_bytes)
{
	struct iovec to = { buf, len_bytes };
	ssize_t got = preadv2(uffd, &to, 1, -1, RWF_NOWAIT);

	/* Before Linux 6.10 there is no such read; the flag that we set has to do. */
	return got < 0 && errno == EOPNOTSUPP ? read(uffd, buf, len_bytes) : got;
}

enum ts_handed_backing ts_handed_backing(int fd, uint64_t end_bytes)
{
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) || fstatfs(fd, &fs))
		return TS_BACKING_CLOSED;
	if (fs.f_type == HUGETLBFS_MAGIC)
		return TS_BACKING_HUGE;
	if (fs.f_type != TMPFS_MAGIC || !S_ISREG(st.st_mode))
		return TS_BACKING_NONE;
	if ((uint64_t)st.st_size < end_bytes)
		return TS_BACKING_SHORT;
	int seals = fcntl(fd, F_GET_SEALS), flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_ACCMODE) != O_RDWR ||
	    (seals > 0 && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		return TS_BACKING_READ_ONLY;
	return TS_BACKING_FULL;
}

bool ts_handed_is_pagemap(int fd)
{
	return has_name(fd, "/pagemap");
}
