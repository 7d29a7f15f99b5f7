/* SPDX-License-Identifier: Apache-2.0
 * uffd.c — userfaultfd's ioctls (uffd.h). */
#include "os/uffd.h"

#include <string.h>
#include <sys/syscall.h>

#include "os/sys.h"
#include "util/base.h"

static int open_raw(void)
{
	if (TS_INJECT(TS_SITE_OPEN))
		return -errno;
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		int fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		int error = errno;
		close(dev);
		if (fd >= 0)
			return fd;
		errno = error;
	}
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? fd : -errno;
}

int ts_uffd_open(uint64_t features)
{
	int fd = open_raw();
	if (fd == -EPERM || fd == -EACCES)
		return ts_fail(TS_EPERMISSION, "userfaultfd: not permitted; run with "
					       "CAP_SYS_PTRACE, "
					       "give access to /dev/userfaultfd, or set "
					       "vm.unprivileged_userfaultfd=1");
	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
		return ts_fail(fd, "userfaultfd: %s", strerror(-fd));
	if (fd < 0)
		return ts_fail(TS_EUNSUPPORTED,
			       "userfaultfd: %s; the kernel needs CONFIG_USERFAULTFD",
			       strerror(-fd));
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int error = ts_sys_ioctl(TS_SITE_IOCTL_API, fd, UFFDIO_API, &api);
	if (error) {
		close(fd);
		return ts_fail(TS_EUNSUPPORTED,
			       "UFFDIO_API: features 0x%llx: %s; `tierstore probe` "
			       "names what this kernel lacks",
			       (unsigned long long)features, strerror(-error));
	}
	return fd;
}

int ts_uffd_register(int uffd, uint64_t addr, uint64_t len_bytes, uint64_t modes)
{
	struct uffdio_register reg = { .range = { addr, len_bytes }, .mode = modes };
	return ts_sys_ioctl(TS_SITE_IOCTL_REGISTER, uffd, UFFDIO_REGISTER, &reg);
}

int ts_uffd_unregister(int uffd, uint64_t addr, uint64_t len_bytes)
{
	struct uffdio_range range = { addr, len_bytes };
	return ts_sys_ioctl(TS_SITE_IOCTL_REGISTER, uffd, UFFDIO_UNREGISTER, &range);
}

static enum ts_uffd_outcome outcome_of(int error)
{
	switch (error) {
	case 0: return TS_UFFD_DONE;
	case -EAGAIN: return TS_UFFD_RETRY;
	case -EEXIST: return TS_UFFD_PRESENT;
	case -EBUSY: return TS_UFFD_BUSY;
	case -ENOENT:
	case -ESRCH: return TS_UFFD_GONE;
	default: return TS_UFFD_FAILED;
	}
}

/* `rc` is what ioctl said (0 or -errno), `field` the signed answer in the struct: bytes done, or
 * -errno when nothing was done; 0 when the kernel did not get so far as to write it.  A short
 * answer comes with EAGAIN whatever stopped it; the caller's next call learns the reason. */
static struct ts_uffd_result classify(int rc, int64_t field, uint64_t len_bytes)
{
	struct ts_uffd_result result = { .error = rc };

	if (field > 0)
		result.done_bytes = (uint64_t)field;
	if (rc == 0 && result.done_bytes < len_bytes)
		rc = -EAGAIN;
	else if (rc != 0 && field < 0)
		rc = (int)field;
	result.outcome = outcome_of(rc);
	result.error = rc;
	return result;
}

/* COPY looks for events before it looks at what it is asked to do, which here is nothing
 * (EINVAL). */
bool ts_uffd_is_changing(int uffd)
{
	struct uffdio_copy nothing = { 0 };
	return ts_sys_ioctl(TS_SITE_IOCTL_COPY, uffd, UFFDIO_COPY, &nothing) == -EAGAIN;
}

/* Since 6.10 the kernel looks for events, then for the mapping, without anything that keeps an
 * mremap() from coming between the two: what has just been moved is not there, and not gone.  Its
 * event is queued then, and waits for us. */
static struct ts_uffd_result classify_mapping(int uffd, int rc, int64_t field, uint64_t len_bytes)
{
	struct ts_uffd_result result = classify(rc, field, len_bytes);

	if (TS_UNLIKELY(result.error == -ENOENT) && ts_uffd_is_changing(uffd))
		result = (struct ts_uffd_result){ TS_UFFD_RETRY, result.done_bytes, -EAGAIN };
	return result;
}

