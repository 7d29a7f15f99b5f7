/* SPDX-License-Identifier: Apache-2.0
 *
 * vmm.h — a second process with guest memory of its own, for tests of regions of another process.
 *
 * vmm_start() forks before this process has an engine or threads.  The child maps and fills memory
 * (guest.h), makes and registers a userfaultfd, hands both over a socket pair, and then does what
 * it is told, one byte a command: touch and check at random on threads of its own, compare
 * everything, give pages up, add memory.  All that it checks, it checks through its own addresses.
 * A failed check ends the child, and with it the test.
 */
#ifndef TS_TESTS_VMM_H
#define TS_TESTS_VMM_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "os/uapi.h"

#include "../guest.h"

enum vmm_kind {
	VMM_ANON,    /* private anonymous memory, one range */
	VMM_SHARED,  /* two memfds, three ranges, in an order and at offsets of no beauty */
};

struct vmm_plan {
	enum vmm_kind kind;
	uint64_t nr_pages;        /* of the memory; registered and filled */
	uint64_t nr_extra_pages;  /* after these; mapped and registered, but not told, see 'g' */
	bool is_empty;            /* not filled */
	bool is_image;            /* not filled either, but expected to read as if it were */
	uint64_t features;        /* beside what the kind needs */
	uint64_t uffd_modes;      /* UFFDIO_REGISTER_MODE_* */
	int flags;                /* of the userfaultfd */
};

enum { VMM_RANGES = 3, VMM_WORKERS = 2 };

/* What the parent is told in the first message. */
struct vmm_hello {
	struct ts_remote_range ranges[VMM_RANGES + 1]; /* backing_fd: 0 or 1 of the memfds, or -1 */
	unsigned nr_ranges;                            /* the extra one comes after these */
};

struct vmm {
	pid_t pid;
	int sock, uffd, memfds[2];
	struct vmm_hello hello;
	struct ts_region *region;
	/* The child's side. */
	struct guest guest;
	pthread_t threads[VMM_WORKERS];
};

/* ---- The child -------------------------------------------------------------------------- */

static inline unsigned char *vmm_map(void *addr, uint64_t nr_pages, int fd, uint64_t offset)
{
	int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | (addr ? MAP_FIXED : 0);
	void *at = mmap(addr, nr_pages * GUEST_PAGE, PROT_READ | PROT_WRITE, flags, fd,
			(off_t)offset);

	CHECK(at != MAP_FAILED);
	return at;
}

static inline int vmm_memfd(uint64_t nr_pages)
{
	int fd = memfd_create("vmm", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(ftruncate(fd, (off_t)(nr_pages * GUEST_PAGE)), 0);
	return fd;
}

static inline void vmm_add_range(struct vmm *vmm, uint64_t page, uint64_t nr_pages, int backing,
				 uint64_t offset_pages)
{
	struct vmm_hello *hello = &vmm->hello;

	hello->ranges[hello->nr_ranges++] = (struct ts_remote_range){
		.size = sizeof(struct ts_remote_range),
		.addr = (uintptr_t)vmm->guest.mem + page * GUEST_PAGE,
		.len_bytes = nr_pages * GUEST_PAGE,
		.backing_offset = offset_pages * GUEST_PAGE,
		.backing_fd = backing,
	};
	if (backing >= 0)
		vmm_map(vmm->guest.mem + page * GUEST_PAGE, nr_pages, vmm->memfds[backing],
			offset_pages * GUEST_PAGE);
}

static inline void vmm_make_memory(struct vmm *vmm, const struct vmm_plan *plan)
{
	struct guest *guest = &vmm->guest;
	uint64_t nr = plan->nr_pages, third = nr / 3, nr_all = nr + plan->nr_extra_pages;

	guest->nr_pages = nr;
	guest->memfd = -1;
	guest->mem = vmm_map(NULL, nr_all, -1, 0);
	guest->versions = calloc(nr_all, sizeof(*guest->versions));
	CHECK(guest->versions != NULL);
	if (plan->kind == VMM_ANON) {
		vmm_add_range(vmm, 0, nr, -1, 0);
	} else {
		vmm->memfds[0] = vmm_memfd(nr + 7);
		vmm->memfds[1] = vmm_memfd(nr_all + 5);
		vmm_add_range(vmm, third, nr - 2 * third + 1, 1, 3);
		vmm_add_range(vmm, nr - third + 1, third - 1, 0, 7);
		vmm_add_range(vmm, 0, third, 0, 7 + third);
	}
	if (plan->nr_extra_pages) {
		vmm_add_range(vmm, nr, plan->nr_extra_pages, plan->kind == VMM_ANON ? -1 : 1,
			      nr + 5);
		vmm->hello.nr_ranges--;
	}
	for (uint64_t page = 0; page < nr && !plan->is_empty && !plan->is_image; page++)
		guest_fill(guest, page, 0);
	for (uint64_t page = 0; page < nr_all && plan->is_empty; page++)
		atomic_store(&guest->versions[page], GUEST_ZEROED);
	for (uint64_t page = nr; page < nr_all; page++)
		atomic_store(&guest->versions[page], GUEST_ZEROED);
}

static inline void vmm_register(struct vmm *vmm, const struct vmm_plan *plan)
{
	uint64_t nr_all = plan->nr_pages + plan->nr_extra_pages;
	struct uffdio_api api = { .api = UFFD_API, .features = plan->features };
	struct uffdio_register reg = {
		.range = { (uintptr_t)vmm->guest.mem, nr_all * GUEST_PAGE },
		.mode = plan->uffd_modes,
	};

	vmm->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | plan->flags);
	CHECK(vmm->uffd >= 0);
	CHECK_EQ(ioctl(vmm->uffd, UFFDIO_API, &api), 0);
	CHECK_EQ(ioctl(vmm->uffd, UFFDIO_REGISTER, &reg), 0);
}

