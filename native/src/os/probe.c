/* SPDX-License-Identifier: Apache-2.0
 *
 * probe.c — what this kernel offers, found by trying it.
 *
 * A feature bit says that the kernel knows a name, not that the thing works on this memory and
 * with these privileges; and bits 17 and 18 have meant two different things (os/uapi.h).  So what
 * can be tried on one or two pages of our own is tried, each time on a userfaultfd that is thrown
 * away afterwards: a descriptor takes UFFDIO_API once only.  Pages are populated before they are
 * registered and never touched again while registered, so nothing here can wait for a fault.
 */
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "os/sys.h"
#include "os/uffd.h"
#include "util/base.h"
#include "util/limits.h"
#include "util/sized.h"

enum { TRIAL_BYTES = 2 * TS_PAGE_BYTES };

/* ---- Userfaultfds to throw away --------------------------------------------------------- */

/* Returns a descriptor, or -errno: of the system call, unless only the device is there. */
static int open_uffd(uint8_t *is_dev_out)
{
	int dev, fd;

	*is_dev_out = 0;
	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		(void)close(dev);
		if (fd >= 0) {
			*is_dev_out = 1;
			return fd;
		}
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? fd : -errno;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

/* A descriptor with exactly `features` agreed upon, or -errno. */
static int open_with(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	uint8_t is_dev;
	int fd = open_uffd(&is_dev), error;

	if (fd < 0)
		return fd;
	error = ts_sys_ioctl(TS_SITE_IOCTL_API, fd, UFFDIO_API, &api);
	if (error) {
		close_fd(fd);
		return error;
	}
	return fd;
}

static bool accepts(uint64_t features)
{
	int fd = open_with(features);

	close_fd(fd);
	return fd >= 0;
}

/* ---- Memory to try things on ------------------------------------------------------------ */

/* Two pages of a memfd, written to, mapped shared; NULL if that can't be had. */
static void *map_memfd(void)
{
	void *addr = MAP_FAILED;
	int fd;

	if (TS_INJECT(TS_SITE_MMAP))
		return NULL;
	fd = memfd_create("tierstore-probe", MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, TRIAL_BYTES) == 0)
		addr = mmap(NULL, TRIAL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close_fd(fd);
	return addr == MAP_FAILED ? NULL : addr;
}

struct trial {
	int fd;
	uint64_t addr; /* TRIAL_BYTES of memory; the first page is written to, the second is not */
};

enum trial_memory { TRIAL_ANON, TRIAL_MEMFD };

/* Gets the memory and registers it, the second page alone if `tail_only`.  False: not possible
 * here, for whatever reason; trial_finish() is due in any case. */
static bool trial_init(struct trial *trial, enum trial_memory memory, uint64_t features,
		       uint64_t modes, unsigned needed_nr, bool tail_only)
{
	char *pages = memory == TRIAL_ANON ? ts_sys_alloc_pages(TRIAL_BYTES) : map_memfd();
	struct uffdio_register reg = { .mode = modes };

	trial->addr = (uintptr_t)pages;
	trial->fd = pages ? open_with(features) : -1;
	if (trial->fd < 0)
		return false;
	pages[0] = 1;
	reg.range.start = trial->addr + (tail_only ? TS_PAGE_BYTES : 0);
	reg.range.len = tail_only ? TS_PAGE_BYTES : TRIAL_BYTES;
	return ts_sys_ioctl(TS_SITE_IOCTL_REGISTER, trial->fd, UFFDIO_REGISTER, &reg) == 0 &&
	       (reg.ioctls & (1ull << needed_nr));
}

/* Closing the descriptor unregisters and un-protects. */
static void trial_finish(struct trial *trial)
{
	close_fd(trial->fd);
	if (trial->addr)
		(void)munmap((void *)(uintptr_t)trial->addr, TRIAL_BYTES);
}

/* ---- Trials ----------------------------------------------------------------------------- */

static bool try_wp(enum trial_memory memory, uint64_t features)
{
	struct trial trial;
	bool works = trial_init(&trial, memory, features, UFFDIO_REGISTER_MODE_WP,
				TS_UFFD_NR_WRITEPROTECT, false);
	struct uffdio_writeprotect protect = {
		.range = { trial.addr, TRIAL_BYTES },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	works = works && ts_sys_ioctl(TS_SITE_IOCTL_WP, trial.fd, UFFDIO_WRITEPROTECT,
				      &protect) == 0;
	trial_finish(&trial);
	return works;
}

/* Fills the hole in the second page, which is what a served fault does. */
static bool try_missing_shmem(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_MEMFD, UFFD_FEATURE_MISSING_SHMEM,
				UFFDIO_REGISTER_MODE_MISSING, TS_UFFD_NR_COPY, true);
	struct uffdio_copy copy = {
		.dst = trial.addr + TS_PAGE_BYTES,
		.src = trial.addr,
		.len = TS_PAGE_BYTES,
	};

	works = works && ts_sys_ioctl(TS_SITE_IOCTL_COPY, trial.fd, UFFDIO_COPY, &copy) == 0 &&
		copy.copy == TS_PAGE_BYTES;
	trial_finish(&trial);
	return works;
}

static bool try_minor_shmem(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_MEMFD, UFFD_FEATURE_MINOR_SHMEM,
				UFFDIO_REGISTER_MODE_MINOR, TS_UFFD_NR_CONTINUE, false);

	trial_finish(&trial);
	return works;
}

