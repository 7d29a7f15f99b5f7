/* SPDX-License-Identifier: Apache-2.0
 *
 * way_calls.h — the limit with its system calls: threads that take 2 MiB at a time from a
 * userfaultfd's memory as the engine does (anonymous: MOVE to memory of their own, and clear that;
 * a memfd: WRITEPROTECT, pread, PUNCH_HOLE, and the protection off), compress it range after range,
 * and keep what comes out.  No words, no frames, no store, no checksum: what is left between
 * this and way=ours is ours.  Leaving only: touch=0. */
#ifndef TS_TESTS_WAY_CALLS_H
#define TS_TESTS_WAY_CALLS_H

#include "way_bare.h"

enum { CALLS_BATCH = 2 << 20, CALLS_MOVE = 64 * MEASURE_PAGE };

static struct {
	struct memory *memory;
	int uffd;
	unsigned char *staging[BARE_THREADS_MAX];
} calls;

static void calls_register(void *addr, uint64_t len_bytes, uint64_t mode)
{
	struct uffdio_register reg = { .range = { (uintptr_t)addr, len_bytes }, .mode = mode };

	CHECK_EQ(ioctl(calls.uffd, UFFDIO_REGISTER, &reg), 0);
}

static void calls_open(const struct measure_args *args, struct memory *memory)
{
	bool is_memfd = memory->memfd >= 0;
	struct uffdio_api api = { .api = UFFD_API,
				  .features = is_memfd ? UFFD_FEATURE_WP_HUGETLBFS_SHMEM :
							 UFFD_FEATURE_MOVE };

	bare_open(args, memory);
	CHECK_EQ(memory_bytes(memory) % CALLS_BATCH, 0);
	CHECK_EQ(arg_number(args, "touch", 1), 0);
	calls.memory = memory;
	calls.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	CHECK(calls.uffd >= 0);
	CHECK_EQ(ioctl(calls.uffd, UFFDIO_API, &api), 0);
	calls_register(memory->mem, memory_bytes(memory),
		       UFFDIO_REGISTER_MODE_MISSING | (is_memfd ? UFFDIO_REGISTER_MODE_WP : 0));
	for (unsigned i = 0; i < bare.nr_threads; i++) {
		calls.staging[i] = memory_map(CALLS_BATCH / MEASURE_PAGE, false).mem;
		if (!is_memfd)
			calls_register(calls.staging[i], CALLS_BATCH, UFFDIO_REGISTER_MODE_MISSING);
	}
}

static void calls_protect(uint64_t addr, bool on)
{
	struct uffdio_writeprotect wp = { .range = { addr, CALLS_BATCH },
					  .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	CHECK_EQ(ioctl(calls.uffd, UFFDIO_WRITEPROTECT, &wp), 0);
}

static void calls_take(uint64_t offset, unsigned char *to)
{
	uint64_t addr = (uintptr_t)calls.memory->mem + offset;

	if (calls.memory->memfd >= 0) {
		calls_protect(addr, true);
		CHECK_EQ(pread(calls.memory->memfd, to, CALLS_BATCH, (off_t)offset), CALLS_BATCH);
		return;
	}
	for (uint64_t at = 0; at < CALLS_BATCH; at += CALLS_MOVE) {
		struct uffdio_move move = { .dst = (uintptr_t)to + at, .src = addr + at,
					    .len = CALLS_MOVE };
		CHECK_EQ(ioctl(calls.uffd, UFFDIO_MOVE, &move), 0);
	}
}

static void calls_release(uint64_t offset, unsigned char *from)
{
	if (calls.memory->memfd < 0) {
		CHECK_EQ(madvise(from, CALLS_BATCH, MADV_DONTNEED), 0);
		return;
	}
	CHECK_EQ(fallocate(calls.memory->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)offset, CALLS_BATCH), 0);
	calls_protect((uintptr_t)calls.memory->mem + offset, false);
}

static void *calls_run(void *arg)
{
	unsigned thread = (unsigned)(uintptr_t)arg;
	unsigned char *staging = calls.staging[thread], *out = bare.out[thread];
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint64_t nr_batches = memory_bytes(calls.memory) / CALLS_BATCH, batch;

	CHECK(zstd != NULL);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 3);
	while ((batch = atomic_fetch_add(&bare.next, 1)) < nr_batches) {
		calls_take(batch * CALLS_BATCH, staging);
		for (uint64_t at = 0; at < CALLS_BATCH; at += bare.range_bytes)
			out += bare_encode(zstd, staging + at, out);
		calls_release(batch * CALLS_BATCH, staging);
	}
	atomic_fetch_add(&bare.stored_bytes, (uint64_t)(out - bare.out[thread]));
	ZSTD_freeCCtx(zstd);
	return NULL;
}

static void calls_leave(void)
{
	bare_run_threads(calls_run);
}

static void calls_settle(void)
{
}

static void calls_close(void)
{
	CHECK_EQ(close(calls.uffd), 0);
}

static const struct way way_calls = { calls_open, calls_leave, calls_settle, bare_report,
				      calls_close };

#endif
