/* SPDX-License-Identifier: Apache-2.0
 *
 * hooks.c — the calls of the program that pass through the shim.
 *
 * Each does what the C library's does, by the same system call, and notes what became of memory.
 * What the C library maps for itself (its malloc, stacks) does not come through here, and is left
 * alone for that.  What changes attached memory by another way (a bare system call) reaches the
 * engine as an event of its userfaultfd; the table is then out of date, no more.
 */
#undef _FILE_OFFSET_BITS /* mmap and mmap64 are both ours, under their own names */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

#define HOOK __attribute__((visibility("default")))
#define TEXT(name) #name
#define ALIAS(name) __attribute__((visibility("default"), alias(TEXT(name))))

enum {
	/* Smaller ones are looked at only if the rule wants smaller ones. */
	TRACK_BYTES_MIN = 1 << 20,
	UNWANTED_FLAGS = MAP_GROWSDOWN | MAP_STACK | MAP_HUGETLB | MAP_LOCKED,
	PAGE_MASK = 4095,
};

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + PAGE_MASK) & ~(uint64_t)PAGE_MASK;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- mmap ---------------------------------------------------------------------------------- */

/* Is it a memfd, of the name that the rule asks for? */
static bool is_wanted_memfd(int fd)
{
	const char *name = tsp_table.rule.memfd_name;
	char link[64], target[128];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t len = readlink(link, target, sizeof(target) - 1);
	if (len < 7 || strncmp(target, "/memfd:", 7))
		return false;
	target[len] = '\0';
	size_t name_len = strlen(name);
	return !name_len || (!strncmp(target + 7, name, name_len) &&
			     (target[7 + name_len] == ' ' || target[7 + name_len] == '\0'));
}

static bool describe(struct tsp_area *area, uint64_t bytes, int prot, int flags, int fd,
		     int64_t offset)
{
	const struct tsp_rule *rule = &tsp_table.rule;
	int kind = flags & (MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS);
	struct stat status;

	if (!rule->bytes_min || prot != (PROT_READ | PROT_WRITE) || (flags & UNWANTED_FLAGS))
		return false;
	*area = (struct tsp_area){ .fd = -1 };
	if (kind == (MAP_PRIVATE | MAP_ANONYMOUS))
		return rule->has_anon && (bytes >= rule->bytes_min || bytes >= TRACK_BYTES_MIN);
	/* A memfd is not joined with its neighbours: it must be large enough by itself. */
	if ((flags & MAP_TYPE) != MAP_SHARED || fd < 0 || !rule->has_memfd ||
	    bytes < rule->bytes_min || !is_wanted_memfd(fd) || fstat(fd, &status))
		return false;
	area->kind = TSP_KIND_MEMFD;
	area->fd = fd;
	area->inode = status.st_ino;
	area->offset = (uint64_t)offset;
	return true;
}

static void *raw_mmap(void *addr, size_t len, int prot, int flags, int fd, int64_t offset)
{
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

HOOK void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	uint64_t bytes = page_up(len), want = (uintptr_t)addr;
	struct tsp_area area;
	bool is_fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	int error = errno;
	bool is_ours = describe(&area, bytes, prot, flags, fd, offset);
	bool replaces = is_fixed && tsp_areas_overlap(want, want + bytes);

	errno = error;
	if (!is_ours && !replaces)
		return raw_mmap(addr, len, prot, flags, fd, offset);
	tsp_lock();
	bool is_wanted = false;
	void *got = raw_mmap(addr, len, prot, flags, fd, offset);
	error = errno;
	if (got != MAP_FAILED) {
		uint64_t start = (uintptr_t)got;
		tsp_areas_remove(start, start + bytes);
		area.start = start;
		area.end = start + bytes;
		area.born_ms = now_ms();
		is_wanted = is_ours && tsp_areas_add(&area);
	}
	tsp_unlock();
	if (is_wanted)
		tsp_host_want();
	errno = error;
	return got;
}

ALIAS(mmap) void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset);

/* ---- What changes mappings ----------------------------------------------------------------- */

HOOK int munmap(void *addr, size_t len)
{
	uint64_t start = (uintptr_t)addr, end = start + page_up(len);

	if (!tsp_areas_overlap(start, end))
		return (int)syscall(SYS_munmap, addr, len);
	tsp_lock();
	int rc = (int)syscall(SYS_munmap, addr, len), error = errno;
	if (!rc)
		tsp_areas_remove(start, end);
	tsp_unlock();
	errno = error;
	return rc;
}

