/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_fault.c — what a fault costs the guest, served from a ram tier with lz4, beside the bare
 * message round trip with the same decode in the same run (A B A B).
 *
 *   bench_fault [PAGES [ROUNDS [FAULT_THREADS]]]
 *
 * Prints, for each memory and serving mode, p50 and p99 of a first touch in microseconds, and the
 * ratio of the medians to the bare one. */
#include <fcntl.h>
#include <lz4.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "os/uapi.h"
#include "../guest.h"

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

struct samples {
	uint64_t *ns;
	uint64_t nr;
};

static double percentile(struct samples *samples, double share)
{
	qsort(samples->ns, samples->nr, sizeof(uint64_t), compare);
	return (double)samples->ns[(uint64_t)((double)(samples->nr - 1) * share)] / 1000.0;
}

/* Touches every page once, in an order that no neighbour follows, and times each touch. */
static void touch_all(volatile unsigned char *mem, uint64_t nr_pages, struct samples *samples)
{
	uint64_t step = nr_pages / 2 + 7;

	while (nr_pages % step == 0 || step % 2 == 0)
		step++;
	for (uint64_t i = 0, page = 0; i < nr_pages; i++, page = (page + step) % nr_pages) {
		uint64_t start = now_ns();
		(void)mem[page * GUEST_PAGE];
		samples->ns[samples->nr++] = now_ns() - start;
	}
}

/* ---- The bare limit: poll, read, LZ4_decompress, UFFDIO_COPY ------------------------------ */

struct bare {
	int uffd;
	atomic_bool is_stopping;
	char frame[GUEST_PAGE * 2];
	int frame_len;
};

static void *bare_handler(void *arg)
{
	struct bare *bare = arg;
	static _Alignas(4096) char raw[GUEST_PAGE];

	while (!atomic_load(&bare->is_stopping)) {
		struct pollfd poll_fd = { bare->uffd, POLLIN, 0 };
		struct uffd_msg msg;
		if (poll(&poll_fd, 1, 100) <= 0 ||
		    read(bare->uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		CHECK_EQ(LZ4_decompress_safe(bare->frame, raw, bare->frame_len, GUEST_PAGE),
			 GUEST_PAGE);
		struct uffdio_copy copy = { .dst = msg.arg.pagefault.address & ~UINT64_C(4095),
					    .src = (uintptr_t)raw, .len = GUEST_PAGE };
		CHECK_EQ(ioctl(bare->uffd, UFFDIO_COPY, &copy), 0);
	}
	return NULL;
}

static void run_bare(uint64_t nr_pages, bool is_memfd, struct samples *samples)
{
	struct bare bare = { .uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) };
	struct uffdio_api api = { .api = UFFD_API };
	struct guest guest = { 0 };
	pthread_t thread;

	guest_map(&guest, nr_pages, is_memfd);
	bare.frame_len = LZ4_compress_default((char *)guest.mem + 3 * GUEST_PAGE, bare.frame,
					      GUEST_PAGE, sizeof(bare.frame));
	if (is_memfd)
		CHECK_EQ(fallocate(guest.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				   (off_t)(nr_pages * GUEST_PAGE)), 0);
	else
		madvise(guest.mem, nr_pages * GUEST_PAGE, MADV_DONTNEED);
	CHECK_EQ(ioctl(bare.uffd, UFFDIO_API, &api), 0);
	struct uffdio_register reg = { .range = { (uintptr_t)guest.mem, nr_pages * GUEST_PAGE },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };
	CHECK_EQ(ioctl(bare.uffd, UFFDIO_REGISTER, &reg), 0);
	CHECK_EQ(pthread_create(&thread, NULL, bare_handler, &bare), 0);
	touch_all(guest.mem, nr_pages, samples);
	atomic_store(&bare.is_stopping, true);
	pthread_join(thread, NULL);
	close(bare.uffd);
	munmap(guest.mem, nr_pages * GUEST_PAGE);
	if (is_memfd)
		close(guest.memfd);
	free((void *)guest.versions);
}

/* ---- Ours -------------------------------------------------------------------------------- */

static uint32_t nr_fault_threads;

static void run_ours(uint64_t nr_pages, bool is_memfd, uint32_t serve, struct samples *samples)
{
	struct guest guest = { .nr_fault_threads = nr_fault_threads };

	guest_map(&guest, nr_pages, is_memfd);
	/* Text-like pages only, so that every touch decodes the same amount. */
	for (uint64_t page = 0; page < nr_pages; page++)
		memcpy(guest.mem + page * GUEST_PAGE, guest.mem + 3 * GUEST_PAGE, GUEST_PAGE);
	guest_open(&guest);
	CHECK_EQ(guest_add_tier(&guest, "ram", "ram", NULL, nr_pages * GUEST_PAGE * 2, TS_CODEC_LZ4,
				4096, NULL), 0);
	CHECK_EQ(ts_engine_start(guest.engine), 0);
	guest_attach(&guest, (struct ts_region_options){ .serve = serve });
	guest_evict(&guest, nr_pages * GUEST_PAGE, 0, true);
	touch_all(guest.mem, nr_pages, samples);
	struct ts_stats *stats = guest_stats(&guest);
	static const char *const names[] = { "fault", "get", "decode", "install", "rest" };
	for (unsigned i = 0; i < 5; i++)
		printf("    %-8s p50 %6.2f us  n %llu\n", names[i],
		       (double)ts_hist_percentile_ns(&stats->stages[i], 0.5) / 1000,
		       (unsigned long long)stats->stages[i].count);
	ts_engine_close(guest.engine);
	munmap(guest.mem, nr_pages * GUEST_PAGE);
	if (is_memfd)
		close(guest.memfd);
	rmdir(guest.folder);
	free((void *)guest.versions);
}

static struct samples samples_for(uint64_t nr)
{
	struct samples samples = { calloc(nr, sizeof(uint64_t)), 0 };

	CHECK(samples.ns != NULL);
	return samples;
}

int main(int argc, char **argv)
{
	uint64_t nr_pages = argc > 1 ? strtoull(argv[1], NULL, 0) : 8192;
	uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 3;

	nr_fault_threads = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 0) : 0;
	for (unsigned is_memfd = 0; is_memfd < 2; is_memfd++) {
		struct samples bare = samples_for(nr_pages * rounds);
		struct samples message = samples_for(nr_pages * rounds);
		struct samples in_thread = samples_for(nr_pages * rounds);
		for (uint64_t i = 0; i < rounds; i++) {
			run_bare(nr_pages, is_memfd, &bare);
			run_ours(nr_pages, is_memfd, TS_SERVE_MESSAGE, &message);
			if (!is_memfd)
				run_ours(nr_pages, is_memfd, TS_SERVE_IN_THREAD, &in_thread);
		}
		const char *memory = is_memfd ? "memfd" : "anon";
		double limit = percentile(&bare, 0.5);
		printf("%s bare:      p50 %6.2f p99 %7.2f us\n", memory, limit,
		       percentile(&bare, 0.99));
		printf("%s message:   p50 %6.2f p99 %7.2f us  ratio %.2f\n", memory,
		       percentile(&message, 0.5), percentile(&message, 0.99),
		       percentile(&message, 0.5) / limit);
		if (!is_memfd)
			printf("%s in-thread: p50 %6.2f p99 %7.2f us  ratio %.2f\n", memory,
			       percentile(&in_thread, 0.5), percentile(&in_thread, 0.99),
			       percentile(&in_thread, 0.5) / limit);
		free(bare.ns);
		free(message.ns);
		free(in_thread.ns);
	}
	return 0;
}