static bool try_move(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_ANON, UFFD_FEATURE_MOVE,
				UFFDIO_REGISTER_MODE_MISSING, TS_UFFD_NR_MOVE, true);
	struct uffdio_move move = {
		.dst = trial.addr + TS_PAGE_BYTES,
		.src = trial.addr,
		.len = TS_PAGE_BYTES,
	};

	works = works && ts_sys_ioctl(TS_SITE_IOCTL_MOVE, trial.fd, UFFDIO_MOVE, &move) == 0 &&
		move.move == TS_PAGE_BYTES;
	trial_finish(&trial);
	return works;
}

static bool try_poison(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_ANON, UFFD_FEATURE_POISON,
				UFFDIO_REGISTER_MODE_MISSING, TS_UFFD_NR_POISON, true);
	struct uffdio_poison poison = {
		.range = { trial.addr + TS_PAGE_BYTES, TS_PAGE_BYTES },
	};

	works = works &&
		ts_sys_ioctl(TS_SITE_IOCTL_POISON, trial.fd, UFFDIO_POISON, &poison) == 0 &&
		poison.updated == TS_PAGE_BYTES;
	trial_finish(&trial);
	return works;
}

/* How many pages of the trial are in `category`, or -errno. */
static int scan_pages(uint64_t addr, uint64_t category)
{
	struct page_region run;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = addr,
		.end = addr + TRIAL_BYTES,
		.vec = (uintptr_t)&run,
		.vec_len = 1,
		.category_mask = category,
		.return_mask = category,
	};
	int fd, nr_runs;

	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	nr_runs = TS_INJECT(TS_SITE_IOCTL_SCAN) ? -1 : ioctl(fd, PAGEMAP_SCAN, &arg);
	if (nr_runs < 0)
		nr_runs = -errno;
	close_fd(fd);
	return nr_runs > 0 ? (int)((run.end - run.start) / TS_PAGE_BYTES) : nr_runs;
}

static bool try_pagemap_scan(void)
{
	char *pages = ts_sys_alloc_pages(TRIAL_BYTES);
	bool works;

	if (!pages)
		return false;
	pages[0] = 1;
	works = scan_pages((uintptr_t)pages, PAGE_IS_PRESENT) == 1;
	ts_sys_free_pages(pages, TRIAL_BYTES);
	return works;
}

/* The populated page counts as accessed until it is protected, and not afterwards.  A kernel with
 * the early patches refuses the registration; one before 7.3 the category. */
