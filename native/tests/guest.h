/* SPDX-License-Identifier: Apache-2.0
 *
 * guest.h — a guest for C tests: a region of memory with known contents, an engine with a ladder in
 * a temporary folder, and threads that write and check.
 *
 * Each page holds its number, a version, and a body that follows from both; a side table outside
 * the region knows the version.  Pages of three kinds: compressible text, noise, one value.
 */
#ifndef TS_TESTS_GUEST_H
#define TS_TESTS_GUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <tierstore/tierstore.h>

#include "check.h"

enum {
	GUEST_PAGE = 4096,
	/* Versions of pages that the guest gave up. */
	GUEST_ZEROED = 0x7fffffff,   /* reads as zeros */
	GUEST_UNMAPPED = 0x7ffffffe, /* is not there */
};

struct guest {
	struct ts_engine *engine;
	struct ts_region *region;
	char folder[64];
	unsigned char *mem;
	uint64_t nr_pages;
	int memfd;
	_Atomic uint32_t *versions;   /* bit 31: locked by the thread that is at the page */
	_Atomic uint64_t nr_wrong, nr_touched, nr_written;
	atomic_bool is_stopping;
	uint32_t nr_fault_threads;    /* 0: the default */
};

static inline uint64_t guest_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* The 64-bit word at index i of a page in this version. */
static inline uint64_t guest_word(uint64_t page, uint32_t version, unsigned i)
{
	uint64_t seed = page << 32 | version;

	if (version == GUEST_ZEROED)
		return 0;
	switch (page % 16) {
	case 0: return guest_mix(seed + i * UINT64_C(0x9e3779b97f4a7c15)); /* noise */
	case 1: return guest_mix(seed);                                     /* one value */
	case 2: return version ? guest_mix(seed) : 0;                       /* zeros at first */
	default: return i % 8 < 2 ? guest_mix(seed + i) : seed + i / 64;     /* text-like */
	}
}

static inline void guest_fill(struct guest *guest, uint64_t page, uint32_t version)
{
	uint64_t *words = (uint64_t *)(guest->mem + page * GUEST_PAGE);

	for (unsigned i = 0; i < GUEST_PAGE / 8; i++)
		words[i] = guest_word(page, version, i);
}

static inline bool guest_is_right(struct guest *guest, uint64_t page, uint32_t version)
{
	const uint64_t *words = (const uint64_t *)(guest->mem + page * GUEST_PAGE);

	for (unsigned i = 0; i < GUEST_PAGE / 8; i++)
		if (words[i] != guest_word(page, version, i)) {
			fprintf(stderr, "page %llu version %u word %u: %llx, expected %llx\n",
				(unsigned long long)page, version, i, (unsigned long long)words[i],
				(unsigned long long)guest_word(page, version, i));
			return false;
		}
	return true;
}

/* Maps and fills nr_pages; is_memfd chooses the kind. */
static inline void guest_map(struct guest *guest, uint64_t nr_pages, bool is_memfd)
{
	size_t len = nr_pages * GUEST_PAGE, align = 2 << 20;

	guest->nr_pages = nr_pages;
	guest->memfd = -1;
	if (is_memfd) {
		guest->memfd = memfd_create("guest", MFD_CLOEXEC);
		CHECK(guest->memfd >= 0);
		CHECK_EQ(ftruncate(guest->memfd, (off_t)len), 0);
		guest->mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, guest->memfd, 0);
		CHECK(guest->mem != MAP_FAILED);
	} else {
		unsigned char *area = mmap(NULL, len + align, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(area != MAP_FAILED);
		guest->mem = (unsigned char *)(((uintptr_t)area + align - 1) & ~(align - 1));
	}
	guest->versions = calloc(nr_pages, sizeof(*guest->versions));
	CHECK(guest->versions != NULL);
	for (uint64_t page = 0; page < nr_pages; page++)
		guest_fill(guest, page, 0);
}

static inline int guest_add_tier(struct guest *guest, const char *name, const char *store,
				 const char *path, uint64_t size_bytes, uint32_t codec,
				 uint32_t range_bytes, const char *wrap)
{
	struct ts_tier_options tier = {
		.size = sizeof(tier), .name = name, .store = store, .path = path,
		.size_bytes = size_bytes, .codec = codec, .range_bytes = range_bytes, .wrap = wrap,
	};
	return ts_engine_add_tier(guest->engine, &tier);
}

static inline void guest_log(void *user, int level, const char *text)
{
	(void)user;
	if (level <= TS_LOG_WARNING)
		fprintf(stderr, "log[%d]: %s\n", level, text);
}

static inline void guest_open(struct guest *guest)
{
	struct ts_engine_options options = { .size = sizeof(options), .log = guest_log,
					     .nr_fault_threads = guest->nr_fault_threads };

	snprintf(guest->folder, sizeof(guest->folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(guest->folder) != NULL);
	CHECK_EQ(ts_engine_open(&options, &guest->engine), 0);
}

static inline const char *guest_path(struct guest *guest, const char *name)
{
	static _Thread_local char path[160];

	snprintf(path, sizeof(path), "%s/%s", guest->folder, name);
	return path;
}

/* ram, lmdb, file: small enough that all three get their share. */
static inline void guest_add_ladder(struct guest *guest)
{
	uint64_t bytes = guest->nr_pages * GUEST_PAGE;

	CHECK_EQ(guest_add_tier(guest, "warm", "ram", NULL, bytes / 16 + (1 << 20), TS_CODEC_LZ4,
				4096, NULL),
		 0);
	CHECK_EQ(guest_add_tier(guest, "mid", "lmdb", guest_path(guest, "mid"),
				bytes / 8 + (4 << 20), TS_CODEC_ZSTD, 16384, NULL), 1);
	CHECK_EQ(guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"),
				bytes * 2 + (32 << 20), TS_CODEC_ZSTD, 65536, NULL), 2);
}

