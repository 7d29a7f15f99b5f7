/* SPDX-License-Identifier: Apache-2.0
 *
 * kern.h — what the kernel tests share: userfaultfd with bare ioctls, memory to try it on, and
 * threads that touch that memory and go to sleep in it.
 *
 * Nothing of the engine is used here: these tests show what the *kernel* does, and the engine's
 * design leans on each of them.  One program shows one behaviour (or a few that belong together),
 * and says which in its first comment.
 *
 * Ioctl helpers return 0 or -errno, like the library.  Set-up helpers cannot fail: they end the
 * program, with 77 (skipped) where the kernel or the privileges lack something, with 1 otherwise.
 */
#ifndef TS_TESTS_KERNEL_KERN_H
#define TS_TESTS_KERNEL_KERN_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "os/uapi.h"

enum { KERN_PAGE = 4096, KERN_HUGE = 2 << 20, KERN_TIMEOUT_MS = 60000 };

/* ---- Verdicts --------------------------------------------------------------------------- */

#define KERN_FAIL(...) \
	do { \
		fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
		fprintf(stderr, __VA_ARGS__); \
		fputc('\n', stderr); \
		exit(1); \
	} while (0)

#define KERN_SKIP(...) \
	do { \
		fprintf(stderr, "skipped: "); \
		fprintf(stderr, __VA_ARGS__); \
		fputc('\n', stderr); \
		exit(77); \
	} while (0)

/* How long is too long is asked of the clock, not counted in turns: what a turn takes differs by a
 * factor of fifty between a quiet machine and an emulated one under load. */
static inline uint64_t kern_now_ms(void)
{
	struct timespec now;
	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline uint64_t kern_addr(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

/* ---- Opening a userfaultfd -------------------------------------------------------------- */

/* A fresh descriptor, not yet told which API: for tests of UFFDIO_API itself. */
static inline int kern_uffd_raw(int flags)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
	if (uffd < 0 && (errno == EPERM || errno == ENOSYS))
		KERN_SKIP("userfaultfd(): %s", strerror(errno));
	CHECK(uffd >= 0);
	return uffd;
}

static inline int kern_api(int uffd, uint64_t features, struct uffdio_api *api_out)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int rc = ioctl(uffd, UFFDIO_API, &api) ? -errno : 0;
	if (api_out)
		*api_out = api;
	return rc;
}

