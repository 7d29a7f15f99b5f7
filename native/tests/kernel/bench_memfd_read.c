/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_memfd_read.c — how should a memfd page be read before it is punched out: by pread, or
 * through a second mapping?  Prints nanoseconds a page, median and fastest over chunks of 2 MiB,
 * for reading and for punching; the ways take turns, so that other load hits all alike.
 *
 * Reading: copying costs about the same either way (the mapping gets its entries by fault-around),
 * but the entries are in the way of the punch, which has to take them away each time.
 */
#include "kern.h"

#include <stdlib.h>
#include <time.h>

enum { CHUNK_PAGES = 512, NR_CHUNKS = 16, NR_ROUNDS = 12, CHUNK_BYTES = CHUNK_PAGES * KERN_PAGE };
enum { NR_SAMPLES = NR_CHUNKS * NR_ROUNDS };

enum way { PREAD, MAPPING, POPULATE, NR_WAYS };

static const char *const names[NR_WAYS] = {
	"pread", "second mapping", "second mapping, MADV_POPULATE_READ",
};
static char buffer[CHUNK_BYTES], contents[CHUNK_BYTES];
static double read_ns[NR_WAYS][NR_SAMPLES], punch_ns[NR_WAYS][NR_SAMPLES];

static double now_ns(void)
{
	struct timespec t;
	CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &t), 0);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void read_chunk(enum way way, int fd, char *alias, size_t chunk)
{
	char *addr = alias + chunk * CHUNK_BYTES;
	switch (way) {
	case PREAD:
		CHECK_EQ(pread(fd, buffer, CHUNK_BYTES, (off_t)(chunk * CHUNK_BYTES)), CHUNK_BYTES);
		break;
	case POPULATE:
		CHECK_EQ(madvise(addr, CHUNK_BYTES, MADV_POPULATE_READ), 0);
		memcpy(buffer, addr, CHUNK_BYTES);
		break;
	case MAPPING:
		memcpy(buffer, addr, CHUNK_BYTES);
		break;
	case NR_WAYS:
		break;
	}
}

static void measure(enum way way, int fd, char *alias, size_t chunk, size_t sample)
{
	CHECK_EQ(pwrite(fd, contents, CHUNK_BYTES, (off_t)(chunk * CHUNK_BYTES)), CHUNK_BYTES);
	double start = now_ns();
	read_chunk(way, fd, alias, chunk);
	double middle = now_ns();
	CHECK_EQ(kern_punch(fd, chunk * CHUNK_PAGES, CHUNK_PAGES), 0);
	double end = now_ns();
	CHECK_EQ(memcmp(buffer, contents, CHUNK_BYTES), 0);
	read_ns[way][sample] = (middle - start) / CHUNK_PAGES;
	punch_ns[way][sample] = (end - middle) / CHUNK_PAGES;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	int fd = kern_memfd((size_t)NR_CHUNKS * CHUNK_PAGES);
	char *alias = kern_shared(fd, (size_t)NR_CHUNKS * CHUNK_PAGES);

	for (size_t i = 0; i < CHUNK_BYTES; i++)
		contents[i] = (char)(i * 2654435761u >> 13);
	for (size_t sample = 0; sample < NR_SAMPLES; sample++)
		for (enum way way = 0; way < NR_WAYS; way++)
			measure(way, fd, alias, sample % NR_CHUNKS, sample);
	printf("%-36s %15s %15s   (median, fastest)\n", "ns a page", "read", "punch");
	for (enum way way = 0; way < NR_WAYS; way++) {
		qsort(read_ns[way], NR_SAMPLES, sizeof read_ns[way][0], compare);
		qsort(punch_ns[way], NR_SAMPLES, sizeof punch_ns[way][0], compare);
		printf("%-36s %7.0f %7.0f %7.0f %7.0f\n", names[way], read_ns[way][NR_SAMPLES / 2],
			read_ns[way][0], punch_ns[way][NR_SAMPLES / 2], punch_ns[way][0]);
	}
	return 0;
}
