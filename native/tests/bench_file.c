/* SPDX-License-Identifier: Apache-2.0
 * bench_file.c — what the store "file" costs on top of the disk: random gets of one block against
 * bare O_DIRECT reads through io_uring, puts against bare sequential writes, in the same run,
 * turn by turn.  Usage: bench_file [folder [seconds a step]]. */
#include <liburing.h>
#include <time.h>

#include "file_rig.h"

enum { NR_FRAMES = 60000, FRAME_BYTES = 2000, STORE_MIB = 512, CHUNK_BYTES = 512 * 1024 };

static struct ts_store *store;
static int bare_fd;
static double seconds = 1;
static char *arena;

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int compare_double(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return left < right ? -1 : left > right;
}

static double samples[1 << 20];

static void report(const char *what, unsigned depth, size_t nr, double spent_s)
{
	if (nr == 0)
		return;
	qsort(samples, nr, sizeof(samples[0]), compare_double);
	printf("%-16s depth %2u: p50 %7.1f us  p99 %7.1f us  %8.0f/s\n", what, depth,
	       samples[nr / 2] * 1e6, samples[nr - 1 - nr / 100] * 1e6, (double)nr / spent_s);
}

static void bench_bare(unsigned depth)
{
	struct io_uring ring;
	double begun[RIG_DEPTH_MAX], start = now_s();
	struct iovec range = { arena, (size_t)depth * RIG_BUF_BYTES };
	uint64_t state = 99;
	unsigned nr_pending = 0;
	size_t nr = 0;

	CHECK_EQ(io_uring_queue_init(64, &ring, 0), 0);
	CHECK_EQ(io_uring_register_files(&ring, &bare_fd, 1), 0);
	CHECK_EQ(io_uring_register_buffers(&ring, &range, 1), 0);
	for (unsigned slot = 0; slot < depth || nr_pending > 0;) {
		struct io_uring_cqe *cqe;

		if (slot >= depth) {
			CHECK_EQ(io_uring_wait_cqe(&ring, &cqe), 0);
			CHECK_EQ(cqe->res, 4096);
			slot = (unsigned)cqe->user_data;
			io_uring_cqe_seen(&ring, cqe);
			samples[nr++ % (1 << 20)] = now_s() - begun[slot];
			nr_pending--;
		}
		unsigned used = slot;
		slot = nr_pending + 1 < depth && nr == 0 ? slot + 1 : depth;
		if (now_s() - start > seconds)
			continue;
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
		uint64_t block = content_random(&state) % (NR_FRAMES / 2);
		io_uring_prep_read_fixed(sqe, 0, arena + (size_t)used * RIG_BUF_BYTES, 4096,
					 block * 4096, 0);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
		sqe->user_data = used;
		begun[used] = now_s();
		CHECK_EQ(io_uring_submit(&ring), 1);
		nr_pending++;
	}
	report("bare read", depth, nr, now_s() - start);
	io_uring_queue_exit(&ring);
}

static void bench_get(unsigned depth)
{
	struct ts_get requests[RIG_DEPTH_MAX], *done;
	double begun[RIG_DEPTH_MAX], start;
	struct ts_reader *reader;
	unsigned nr_pending = 0;
	uint64_t state = 99;
	size_t nr = 0;

	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	CHECK_EQ(ts_store_reader_arena(reader, arena, (size_t)RIG_DEPTH_MAX * RIG_BUF_BYTES), 0);
	start = now_s();
	for (unsigned slot = 0; slot < depth || nr_pending > 0;) {
		if (slot >= depth) {
			CHECK_EQ(ts_store_reap(reader, &done, 1, -1), 1);
			CHECK_EQ(done->status, 0);
			slot = (unsigned)(done - requests);
			samples[nr++ % (1 << 20)] = now_s() - begun[slot];
			nr_pending--;
		}
		unsigned used = slot;
		slot = nr_pending + 1 < depth && nr == 0 ? slot + 1 : depth;
		if (now_s() - start > seconds)
			continue;
		requests[used] = (struct ts_get){ .key = content_random(&state) % NR_FRAMES,
						  .buf = arena + (size_t)used * RIG_BUF_BYTES,
						  .cap_bytes = RIG_BUF_BYTES };
		begun[used] = now_s();
		CHECK_EQ(ts_store_get(reader, &requests[used]), 1);
		nr_pending++;
	}
	report("store get", depth, nr, now_s() - start);
	ts_store_reader_close(reader);
}