/* The newest of these features, and the kernel that brought it. */
static inline const char *kern_newest(uint64_t features)
{
	static const struct {
		uint64_t feature;
		const char *name;
	} known[] = {
		{UFFD_FEATURE_RWP_ASYNC, "RWP_ASYNC: Linux 7.3"},
		{UFFD_FEATURE_RWP, "RWP: Linux 7.3"},
		{UFFD_FEATURE_MOVE, "MOVE: Linux 6.8"},
		{UFFD_FEATURE_WP_ASYNC, "WP_ASYNC: Linux 6.7"},
		{UFFD_FEATURE_POISON, "POISON: Linux 6.6"},
		{UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED: Linux 6.4"},
		{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM: Linux 5.19"},
	};
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
		if (features & known[i].feature)
			return known[i].name;
	return "older ones";
}

/* A descriptor with exactly these features; the test is skipped where the kernel lacks one. */
static inline int kern_uffd(uint64_t features)
{
	struct uffdio_api api;
	int probe = kern_uffd_raw(0);
	CHECK_EQ(kern_api(probe, 0, &api), 0);
	CHECK_EQ(close(probe), 0);
	if (features & ~(uint64_t)api.features)
		KERN_SKIP("userfaultfd lacks features: %s", kern_newest(features & ~api.features));
	int uffd = kern_uffd_raw(0);
	CHECK_EQ(kern_api(uffd, features, NULL), 0);
	return uffd;
}

/* Whether this is Linux 7.3 or later, as far as userfaultfd is concerned. */
static inline bool kern_has_rwp(void)
{
	struct uffdio_api api;
	int probe = kern_uffd_raw(0);
	CHECK_EQ(kern_api(probe, 0, &api), 0);
	CHECK_EQ(close(probe), 0);
	return api.features & UFFD_FEATURE_RWP;
}

/* ---- Ioctls ----------------------------------------------------------------------------- */

static inline int kern_register_mask(
	int uffd, void *addr, size_t len_bytes, uint64_t modes, uint64_t *ioctls_out)
{
	struct uffdio_register arg = {.range = {kern_addr(addr), len_bytes}, .mode = modes};
	if (ioctl(uffd, UFFDIO_REGISTER, &arg))
		return -errno;
	if (ioctls_out)
		*ioctls_out = arg.ioctls;
	return 0;
}

static inline int kern_register(int uffd, void *addr, size_t len_bytes, uint64_t modes)
{
	return kern_register_mask(uffd, addr, len_bytes, modes, NULL);
}

static inline int kern_unregister(int uffd, void *addr, size_t len_bytes)
{
	struct uffdio_range arg = {kern_addr(addr), len_bytes};
	return ioctl(uffd, UFFDIO_UNREGISTER, &arg) ? -errno : 0;
}

static inline int kern_wake(int uffd, void *addr, size_t len_bytes)
{
	struct uffdio_range arg = {kern_addr(addr), len_bytes};
	return ioctl(uffd, UFFDIO_WAKE, &arg) ? -errno : 0;
}

/* done_out: the kernel's `copy` field, bytes or -errno; it starts as 0. */
static inline int kern_copy_mode(int uffd, void *dst, const void *src, size_t len_bytes,
	uint64_t mode, int64_t *done_out)
{
	struct uffdio_copy arg = {
		.dst = kern_addr(dst), .src = kern_addr(src), .len = len_bytes, .mode = mode};
	int rc = ioctl(uffd, UFFDIO_COPY, &arg) ? -errno : 0;
	if (done_out)
		*done_out = arg.copy;
	return rc;
}

static inline int kern_copy(int uffd, void *dst, const void *src, size_t len_bytes)
{
	return kern_copy_mode(uffd, dst, src, len_bytes, 0, NULL);
}

static inline int kern_zeropage(int uffd, void *dst, size_t len_bytes)
{
	struct uffdio_zeropage arg = {.range = {kern_addr(dst), len_bytes}};
	return ioctl(uffd, UFFDIO_ZEROPAGE, &arg) ? -errno : 0;
}

static inline int kern_continue(int uffd, void *dst, size_t len_bytes, int64_t *done_out)
{
	struct uffdio_continue arg = {.range = {kern_addr(dst), len_bytes}};
	int rc = ioctl(uffd, UFFDIO_CONTINUE, &arg) ? -errno : 0;
	if (done_out)
		*done_out = arg.mapped;
	return rc;
}

/* protect: UFFDIO_WRITEPROTECT_MODE_WP or 0. */
static inline int kern_wp(int uffd, void *addr, size_t len_bytes, uint64_t mode)
{
	struct uffdio_writeprotect arg = {.range = {kern_addr(addr), len_bytes}, .mode = mode};
	return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) ? -errno : 0;
}

static inline int kern_move_mode(
	int uffd, void *dst, void *src, size_t len_bytes, uint64_t mode, int64_t *done_out)
{
	struct uffdio_move arg = {
		.dst = kern_addr(dst), .src = kern_addr(src), .len = len_bytes, .mode = mode};
	int rc = ioctl(uffd, UFFDIO_MOVE, &arg) ? -errno : 0;
	if (done_out)
		*done_out = arg.move;
	return rc;
}

static inline int kern_move(int uffd, void *dst, void *src, size_t len_bytes)
{
	return kern_move_mode(uffd, dst, src, len_bytes, 0, NULL);
}

static inline int kern_poison(int uffd, void *addr, size_t len_bytes)
{
	struct uffdio_poison arg = {.range = {kern_addr(addr), len_bytes}};
	return ioctl(uffd, UFFDIO_POISON, &arg) ? -errno : 0;
}

/* ---- Messages --------------------------------------------------------------------------- */

/* Waits until the descriptor has a message, without reading it. */
static inline void kern_await_msg(int uffd)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	CHECK_EQ(poll(&p, 1, KERN_TIMEOUT_MS), 1);
	CHECK_EQ(p.revents, POLLIN);
}