struct ts_uffd_result ts_uffd_copy(int uffd, uint64_t dst, const void *src, uint64_t len_bytes)
{
	struct uffdio_copy copy = { .dst = dst, .src = (uintptr_t)src, .len = len_bytes };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_COPY, uffd, UFFDIO_COPY, &copy);
	return classify_mapping(uffd, rc, copy.copy, len_bytes);
}

static const _Alignas(4096) uint8_t zeros[4096];

/* To ZEROPAGE a write-protection marker in a hole is a page (EEXIST); COPY knows the difference. */
struct ts_uffd_result ts_uffd_zeropage(int uffd, uint64_t dst)
{
	struct uffdio_zeropage zero = { .range = { dst, sizeof(zeros) } };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_ZEROPAGE, uffd, UFFDIO_ZEROPAGE, &zero);
	struct ts_uffd_result result = classify_mapping(uffd, rc, zero.zeropage, sizeof(zeros));

	return result.outcome == TS_UFFD_PRESENT ? ts_uffd_copy(uffd, dst, zeros, sizeof(zeros)) :
	       result;
}

static struct ts_uffd_result poison_once(int uffd, uint64_t dst, uint64_t len_bytes)
{
	struct uffdio_poison poison = { .range = { dst, len_bytes } };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_POISON, uffd, UFFDIO_POISON, &poison);

	return classify_mapping(uffd, rc, poison.updated, len_bytes);
}

/* As with ZEROPAGE, but here the marker has to go first. */
struct ts_uffd_result ts_uffd_poison(int uffd, uint64_t dst, uint64_t len_bytes)
{
	struct ts_uffd_result result = poison_once(uffd, dst, len_bytes);

	if (result.outcome == TS_UFFD_PRESENT && !ts_uffd_protect(uffd, dst, len_bytes, false))
		result = poison_once(uffd, dst, len_bytes);
	return result;
}

struct ts_uffd_result ts_uffd_move(int uffd, uint64_t dst, uint64_t src, uint64_t len_bytes)
{
	struct uffdio_move move = { .dst = dst, .src = src, .len = len_bytes };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_MOVE, uffd, UFFDIO_MOVE, &move);
	struct ts_uffd_result result = classify_mapping(uffd, rc, move.move, len_bytes);

	/* For MOVE the kernel also says ENOENT of a hole in the source. */
	if (result.error == -ENOENT)
		result.outcome = TS_UFFD_ABSENT;
	return result;
}

int ts_uffd_protect(int uffd, uint64_t addr, uint64_t len_bytes, bool on)
{
	struct uffdio_writeprotect wp = { .range = { addr, len_bytes },
					  .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };
	return ts_sys_ioctl(TS_SITE_IOCTL_WP, uffd, UFFDIO_WRITEPROTECT, &wp);
}

int ts_uffd_rwprotect(int uffd, uint64_t addr, uint64_t len_bytes, bool on)
{
	struct uffdio_rwprotect rwp = { .range = { addr, len_bytes },
					.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0 };
	return ts_sys_ioctl(TS_SITE_IOCTL_WP, uffd, UFFDIO_RWPROTECT, &rwp);
}

struct ts_uffd_result ts_uffd_continue(int uffd, uint64_t dst, uint64_t len_bytes)
{
	struct uffdio_continue cont = { .range = { dst, len_bytes } };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_CONTINUE, uffd, UFFDIO_CONTINUE, &cont);
	struct ts_uffd_result result = classify_mapping(uffd, rc, cont.mapped, len_bytes);

	/* For CONTINUE the kernel says EFAULT of a page that the page cache lacks. */
	if (result.error == -EFAULT)
		result.outcome = TS_UFFD_ABSENT;
	return result;
}

int ts_uffd_set_sync(int uffd, bool is_sync)
{
	struct uffdio_set_mode mode = { .enable = is_sync ? 0 : UFFD_FEATURE_RWP_ASYNC,
					.disable = is_sync ? UFFD_FEATURE_RWP_ASYNC : 0 };
	return ts_sys_ioctl(TS_SITE_IOCTL_MODE, uffd, UFFDIO_SET_MODE, &mode);
}

int ts_uffd_wake(int uffd, uint64_t addr, uint64_t len_bytes)
{
	struct uffdio_range range = { addr, len_bytes };
	int rc = ts_sys_ioctl(TS_SITE_IOCTL_WAKE, uffd, UFFDIO_WAKE, &range);

	/* The kernel has no reason to refuse; an injected failure must not leave anybody asleep. */
	return rc ? ts_sys_ioctl(TS_SITE_IOCTL_WAKE, uffd, UFFDIO_WAKE, &range) : 0;
}