HOOK void *mremap(void *addr, size_t len, size_t new_len, int flags, ...)
{
	uint64_t start = (uintptr_t)addr, target = 0;
	void *new_addr = NULL;

	if (flags & MREMAP_FIXED) {
		va_list args;
		va_start(args, flags);
		new_addr = va_arg(args, void *);
		va_end(args);
		target = (uintptr_t)new_addr;
	}
	if (!tsp_areas_overlap(start, start + page_up(len ? len : 1)) &&
	    !(target && tsp_areas_overlap(target, target + page_up(new_len))))
		return (void *)syscall(SYS_mremap, addr, len, new_len, flags, new_addr);
	tsp_lock();
	void *got = (void *)syscall(SYS_mremap, addr, len, new_len, flags, new_addr);
	int error = errno;
	if (got != MAP_FAILED)
		tsp_areas_move(start, page_up(len), (uintptr_t)got, page_up(new_len));
	tsp_unlock();
	errno = error;
	return got;
}

HOOK int madvise(void *addr, size_t len, int advice)
{
	uint64_t start = (uintptr_t)addr, end = start + page_up(len);
	const struct tsp_agent *agent = tsp_host_agent();
	bool is_punch = advice == MADV_REMOVE && agent;

	if ((advice != MADV_DONTFORK && advice != MADV_DOFORK && !is_punch) ||
	    !tsp_areas_overlap(start, end))
		return (int)syscall(SYS_madvise, addr, len, advice);
	if (is_punch)
		agent->punch_begin();
	int rc = (int)syscall(SYS_madvise, addr, len, advice), error = errno;
	/* From shared memory it is a hole in the file, which tells nobody. */
	if (is_punch && !rc)
		agent->removed(start, end - start);
	if (is_punch)
		agent->punch_end();
	if (!is_punch && !rc) {
		tsp_lock();
		tsp_areas_set_dontfork(start, end, advice == MADV_DONTFORK);
		tsp_unlock();
	}
	errno = error;
	return rc;
}

HOOK int fallocate(int fd, int mode, off_t offset, off_t len)
{
	const struct tsp_agent *agent = tsp_host_agent();
	struct stat status;

	if (!(mode & FALLOC_FL_PUNCH_HOLE) || !agent)
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	agent->punch_begin();
	int rc = (int)syscall(SYS_fallocate, fd, mode, offset, len), error = errno;
	if (!rc && !fstat(fd, &status))
		agent->punched(status.st_ino, (uint64_t)offset, (uint64_t)len);
	agent->punch_end();
	errno = error;
	return rc;
}

ALIAS(fallocate) int fallocate64(int fd, int mode, off64_t offset, off64_t len);

/* ---- Forks --------------------------------------------------------------------------------- */

static pid_t fork_by(const char *name)
{
	pid_t (*next)(void) = NULL;

	*(void **)&next = dlsym(RTLD_NEXT, name);
	if (!next) {
		errno = ENOSYS;
		return -1;
	}
	/* From prepare on no signal handler runs, which might fork and put this back. */
	tsp_fork_prepare();
	tsp_is_forking = true;
	pid_t pid = next();
	int error = errno;
	tsp_is_forking = false;
	if (pid)
		tsp_fork_parent(pid > 0);
	else
		tsp_fork_child();
	errno = error;
	return pid;
}

HOOK pid_t fork(void)
{
	return fork_by("fork");
}

HOOK pid_t _Fork(void)
{
	return fork_by("_Fork");
}

struct start {
	int (*run)(void *);
	void *arg;
};

static int start_child(void *arg)
{
	struct start start = *(struct start *)arg;

	tsp_fork_child();
	return start.run(start.arg);
}

/* Without CLONE_VM it is a fork. */
HOOK int clone(int (*run)(void *), void *stack, int flags, void *arg, ...)
{
	typedef int clone_fn(int (*)(void *), void *, int, void *, ...);
	clone_fn *next = NULL;
	va_list args;

	va_start(args, arg);
	void *parent_tid = va_arg(args, void *), *tls = va_arg(args, void *),
	     *child_tid = va_arg(args, void *);
	va_end(args);
	*(void **)&next = dlsym(RTLD_NEXT, "clone");
	if (!next) {
		errno = ENOSYS;
		return -1;
	}
	if (flags & CLONE_VM)
		return next(run, stack, flags, arg, parent_tid, tls, child_tid);
	struct start start = { run, arg };
	tsp_fork_prepare();
	int pid = next(start_child, stack, flags, &start, parent_tid, tls, child_tid);
	int error = errno;
	tsp_fork_parent(pid > 0);
	errno = error;
	return pid;
}