static inline struct uffd_msg kern_read_msg(int uffd)
{
	struct uffd_msg msg;
	kern_await_msg(uffd);
	CHECK_EQ(read(uffd, &msg, sizeof msg), sizeof msg);
	return msg;
}

static inline bool kern_has_msg(int uffd)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

/* Reads a message if there is one.  While threads run, one that poll() has seen may be gone by now:
 * a thread enqueues its message, looks at the page again, and leaves if that has come meanwhile. */
static inline bool kern_try_msg(int uffd, struct uffd_msg *msg)
{
	ssize_t got = read(uffd, msg, sizeof *msg);
	CHECK(got == sizeof *msg || (got < 0 && errno == EAGAIN));
	return got > 0;
}

/* Insists on a fault's page and its flags. */
static inline void kern_check_fault(const struct uffd_msg *msg, const void *page, uint64_t flags)
{
	CHECK_EQ(msg->event, UFFD_EVENT_PAGEFAULT);
	CHECK_EQ(msg->arg.pagefault.address & ~(uint64_t)(KERN_PAGE - 1), kern_addr(page));
	CHECK_EQ(msg->arg.pagefault.flags, flags);
}

/* Reads a fault that is sure to come, and insists on its page and its flags. */
static inline void kern_expect_fault(int uffd, const void *page, uint64_t flags)
{
	struct uffd_msg msg = kern_read_msg(uffd);
	kern_check_fault(&msg, page, flags);
}

/* ---- Memory ----------------------------------------------------------------------------- */

