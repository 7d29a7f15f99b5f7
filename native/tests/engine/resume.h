/* SPDX-License-Identifier: Apache-2.0
 *
 * resume.h — for tests of what outlives a process: a guest whose memory and versions are shared
 * with the parent, engines in children that are killed, and a folder for tiers and state.
 */
#ifndef TS_TESTS_RESUME_H
#define TS_TESTS_RESUME_H

#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>

#include "guest.h"
#include "util/base.h"
#include "util/hook.h"

enum { RESUME_LOCKED = 1u << 31, RESUME_DIR_MAX = 64 };

static int resume_remove(const char *path, const struct stat *info, int flag, struct FTW *where)
{
	(void)info, (void)flag, (void)where;
	return remove(path);
}

/* Memory and versions in shared maps, so that they outlive any child. */
static inline void resume_guest_make(struct guest *guest, uint64_t nr_pages)
{
	guest_map(guest, nr_pages, true);
	free((void *)guest->versions);
	guest->versions = mmap(NULL, nr_pages * sizeof(*guest->versions), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(guest->versions != MAP_FAILED);
	snprintf(guest->folder, sizeof(guest->folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(guest->folder) != NULL);
}

static inline void resume_guest_end(struct guest *guest)
{
	munmap((void *)guest->versions, guest->nr_pages * sizeof(*guest->versions));
	munmap(guest->mem, guest->nr_pages * GUEST_PAGE);
	close(guest->memfd);
	nftw(guest->folder, resume_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* In a child: a mapping of its own, as another process would have. */
static inline void resume_guest_map(struct guest *guest)
{
	guest->mem = mmap(NULL, guest->nr_pages * GUEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  guest->memfd, 0);
	CHECK(guest->mem != MAP_FAILED);
}

static inline int resume_try_open(struct guest *guest, const char *state)
{
	struct ts_engine_options options = {
		.size = sizeof(options), .log = guest_log, .state_dir = guest_path(guest, state) };

	return ts_engine_open(&options, &guest->engine);
}

/* Two tiers, so that frames also move. */
static inline int resume_add_tiers(struct guest *guest, uint32_t demote_after_ms)
{
	uint64_t bytes = guest->nr_pages * GUEST_PAGE;
	struct ts_tier_options cool = {
		.size = sizeof(cool), .name = "cool", .store = "lmdb",
		.path = guest_path(guest, "cool"), .size_bytes = bytes + (8 << 20),
		.codec = TS_CODEC_LZ4, .range_bytes = 4096, .demote_after_ms = demote_after_ms,
	};

	int rc = ts_engine_add_tier(guest->engine, &cool);
	return rc < 0 ? rc : guest_add_tier(guest, "cold", "file", guest_path(guest, "cold"),
					    bytes * 2 + (32 << 20), TS_CODEC_ZSTD, 16384, NULL);
}

static inline void resume_open(struct guest *guest, uint32_t demote_after_ms)
{
	int rc = resume_try_open(guest, "state");

	if (!rc)
		rc = TS_MIN(resume_add_tiers(guest, demote_after_ms), 0);
	if (!rc)
		rc = ts_engine_start(guest->engine);
	if (rc)
		fprintf(stderr, "resume: %s\n", ts_last_error());
	CHECK_EQ(rc, 0);
}

static inline void resume_attach(struct guest *guest)
{
	guest_attach(guest, (struct ts_region_options){ .name = "vm", .is_persistent = 1,
							.restore = TS_RESTORE_AUTO });
}

/* Pages that somebody was at when the process died: the old version, the new one, or some words of
 * each; they get the new one.  All others are what they were. */
static inline void resume_check_all(struct guest *guest)
{
	for (uint64_t page = 0; page < guest->nr_pages; page++) {
		uint32_t version = atomic_load(&guest->versions[page]);
		const uint64_t *words = (const uint64_t *)(guest->mem + page * GUEST_PAGE);

		if (!(version & RESUME_LOCKED)) {
			CHECK(guest_is_right(guest, page, version));
			continue;
		}
		version &= ~RESUME_LOCKED;
		for (unsigned i = 0; i < GUEST_PAGE / 8; i++)
			CHECK(words[i] == guest_word(page, version, i) ||
			      words[i] == guest_word(page, version + 1, i));
		guest_fill(guest, page, version + 1);
		atomic_store(&guest->versions[page], version + 1);
	}
}

/* Runs fn in a child; its status as wait(2) says it. */
static inline int resume_child(struct guest *guest, void (*fn)(struct guest *guest, int arg),
			       int arg)
{
	int status = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		resume_guest_map(guest);
		fn(guest, arg);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

/* A host without memory of its own: folder and number of pages. */
static inline void resume_host_make(struct guest *host, uint64_t nr_pages)
{
	*host = (struct guest){ .nr_pages = nr_pages, .memfd = -1 };
	snprintf(host->folder, sizeof(host->folder), "/tmp/tierstore-test-XXXXXX");
	CHECK(mkdtemp(host->folder) != NULL);
}

/* As resume_child(). */
static inline int resume_host_child(struct guest *host, void (*fn)(struct guest *host, int arg),
				    int arg)
{
	int status = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		fn(host, arg);
		_exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static inline void resume_host_end(struct guest *host)
{
	nftw(host->folder, resume_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void resume_die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

#endif