static bool try_rwp(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_ANON, UFFD_FEATURE_RWP,
				UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_RWP,
				TS_UFFD_NR_RWPROTECT, false);
	struct uffdio_rwprotect protect = {
		.range = { trial.addr, TRIAL_BYTES },
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	works = works && scan_pages(trial.addr, PAGE_IS_ACCESSED) == 1 &&
		ts_sys_ioctl(TS_SITE_IOCTL_WP, trial.fd, UFFDIO_RWPROTECT, &protect) == 0 &&
		scan_pages(trial.addr, PAGE_IS_ACCESSED) == 0;
	trial_finish(&trial);
	return works;
}

/* The same for a memfd, and with what an eviction needs beside it: minor faults and both modes. */
static bool try_rwp_shmem(void)
{
	struct trial trial;
	bool works = trial_init(&trial, TRIAL_MEMFD,
				UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC |
				UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
				UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
				UFFDIO_REGISTER_MODE_RWP, TS_UFFD_NR_RWPROTECT, false);
	struct uffdio_rwprotect protect = {
		.range = { trial.addr, TRIAL_BYTES },
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	works = works && scan_pages(trial.addr, PAGE_IS_ACCESSED) == 1 &&
		ts_sys_ioctl(TS_SITE_IOCTL_WP, trial.fd, UFFDIO_RWPROTECT, &protect) == 0 &&
		scan_pages(trial.addr, PAGE_IS_ACCESSED) == 0 &&
		ts_uffd_set_sync(trial.fd, true) == 0 && ts_uffd_set_sync(trial.fd, false) == 0;
	trial_finish(&trial);
	return works;
}

/* What went wrong with hugetlb pages under RWP was repaired in 7.3.4: markers left behind by a
 * punch, and write faults without end. */
static bool is_rwp_hugetlb_sound(const char *release)
{
	unsigned major = 0, minor = 0, patch = 0;

	(void)sscanf(release, "%u.%u.%u", &major, &minor, &patch);
	return major > 7 || (major == 7 && (minor > 3 || (minor == 3 && patch >= 4)));
}

/* Address space, not memory: there need not be a huge page to try, so only what the kernel says of
 * the registration is asked. */
static bool try_rwp_hugetlb(void)
{
	enum { HUGE_BYTES = 2 << 20 };
	struct uffdio_register reg = {
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
			UFFDIO_REGISTER_MODE_RWP,
	};
	const uint64_t needed = 1ull << TS_UFFD_NR_COPY | 1ull << TS_UFFD_NR_CONTINUE |
				1ull << TS_UFFD_NR_POISON | 1ull << TS_UFFD_NR_RWPROTECT;
	void *addr = MAP_FAILED;
	int fd = memfd_create("tierstore-probe", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	int uffd = open_with(UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC |
			     UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS);

	if (fd >= 0 && ftruncate(fd, HUGE_BYTES) == 0)
		addr = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			    fd, 0);
	reg.range.start = (uintptr_t)addr;
	reg.range.len = HUGE_BYTES;
	bool works = uffd >= 0 && addr != MAP_FAILED &&
		     ts_sys_ioctl(TS_SITE_IOCTL_REGISTER, uffd, UFFDIO_REGISTER, &reg) == 0 &&
		     (reg.ioctls & needed) == needed;
	close_fd(uffd);
	close_fd(fd);
	if (addr != MAP_FAILED)
		(void)munmap(addr, HUGE_BYTES);
	return works;
}

/* ---- Outside userfaultfd ---------------------------------------------------------------- */

static int try_io_uring(void)
{
	struct io_uring ring;
	int error = TS_INJECT(TS_SITE_URING_SUBMIT) ? -errno : io_uring_queue_init(2, &ring, 0);

	if (error == 0)
		io_uring_queue_exit(&ring);
	return error;
}

/* Whether the choice in brackets in a file such as "always [madvise] never" allows huge pages. */
static bool is_thp_file_on(const char *path)
{
	char text[128] = "";
	FILE *file = fopen(path, "re");
	bool is_read;

	if (!file)
		return false;
	is_read = fgets(text, sizeof(text), file) != NULL;
	(void)fclose(file);
	return is_read && !strstr(text, "[never]") && !strstr(text, "[deny]");
}

/* Sizes below 2 MiB have switches of their own (since 6.8); "inherit" is the common one. */
static bool is_thp_on(const char *name)
{
	static const char base[] = "/sys/kernel/mm/transparent_hugepage";
	char path[160];

	if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1)
		return false;
	(void)snprintf(path, sizeof(path), "%s/%s", base, name);
	if (is_thp_file_on(path))
		return true;
	for (unsigned kib = 8; kib <= 2048; kib *= 2) {
		char text[64] = "";
		FILE *file;

		(void)snprintf(path, sizeof(path), "%s/hugepages-%ukB/%s", base, kib, name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (!fgets(text, sizeof(text), file))
			text[0] = '\0';
		(void)fclose(file);
		if (strstr(text, "[always]") || strstr(text, "[madvise]") ||
		    strstr(text, "[advise]") || strstr(text, "[within_size]"))
			return true;
	}
	return false;
}

/* ---- All together ----------------------------------------------------------------------- */

static void probe_uffd(struct ts_probe *probe)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = open_uffd(&probe->uffd_dev);

	probe->uffd_error = fd < 0 ? fd : ts_sys_ioctl(TS_SITE_IOCTL_API, fd, UFFDIO_API, &api);
	close_fd(fd);
	if (probe->uffd_error)
		return;
	probe->uffd_features = api.features;
	probe->has_missing_shmem = try_missing_shmem();
	probe->has_minor_shmem = try_minor_shmem();
	probe->has_wp = try_wp(TRIAL_ANON, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	probe->has_wp_shmem = try_wp(TRIAL_MEMFD, UFFD_FEATURE_PAGEFAULT_FLAG_WP |
							  UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	probe->has_wp_async = try_wp(TRIAL_ANON, UFFD_FEATURE_WP_ASYNC);
	probe->has_wp_unpopulated = try_wp(TRIAL_ANON, UFFD_FEATURE_WP_UNPOPULATED);
	probe->has_move = try_move();
	probe->has_poison = try_poison();
	probe->has_sigbus = accepts(UFFD_FEATURE_SIGBUS);
	probe->has_thread_id = accepts(UFFD_FEATURE_THREAD_ID);
	probe->has_event_remove = accepts(UFFD_FEATURE_EVENT_REMOVE);
	probe->has_event_unmap = accepts(UFFD_FEATURE_EVENT_UNMAP);
	probe->has_event_remap = accepts(UFFD_FEATURE_EVENT_REMAP);
	probe->has_rwp = (api.features & UFFD_FEATURE_RWP) && try_rwp();
	probe->has_rwp_shmem = probe->has_rwp && try_rwp_shmem();
}

int ts_probe(struct ts_probe *probe_out)
{
	struct ts_probe probe = { 0 };
	struct utsname name;
	int rc = ts_sized_check(probe_out->size, "ts_probe");

	if (rc)
		return rc;
	probe_uffd(&probe);
	probe.has_pagemap_scan = try_pagemap_scan();
	probe.io_uring_error = try_io_uring();
	probe.has_io_uring = probe.io_uring_error == 0;
	probe.has_thp_anon = is_thp_on("enabled");
	probe.has_thp_shmem = is_thp_on("shmem_enabled");
	if (uname(&name) == 0)
		(void)snprintf(probe.kernel_release, sizeof(probe.kernel_release), "%s",
			       name.release);
	probe.has_rwp_hugetlb = probe.has_rwp_shmem && is_rwp_hugetlb_sound(probe.kernel_release) &&
				try_rwp_hugetlb();
	ts_sized_out(probe_out, &probe, sizeof(probe));
	return 0;
}
