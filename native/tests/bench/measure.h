/* SPDX-License-Identifier: Apache-2.0
 *
 * measure.h — what the programs of the bench suite share: options as name=value, clocks, order
 * statistics, and results as one JSON object on stdout.  Each program does one run of one side of
 * a comparison; taking turns, medians and ratios are the business of bench/harness.py. */
#ifndef TS_TESTS_MEASURE_H
#define TS_TESTS_MEASURE_H

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "check.h"
#include "content.h"

enum { MEASURE_PAGE = 4096 };

/* ---- Options ------------------------------------------------------------------------------ */

struct measure_args {
	int argc;
	char **argv;
};

/* First in main(): a bench that was killed must not leave a program that keeps swap and a control
 * group busy. */
static inline void end_with_parent(void)
{
	CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
}

/* The value of name=value, or the fallback. */
static inline const char *arg_text(const struct measure_args *args, const char *name,
				   const char *fallback)
{
	size_t len = strlen(name);

	for (int i = 1; i < args->argc; i++)
		if (strncmp(args->argv[i], name, len) == 0 && args->argv[i][len] == '=')
			return args->argv[i] + len + 1;
	return fallback;
}

static inline uint64_t arg_number(const struct measure_args *args, const char *name,
				  uint64_t fallback)
{
	const char *text = arg_text(args, name, NULL);
	char *end;

	if (!text)
		return fallback;
	uint64_t value = strtoull(text, &end, 0);
	CHECK(end != text && *end == '\0');
	return value;
}

static inline bool arg_is(const struct measure_args *args, const char *name, const char *value)
{
	return strcmp(arg_text(args, name, ""), value) == 0;
}

/* ---- Clocks ------------------------------------------------------------------------------- */

static inline uint64_t mono_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* CPU time of all threads of this process, user and system. */
static inline uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct span {
	uint64_t wall_ns, cpu_ns;
};

static inline struct span span_begin(void)
{
	return (struct span){ mono_ns(), cpu_ns() };
}

static inline struct span span_end(struct span begin)
{
	return (struct span){ mono_ns() - begin.wall_ns, cpu_ns() - begin.cpu_ns };
}

static inline void pin_to(int64_t cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* ---- Order statistics --------------------------------------------------------------------- */

static inline int measure_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Sorts in place. */
static inline uint32_t percentile_ns(uint32_t *ns, uint64_t nr, double share)
{
	qsort(ns, nr, sizeof(*ns), measure_compare);
	return ns[(uint64_t)((double)(nr - 1) * share)];
}

/* ---- Results ------------------------------------------------------------------------------ */

static inline void json_number(const char *name, double value)
{
	static bool has_some;

	printf("%s\"%s\": %.17g", has_some ? ", " : "{", name, value);
	has_some = true;
}

static inline void json_end(uint64_t hash)
{
	printf(", \"hash\": \"%016llx\"}\n", (unsigned long long)hash);
}

/* ---- Memory ------------------------------------------------------------------------------- */

struct memory {
	unsigned char *mem;
	uint64_t nr_pages;
	int memfd;           /* -1: anonymous */
};

static inline uint64_t memory_bytes(const struct memory *memory)
{
	return memory->nr_pages * MEASURE_PAGE;
}

/* Maps memory (2 MiB aligned, as a guest's is) without filling it. */
static inline struct memory memory_map(uint64_t nr_pages, bool is_memfd)
{
	struct memory memory = { .nr_pages = nr_pages, .memfd = -1 };
	size_t len = nr_pages * MEASURE_PAGE, align = 2 << 20;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	unsigned char *area = mmap(NULL, len + align, PROT_READ | PROT_WRITE, flags, -1, 0);

	CHECK(area != MAP_FAILED);
	memory.mem = (unsigned char *)(((uintptr_t)area + align - 1) & ~(align - 1));
	if (!is_memfd)
		return memory;
	memory.memfd = memfd_create("guest", MFD_CLOEXEC);
	CHECK(memory.memfd >= 0);
	CHECK_EQ(ftruncate(memory.memfd, (off_t)len), 0);
	CHECK(mmap(memory.mem, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.memfd,
		   0) == memory.mem);
	return memory;
}

/* Fills it with the corpus, over and over; a repeated page gets its number, so that no two
 * pages are alike (but for filled ones, whose first word says so: they repeat as they are). */
static inline void memory_fill(struct memory *memory, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat info;

	CHECK(fd >= 0 && fstat(fd, &info) == 0);
	uint64_t nr_source = (uint64_t)info.st_size / MEASURE_PAGE;
	CHECK(nr_source > 0);
	for (uint64_t page = 0; page < memory->nr_pages; page++) {
		unsigned char *to = memory->mem + page * MEASURE_PAGE;
		off_t from = (off_t)(page % nr_source * MEASURE_PAGE);

		CHECK_EQ(pread(fd, to, MEASURE_PAGE, from), MEASURE_PAGE);
		if (page >= nr_source && memcmp(to, to + 8, MEASURE_PAGE - 8) != 0)
			memcpy(to + MEASURE_PAGE / 2, &page, sizeof(page));
	}
	CHECK_EQ(close(fd), 0);
}

/* Anonymous memory of this process that is in RAM: by the kernel's own count. */
static inline uint64_t rss_anon_bytes(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	unsigned long long kib = 0;
	char line[256];

	CHECK(status != NULL);
	while (fgets(line, sizeof(line), status) && sscanf(line, "RssAnon: %llu", &kib) != 1)
		;
	CHECK_EQ(fclose(status), 0);
	CHECK(kib > 0);
	return kib << 10;
}

static inline uint64_t memory_hash(const struct memory *memory)
{
	return XXH3_64bits(memory->mem, memory_bytes(memory));
}

#endif