static inline char *kern_map(size_t len_bytes, int prot, int flags, int fd)
{
	void *p = mmap(NULL, len_bytes, prot, flags, fd, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

/* Private anonymous memory that khugepaged and THP keep their hands off. */
static inline char *kern_anon(size_t nr_pages)
{
	size_t len = nr_pages * KERN_PAGE;
	char *p = kern_map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	CHECK_EQ(madvise(p, len, MADV_NOHUGEPAGE), 0);
	return p;
}

/* The same, on a 2 MiB boundary and with huge pages wanted. */
static inline char *kern_anon_huge(size_t nr_huge)
{
	size_t len = (nr_huge + 1) * KERN_HUGE;
	char *p = kern_map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char *start = (char *)(((uintptr_t)p + KERN_HUGE - 1) & ~(uintptr_t)(KERN_HUGE - 1));
	if (madvise(start, nr_huge * KERN_HUGE, MADV_HUGEPAGE))
		KERN_SKIP("no transparent huge pages: %s", strerror(errno));
	return start;
}

/* A huge page of this one.  EAGAIN: somebody in the kernel (compaction, DAMON) holds one of its
 * pages for a moment. */
static inline int kern_collapse(void *area)
{
	const uint64_t end_ms = kern_now_ms() + KERN_TIMEOUT_MS;
	int rc;
	do
		rc = madvise(area, KERN_HUGE, MADV_COLLAPSE) ? -errno : 0;
	while (rc == -EAGAIN && kern_now_ms() < end_ms && !usleep(1000));
	return rc;
}

static inline int kern_memfd(size_t nr_pages)
{
	int fd = memfd_create("kern", MFD_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_EQ(ftruncate(fd, (off_t)(nr_pages * KERN_PAGE)), 0);
	return fd;
}

static inline char *kern_shared(int fd, size_t nr_pages)
{
	return kern_map(nr_pages * KERN_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

static inline void kern_fill(void *addr, size_t nr_pages, int byte)
{
	memset(addr, byte, nr_pages * KERN_PAGE);
}

static inline bool kern_is_all(const void *addr, size_t len_bytes, int byte)
{
	const unsigned char *p = addr;
	for (size_t i = 0; i < len_bytes; i++)
		if (p[i] != (unsigned char)byte)
			return false;
	return true;
}

static inline int kern_punch(int fd, size_t page, size_t nr_pages)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * KERN_PAGE),
		       (off_t)(nr_pages * KERN_PAGE))
		? -errno
		: 0;
}

/* ---- Looking at page tables ------------------------------------------------------------- */

enum {
	KERN_PM_PRESENT = 63,
	KERN_PM_SWAPPED = 62,
	KERN_PM_EXCLUSIVE = 56,
	KERN_PM_SOFT_DIRTY = 55,
	KERN_PM_UFFD = 57, /* the entry carries the uffd bit: write-protected */
};

/* Without the soft-dirty bit, which kernels with CONFIG_MEM_SOFT_DIRTY set on holes, too. */
static inline uint64_t kern_pagemap(const void *page)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_EQ(pread(fd, &entry, sizeof entry, (off_t)(kern_addr(page) / KERN_PAGE * 8)), 8);
	CHECK_EQ(close(fd), 0);
	return entry & ~(UINT64_C(1) << KERN_PM_SOFT_DIRTY);
}

static inline bool kern_pm_bit(const void *page, int bit)
{
	return kern_pagemap(page) >> bit & 1;
}

static inline bool kern_is_present(const void *page)
{
	return kern_pm_bit(page, KERN_PM_PRESENT);
}

static inline bool kern_is_wp(const void *page)
{
	return kern_pm_bit(page, KERN_PM_UFFD);
}

/* PAGEMAP_SCAN with all of `mask` required; `flags` are PM_SCAN_*.  Returns the number of matching
 * pages, or -errno. */
static inline long kern_scan(const void *addr, size_t len_bytes, uint64_t mask, uint64_t flags)
{
	struct page_region vec[64];
	long nr_pages = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	struct pm_scan_arg arg = {.size = sizeof arg,
		.flags = flags,
		.start = kern_addr(addr),
		.end = kern_addr(addr) + len_bytes,
		.vec = kern_addr(vec),
		.vec_len = sizeof vec / sizeof vec[0],
		.category_mask = mask,
		.return_mask = mask};
	while (arg.start < arg.end) {
		int n = ioctl(fd, PAGEMAP_SCAN, &arg);
		if (n < 0) {
			nr_pages = -errno;
			break;
		}
		for (int i = 0; i < n; i++)
			nr_pages += (long)((vec[i].end - vec[i].start) / KERN_PAGE);
		arg.start = arg.walk_end;
	}
	CHECK_EQ(close(fd), 0);
	if (nr_pages == -ENOTTY)
		KERN_SKIP("no PAGEMAP_SCAN: Linux 6.7");
	return nr_pages;
}

/* A line of /proc/self/smaps ("AnonHugePages:") for the mapping that holds addr, in KiB; -1 where
 * this kernel has no such line. */
static inline long kern_smaps_find(const void *addr, const char *field)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool is_ours = false;
	long kib = -1;
	CHECK(f != NULL);
	while (kib < 0 && fgets(line, sizeof line, f)) {
		uint64_t start, end;
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			is_ours = start <= kern_addr(addr) && kern_addr(addr) < end;
		else if (is_ours && strncmp(line, field, strlen(field)) == 0)
			CHECK_EQ(sscanf(line + strlen(field), "%ld", &kib), 1);
	}
	CHECK_EQ(fclose(f), 0);
	return kib;
}

static inline long kern_smaps_kib(const void *addr, const char *field)
{
	long kib = kern_smaps_find(addr, field);
	CHECK(kib >= 0);
	return kib;
}

#endif