static inline void vmm_send(struct vmm *vmm)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	int fds[3] = { vmm->uffd, vmm->memfds[0], vmm->memfds[1] };
	size_t nr_fds = vmm->memfds[0] < 0 ? 1 : 3;
	struct iovec data = { &vmm->hello, sizeof(vmm->hello) };
	struct msghdr msg = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = CMSG_SPACE(nr_fds * sizeof(int)) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

	*head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(nr_fds * sizeof(int)),
				  .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(head), fds, nr_fds * sizeof(int));
	CHECK_EQ(sendmsg(vmm->sock, &msg, 0), sizeof(vmm->hello));
}

/* Returns what the parent gets. */
static inline uint64_t vmm_do(struct vmm *vmm, char command, const struct vmm_plan *plan)
{
	struct guest *guest = &vmm->guest;
	struct uffdio_range all = { (uintptr_t)guest->mem,
				    (plan->nr_pages + plan->nr_extra_pages) * GUEST_PAGE };

	switch (command) {
	case 'w': /* work on threads */
		atomic_store(&guest->is_stopping, false);
		for (unsigned i = 0; i < VMM_WORKERS; i++)
			CHECK_EQ(pthread_create(&vmm->threads[i], NULL, guest_worker, guest), 0);
		return 0;
	case 's': /* stop working: how many touches were wrong? */
		for (unsigned i = 0; i < 20000 && !atomic_load(&guest->nr_touched); i++)
			usleep(1000);
		atomic_store(&guest->is_stopping, true);
		for (unsigned i = 0; i < VMM_WORKERS; i++)
			pthread_join(vmm->threads[i], NULL);
		CHECK(atomic_load(&guest->nr_touched) > 0);
		return atomic_load(&guest->nr_wrong);
	case 'c': /* compare everything */
		guest_check_all(guest);
		return 0;
	case 'f': /* write a new version of the first half */
		for (uint64_t page = 0; page < guest->nr_pages / 2; page++) {
			guest_fill(guest, page, 1);
			atomic_store(&guest->versions[page], 1);
		}
		return 0;
	case 'z': /* give the first half up */
		CHECK_EQ(madvise(guest->mem, guest->nr_pages / 2 * GUEST_PAGE, MADV_DONTNEED), 0);
		for (uint64_t page = 0; page < guest->nr_pages / 2; page++)
			atomic_store(&guest->versions[page], GUEST_ZEROED);
		return 0;
	case 'g': /* from now on the extra pages are in use, too */
		guest->nr_pages = plan->nr_pages + plan->nr_extra_pages;
		return 0;
	case 'k': /* fork a child that is gone at once */
	{
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		CHECK_EQ(waitpid(pid, NULL, 0), pid);
		return 0;
	}
	case 'b': /* make the userfaultfd blocking */
		CHECK_EQ(fcntl(vmm->uffd, F_SETFL, 0), 0);
		return 0;
	case 'u': /* unregister */
		CHECK_EQ(ioctl(vmm->uffd, UFFDIO_UNREGISTER, &all), 0);
		return 0;
	default:
		CHECK(!"a known command");
	}
	return 0;
}

static inline _Noreturn void vmm_child(struct vmm *vmm, const struct vmm_plan *plan)
{
	char command;

	CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
	vmm_make_memory(vmm, plan);
	vmm_register(vmm, plan);
	vmm_send(vmm);
	while (read(vmm->sock, &command, 1) == 1) {
		uint64_t answer = vmm_do(vmm, command, plan);
		CHECK_EQ(write(vmm->sock, &answer, sizeof(answer)), sizeof(answer));
	}
	_exit(0);
}

/* ---- The parent ------------------------------------------------------------------------- */

