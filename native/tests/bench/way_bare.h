/* SPDX-License-Identifier: Apache-2.0
 *
 * way_bare.h — the limit: the same codec calls, the same ioctls, the same reads, and nothing of
 * ours around them.  Leaving: threads that compress range after range.  Coming back (ranges of a
 * page only): a handler or several that poll, read the message, read the frame from memory or by
 * one O_DIRECT pread, decompress and call UFFDIO_COPY; on CPUs and with polling as told.  Or, with
 * serve=in-thread, a SIGBUS handler that does the same without poll and message.  codec=none:
 * memory of one page over and over, which needs no decompressing; what is left is the signal or
 * the message, the ioctl and the way back. */
#ifndef TS_TESTS_WAY_BARE_H
#define TS_TESTS_WAY_BARE_H

#include <lz4.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <zstd.h>

#include "os/uapi.h"
#include "way.h"

enum { BARE_THREADS_MAX = 16, BARE_RANGE_MAX = 256 << 10, BARE_CHUNK = 512 << 10 };

struct bare_frame {
	uint32_t thread, len;          /* len == range: stored as it is */
	uint64_t at;
};

static struct {
	struct memory *memory;
	uint64_t range_bytes, nr_ranges;
	bool is_zstd, is_none, is_in_thread;
	int level;                     /* zstd's */
	unsigned nr_threads;
	struct bare_frame *frames;
	unsigned char *out[BARE_THREADS_MAX];  /* each thread's frames, one after the other */
	_Atomic uint64_t next, stored_bytes;
	int fd, uffd, stop[2];
	const char *path;
	uint64_t cpus;                 /* of the handlers, in turn; 0: any */
	uint64_t spin_us;
	bool is_epoll;
	unsigned nr_handlers;
	pthread_t handlers[BARE_THREADS_MAX];
	_Alignas(MEASURE_PAGE) unsigned char first[MEASURE_PAGE];  /* the first page */
} bare;

/* ---- Leaving ------------------------------------------------------------------------------ */

static uint32_t bare_encode(ZSTD_CCtx *zstd, const unsigned char *from, unsigned char *to)
{
	size_t len, cap = 2 * BARE_RANGE_MAX;

	if (bare.is_zstd)
		len = ZSTD_compress2(zstd, to, cap, from, bare.range_bytes);
	else
		len = (size_t)LZ4_compress_fast((const char *)from, (char *)to,
						(int)bare.range_bytes, (int)cap, 1);
	if (len < bare.range_bytes)
		return (uint32_t)len;
	memcpy(to, from, bare.range_bytes);
	return (uint32_t)bare.range_bytes;
}

static void *bare_encode_run(void *arg)
{
	unsigned thread = (unsigned)(uintptr_t)arg;
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint64_t at = 0, i;

	CHECK(zstd != NULL);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, bare.level);
	while ((i = atomic_fetch_add(&bare.next, 1)) < bare.nr_ranges) {
		const unsigned char *from = bare.memory->mem + i * bare.range_bytes;
		uint32_t len = bare_encode(zstd, from, bare.out[thread] + at);

		bare.frames[i] = (struct bare_frame){ thread, len, at };
		at += len;
	}
	atomic_fetch_add(&bare.stored_bytes, at);
	ZSTD_freeCCtx(zstd);
	return NULL;
}