/* Four writes of 512 KiB in flight, as the store has. */
static void bench_bare_write(uint64_t len_bytes)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	uint64_t offset = 0, nr_pending = 0;
	double start = now_s();

	CHECK_EQ(io_uring_queue_init(8, &ring, 0), 0);
	while (offset < len_bytes || nr_pending > 0) {
		if (nr_pending == 4 || offset >= len_bytes) {
			CHECK_EQ(io_uring_wait_cqe(&ring, &cqe), 0);
			CHECK_EQ(cqe->res, CHUNK_BYTES);
			io_uring_cqe_seen(&ring, cqe);
			nr_pending--;
			continue;
		}
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
		io_uring_prep_write(sqe, bare_fd, arena + nr_pending * CHUNK_BYTES, CHUNK_BYTES,
				    offset);
		CHECK_EQ(io_uring_submit(&ring), 1);
		nr_pending++;
		offset += CHUNK_BYTES;
	}
	printf("bare write: %.0f MiB/s\n", (double)len_bytes / 1048576 / (now_s() - start));
	io_uring_queue_exit(&ring);
}

static void bench_put(uint32_t len_bytes, uint64_t key_first, uint64_t nr_frames)
{
	struct ts_put items[RIG_BATCH_MAX] = { { 0 } };
	char *data = malloc(len_bytes);
	double start, spent;

	content_fill(data, len_bytes, 1, 1);
	start = now_s();
	for (uint64_t key = 0; key < nr_frames; key += RIG_BATCH_MAX) {
		for (unsigned i = 0; i < RIG_BATCH_MAX; i++)
			items[i] = (struct ts_put){ .key = key_first + key + i, .data = data,
						    .len_bytes = len_bytes };
		CHECK_EQ(ts_store_put(store, items, RIG_BATCH_MAX), 0);
		for (unsigned i = 0; i < RIG_BATCH_MAX; i++)
			CHECK_EQ(items[i].status, 0);
	}
	spent = now_s() - start;
	printf("put of %6u bytes: %.0f MiB/s, %.0f frames/s\n", len_bytes,
	       (double)len_bytes * (double)nr_frames / 1048576 / spent, (double)nr_frames / spent);
	free(data);
}

int main(int argc, char **argv)
{
	static const unsigned depths[] = { 1, 16, 32 };
	char bare_path[300], store_path[300];
	const char *folder = argc > 1 ? argv[1] : "/tmp";

	if (argc > 2)
		seconds = atof(argv[2]);
	snprintf(bare_path, sizeof(bare_path), "%s/bench-bare-%d", folder, getpid());
	snprintf(store_path, sizeof(store_path), "%s/bench-store-%d", folder, getpid());
	bare_fd = open(bare_path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT, 0600);
	CHECK(bare_fd >= 0);
	CHECK_EQ(ftruncate(bare_fd, (off_t)STORE_MIB * RIG_MIB), 0);
	arena = rig_buffer((size_t)RIG_DEPTH_MAX * RIG_BUF_BYTES);
	store = rig_open(store_path, (uint64_t)STORE_MIB * RIG_MIB, "");
	for (unsigned turn = 0; turn < 2; turn++) {
		bench_bare_write(UINT64_C(128) * RIG_MIB);
		bench_put(FRAME_BYTES, 0, NR_FRAMES / RIG_BATCH_MAX * RIG_BATCH_MAX);
		bench_put(21000, NR_FRAMES + 1000, 6144);
	}
	bench_put(FRAME_BYTES, NR_FRAMES - RIG_BATCH_MAX, RIG_BATCH_MAX);
	for (unsigned turn = 0; turn < 3; turn++)
		for (unsigned i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
			bench_bare(depths[i]);
			bench_get(depths[i]);
		}
	ts_store_close(store);
	close(bare_fd);
	unlink(bare_path);
	return 0;
}