static inline void vmm_receive(struct vmm *vmm, enum vmm_kind kind)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	struct iovec data = { &vmm->hello, sizeof(vmm->hello) };
	struct msghdr msg = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	int fds[3] = { -1, -1, -1 };
	size_t nr_fds = kind == VMM_ANON ? 1 : 3;

	CHECK_EQ(recvmsg(vmm->sock, &msg, MSG_CMSG_CLOEXEC), sizeof(vmm->hello));
	struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
	CHECK(head != NULL);
	CHECK_EQ(head->cmsg_len, CMSG_LEN(nr_fds * sizeof(int)));
	memcpy(fds, CMSG_DATA(head), nr_fds * sizeof(int));
	vmm->uffd = fds[0];
	vmm->memfds[0] = fds[1];
	vmm->memfds[1] = fds[2];
	for (unsigned i = 0; i < VMM_RANGES + 1; i++)
		if (vmm->hello.ranges[i].size && vmm->hello.ranges[i].backing_fd >= 0)
			vmm->hello.ranges[i].backing_fd =
				vmm->memfds[vmm->hello.ranges[i].backing_fd];
}

static inline void vmm_start(struct vmm *vmm, const struct vmm_plan *plan)
{
	int pair[2];

	*vmm = (struct vmm){ .uffd = -1, .memfds = { -1, -1 } };
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	vmm->pid = fork();
	CHECK(vmm->pid >= 0);
	vmm->sock = pair[vmm->pid == 0];
	close(pair[vmm->pid != 0]);
	if (vmm->pid == 0)
		vmm_child(vmm, plan);
	vmm_receive(vmm, plan->kind);
}

static inline void vmm_tell(struct vmm *vmm, char command)
{
	CHECK_EQ(write(vmm->sock, &command, 1), 1);
}

static inline uint64_t vmm_answer(struct vmm *vmm)
{
	uint64_t answer;

	CHECK_EQ(read(vmm->sock, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static inline uint64_t vmm_ask(struct vmm *vmm, char command)
{
	vmm_tell(vmm, command);
	return vmm_answer(vmm);
}

static inline struct ts_adopt_options vmm_options(struct vmm *vmm, uint32_t modes)
{
	return (struct ts_adopt_options){
		.size = sizeof(struct ts_adopt_options), .uffd = vmm->uffd, .pagemap_fd = -1,
		.modes = modes, .nr_ranges = vmm->hello.nr_ranges, .ranges = vmm->hello.ranges,
	};
}

static inline void vmm_adopt(struct vmm *vmm, struct ts_engine *engine,
			     struct ts_adopt_options options)
{
	int rc = ts_region_adopt(engine, &options, &vmm->region);

	if (rc)
		fprintf(stderr, "adopt: %s: %s\n", ts_strerror(rc), ts_last_error());
	CHECK_EQ(rc, 0);
}

/* Pages that the memfds hold. */
static inline uint64_t vmm_cached_pages(struct vmm *vmm)
{
	uint64_t nr = 0;
	struct stat st;

	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(fstat(vmm->memfds[i], &st), 0);
		nr += (uint64_t)st.st_blocks / (GUEST_PAGE / 512);
	}
	return nr;
}

static inline void vmm_kill(struct vmm *vmm)
{
	CHECK_EQ(kill(vmm->pid, SIGKILL), 0);
	CHECK_EQ(waitpid(vmm->pid, NULL, 0), vmm->pid);
	vmm->pid = -1;
}

static inline void vmm_end(struct vmm *vmm)
{
	int status = 0;

	close(vmm->sock);
	if (vmm->pid > 0) {
		CHECK_EQ(waitpid(vmm->pid, &status, 0), vmm->pid);
		CHECK_EQ(status, 0);
	}
	close(vmm->uffd);
	for (unsigned i = 0; i < 2; i++)
		if (vmm->memfds[i] >= 0)
			close(vmm->memfds[i]);
}

/* An engine with a ladder for so many pages. */
static inline void vmm_open_engine(struct guest *host, uint64_t nr_pages)
{
	host->nr_pages = nr_pages;
	guest_open(host);
	guest_add_ladder(host);
	CHECK_EQ(ts_engine_start(host->engine), 0);
}

static inline void vmm_close_engine(struct guest *host)
{
	char command[160];

	ts_engine_close(host->engine);
	snprintf(command, sizeof(command), "%s", host->folder);
	char *argv[] = { "rm", "-rf", command, NULL };
	pid_t pid = fork();
	if (pid == 0) {
		execvp("rm", argv);
		_exit(127);
	}
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

static inline struct ts_stats *vmm_stats(struct guest *host, struct vmm *vmm)
{
	host->region = vmm ? vmm->region : NULL;
	return guest_stats(host);
}

static inline struct ts_evict_result vmm_evict(struct guest *host, struct vmm *vmm, uint32_t age)
{
	host->region = vmm->region;
	return guest_evict(host, UINT64_MAX, age, true);
}

/* The page table of another process, which the tracker looks into. */
static inline int vmm_open_pagemap(const struct vmm *vmm)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)vmm->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

#endif