static void bare_open(const struct measure_args *args, struct memory *memory)
{
	size_t out_bytes = memory_bytes(memory) + 2 * BARE_RANGE_MAX;

	bare.memory = memory;
	bare.range_bytes = arg_number(args, "range", MEASURE_PAGE);
	bare.nr_ranges = memory_bytes(memory) / bare.range_bytes;
	bare.is_zstd = arg_is(args, "codec", "zstd");
	bare.is_none = arg_is(args, "codec", "none");
	bare.is_in_thread = arg_is(args, "serve", "in-thread");
	bare.level = (int)arg_number(args, "level", 3); /* as ours by default */
	bare.nr_threads = (unsigned)arg_number(args, "evict_threads",
					       (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
	bare.cpus = arg_number(args, "fault_cpus", 0);
	bare.nr_handlers = (unsigned)arg_number(args, "fault_threads", 1);
	bare.is_epoll = arg_is(args, "wait", "epoll");
	bare.spin_us = arg_number(args, "spin_us", 0);
	bare.path = arg_is(args, "store", "file") ? arg_text(args, "path", NULL) : NULL;
	bare.frames = calloc(bare.nr_ranges, sizeof(*bare.frames));
	CHECK(bare.frames != NULL && bare.nr_threads <= BARE_THREADS_MAX &&
	      bare.nr_handlers <= BARE_THREADS_MAX);
	for (uint64_t i = 1; bare.is_none && i < memory->nr_pages; i++)
		memcpy(memory->mem + i * MEASURE_PAGE, memory->mem, MEASURE_PAGE);
	for (unsigned i = 0; i < bare.nr_threads; i++) {
		bare.out[i] = mmap(NULL, out_bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(bare.out[i] != MAP_FAILED);
	}
}

static void bare_run_threads(void *(*run)(void *))
{
	pthread_t threads[BARE_THREADS_MAX];

	for (unsigned i = 0; i < bare.nr_threads; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < bare.nr_threads; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

static void bare_leave(void)
{
	bare_run_threads(bare_encode_run);
}

/* ---- Coming back -------------------------------------------------------------------------- */

static void bare_decode(uint64_t page, unsigned char *block, unsigned char *raw)
{
	const struct bare_frame *frame = &bare.frames[page];
	const unsigned char *from = bare.path ? block : bare.out[frame->thread] + frame->at;

	if (bare.path)
		CHECK_EQ(pread(bare.fd, block, MEASURE_PAGE, (off_t)(page * MEASURE_PAGE)),
			 MEASURE_PAGE);
	if (frame->len == MEASURE_PAGE)
		memcpy(raw, from, MEASURE_PAGE);
	else if (bare.is_zstd)
		CHECK_EQ(ZSTD_decompress(raw, MEASURE_PAGE, from, frame->len), MEASURE_PAGE);
	else
		CHECK_EQ(LZ4_decompress_safe((const char *)from, (char *)raw, (int)frame->len,
					     MEASURE_PAGE), MEASURE_PAGE);
}

static void bare_serve(uint64_t addr, unsigned char *block, unsigned char *raw)
{
	addr &= ~(uint64_t)(MEASURE_PAGE - 1);
	if (!bare.is_none)
		bare_decode((addr - (uintptr_t)bare.memory->mem) / MEASURE_PAGE, block, raw);
	struct uffdio_copy copy = { .dst = addr, .src = (uintptr_t)raw, .len = MEASURE_PAGE };
	CHECK_EQ(ioctl(bare.uffd, UFFDIO_COPY, &copy), 0);
}

/* The index-th of the handlers' CPUs, from the first again after the last; -1: any. */
static int bare_cpu(unsigned index)
{
	int cpu = -1;

	for (unsigned i = 0; bare.cpus && i <= index;)
		if (cpu = (cpu + 1) % 64, bare.cpus >> cpu & 1)
			i++;
	return cpu;
}

/* An epoll instance of this handler's own: a message wakes one of those that wait. */
static int bare_epoll(void)
{
	struct epoll_event message = { .events = EPOLLIN | EPOLLEXCLUSIVE };
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = 1 };
	int fd = epoll_create1(EPOLL_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(epoll_ctl(fd, EPOLL_CTL_ADD, bare.uffd, &message), 0);
	CHECK_EQ(epoll_ctl(fd, EPOLL_CTL_ADD, bare.stop[0], &stop), 0);
	return fd;
}

/* Waits, after looking for spin_us; returns whether there may be a message. */
static bool bare_wait(int epoll)
{
	struct pollfd fds[2] = { { bare.uffd, POLLIN, 0 }, { bare.stop[0], POLLIN, 0 } };
	struct epoll_event event = { .data.u64 = 0 };
	uint64_t end_ns = mono_ns() + bare.spin_us * 1000;
	int nr = 0;

	while (!nr) {
		int wait_ms = bare.spin_us && mono_ns() < end_ns ? 0 : -1;
		nr = epoll < 0 ? poll(fds, 2, wait_ms) : epoll_wait(epoll, &event, 1, wait_ms);
	}
	return nr > 0 && !fds[1].revents && !event.data.u64;
}

static void *bare_handler(void *arg)
{
	unsigned char *buf = aligned_alloc(MEASURE_PAGE, 2 * MEASURE_PAGE);
	int epoll = bare.is_epoll ? bare_epoll() : -1;

	CHECK(buf != NULL);
	memcpy(buf + MEASURE_PAGE, bare.first, MEASURE_PAGE);
	pin_to(bare_cpu((unsigned)(uintptr_t)arg));
	while (bare_wait(epoll)) {
		struct uffd_msg msg;

		while (read(bare.uffd, &msg, sizeof(msg)) == sizeof(msg))
			bare_serve(msg.arg.pagefault.address, buf, buf + MEASURE_PAGE);
	}
	CHECK(epoll < 0 || !close(epoll));
	free(buf);
	return NULL;
}

static void bare_on_sigbus(int signal, siginfo_t *info, void *context)
{
	static _Thread_local _Alignas(MEASURE_PAGE) unsigned char buf[2 * MEASURE_PAGE];

	(void)signal;
	(void)context;
	bare_serve((uintptr_t)info->si_addr, buf, bare.is_none ? bare.first : buf + MEASURE_PAGE);
}

/* Every frame at its page's place in a file, so that a fault is one aligned read. */
static void bare_write_file(void)
{
	unsigned char *chunk = aligned_alloc(MEASURE_PAGE, BARE_CHUNK);

	bare.fd = open(bare.path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
	CHECK(bare.fd >= 0 && chunk != NULL);
	CHECK_EQ(unlink(bare.path), 0);
	for (uint64_t i = 0; i < bare.nr_ranges; i++) {
		const struct bare_frame *frame = &bare.frames[i];
		uint64_t in_chunk = i * MEASURE_PAGE % BARE_CHUNK;

		memcpy(chunk + in_chunk, bare.out[frame->thread] + frame->at, frame->len);
		if (in_chunk + MEASURE_PAGE == BARE_CHUNK || i + 1 == bare.nr_ranges)
			CHECK_EQ(pwrite(bare.fd, chunk, in_chunk + MEASURE_PAGE,
					(off_t)(i * MEASURE_PAGE - in_chunk)),
				 in_chunk + MEASURE_PAGE);
	}
	CHECK_EQ(fsync(bare.fd), 0);
	free(chunk);
}

static void bare_settle(void)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = bare.is_in_thread ? UFFD_FEATURE_SIGBUS : 0 };
	struct sigaction action = { .sa_sigaction = bare_on_sigbus,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct uffdio_register reg = {
		.range = { (uintptr_t)bare.memory->mem, memory_bytes(bare.memory) },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (bare.range_bytes != MEASURE_PAGE)
		return;
	if (bare.path)
		bare_write_file();
	memcpy(bare.first, bare.memory->mem, MEASURE_PAGE);
	if (bare.memory->memfd >= 0)
		CHECK_EQ(fallocate(bare.memory->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   0, (off_t)memory_bytes(bare.memory)), 0);
	else
		CHECK_EQ(madvise(bare.memory->mem, memory_bytes(bare.memory), MADV_DONTNEED), 0);
	bare.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	CHECK(bare.uffd >= 0);
	CHECK_EQ(ioctl(bare.uffd, UFFDIO_API, &api), 0);
	CHECK_EQ(ioctl(bare.uffd, UFFDIO_REGISTER, &reg), 0);
	CHECK_EQ(pipe2(bare.stop, O_CLOEXEC), 0);
	if (bare.is_in_thread)
		CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
	for (unsigned i = 0; i < bare.nr_handlers && !bare.is_in_thread; i++)
		CHECK_EQ(pthread_create(&bare.handlers[i], NULL, bare_handler,
					(void *)(uintptr_t)i), 0);
}

static void bare_report(void)
{
	json_number("stored_bytes", (double)bare.stored_bytes);
}

static void bare_close(void)
{
	if (bare.range_bytes != MEASURE_PAGE)
		return;
	CHECK_EQ(write(bare.stop[1], "x", 1), 1);
	for (unsigned i = 0; i < bare.nr_handlers && !bare.is_in_thread; i++)
		CHECK_EQ(pthread_join(bare.handlers[i], NULL), 0);
	CHECK_EQ(close(bare.uffd), 0);
	if (bare.path)
		CHECK_EQ(close(bare.fd), 0);
}

static const struct way way_bare = { bare_open, bare_leave, bare_settle, bare_report, bare_close };

#endif