static inline int guest_try_attach(struct guest *guest, struct ts_region_options options)
{
	options.size = sizeof(options);
	options.addr = guest->mem;
	options.len_bytes = guest->nr_pages * GUEST_PAGE;
	options.memfd = guest->memfd;
	options.memory = guest->memfd >= 0 ? TS_MEMORY_MEMFD : TS_MEMORY_ANON;
	return ts_region_attach(guest->engine, &options, &guest->region);
}

/* Where the kernel can't serve such memory the program ends as skipped, with the library's own
 * words, which name the kernel that can (tests/native holds that against the running one). */
static inline void guest_attach(struct guest *guest, struct ts_region_options options)
{
	int rc = guest_try_attach(guest, options);

	if (rc == TS_EUNSUPPORTED) {
		fprintf(stderr, "skipped: %s\n", ts_last_error());
		exit(77);
	}
	if (rc)
		fprintf(stderr, "attach: %s: %s\n", ts_strerror(rc), ts_last_error());
	CHECK_EQ(rc, 0);
}

/* A guest of nr_pages over one tier, attached; lz4. */
static inline void guest_begin(struct guest *guest, uint64_t nr_pages, bool is_memfd,
			       const char *store, uint32_t range_bytes,
			       struct ts_region_options options)
{
	guest_map(guest, nr_pages, is_memfd);
	guest_open(guest);
	CHECK_EQ(guest_add_tier(guest, "tier", store,
				strcmp(store, "ram") ? guest_path(guest, "tier") : NULL, 64 << 20,
				TS_CODEC_LZ4, range_bytes, NULL), 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	guest_attach(guest, options);
}

static inline struct ts_evict_result guest_evict(struct guest *guest, uint64_t bytes,
						 uint32_t age_min, bool no_probation)
{
	struct ts_evict_options options = { .size = sizeof(options), .bytes_max = bytes,
					    .age_min = age_min, .no_probation = no_probation };
	struct ts_evict_result result = { .size = sizeof(result) };

	CHECK_EQ(ts_region_evict(guest->region, &options, &result), 0);
	return result;
}

static inline struct ts_stats *guest_stats(struct guest *guest)
{
	static struct ts_stats stats;

	stats.size = sizeof(stats);
	CHECK_EQ(ts_stats_get(guest->engine, guest->region, &stats), 0);
	return &stats;
}

/* Full comparison; also what a guest that reads everything does. */
static inline void guest_check_all(struct guest *guest)
{
	for (uint64_t page = 0; page < guest->nr_pages; page++) {
		uint32_t version = atomic_load(&guest->versions[page]);
		if (version != GUEST_UNMAPPED)
			CHECK(guest_is_right(guest, page, version));
	}
}

/* Until so many pages are there: neighbours of what was touched last may be on their way back. */
static inline void guest_wait_resident(struct guest *guest, uint64_t nr_pages)
{
	for (unsigned ms = 0; guest_stats(guest)->nr_resident != nr_pages && ms < 60000; ms++)
		usleep(1000);
	CHECK_EQ(guest_stats(guest)->nr_resident, nr_pages);
}

static inline void guest_check_and_rest(struct guest *guest, uint64_t nr_pages)
{
	guest_check_all(guest);
	guest_wait_resident(guest, nr_pages);
}

static inline void guest_unmap(struct guest *guest)
{
	munmap(guest->mem, guest->nr_pages * GUEST_PAGE);
	if (guest->memfd >= 0)
		close(guest->memfd);
	free((void *)guest->versions);
}

static inline void guest_close(struct guest *guest)
{
	char command[128];

	ts_engine_close(guest->engine);
	guest->engine = NULL;
	guest_check_all(guest);
	snprintf(command, sizeof(command), "%s", guest->folder);
	char *argv[] = { "rm", "-rf", command, NULL };
	if (fork() == 0) {
		execvp("rm", argv);
		_exit(127);
	}
	guest_unmap(guest);
}

/* One touch: check, and every fourth time write a new version. */
static inline void guest_touch_page(struct guest *guest, uint64_t page, uint64_t random)
{
	uint32_t version = atomic_load(&guest->versions[page]);

	if (version >> 31 || !atomic_compare_exchange_strong(&guest->versions[page], &version,
							     version | 1u << 31))
		return;
	if (!guest_is_right(guest, page, version))
		atomic_fetch_add(&guest->nr_wrong, 1);
	if (random >> 60 < 4) {
		guest_fill(guest, page, ++version);
		atomic_fetch_add(&guest->nr_written, 1);
	}
	atomic_fetch_add(&guest->nr_touched, 1);
	atomic_store(&guest->versions[page], version);
}

/* Skewed: most go to an eighth of the pages. */
static inline void guest_touch(struct guest *guest, uint64_t random)
{
	uint64_t span = random % 8 ? guest->nr_pages / 8 + 1 : guest->nr_pages;

	guest_touch_page(guest, (random >> 8) % span, random);
}

static inline void *guest_worker(void *arg)
{
	struct guest *guest = arg;
	uint64_t state = (uintptr_t)&state;

	while (!atomic_load(&guest->is_stopping))
		guest_touch(guest, guest_mix(state += UINT64_C(0x9e3779b97f4a7c15)));
	return NULL;
}

#endif
