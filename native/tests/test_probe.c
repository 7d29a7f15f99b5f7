/* SPDX-License-Identifier: Apache-2.0
 *
 * test_probe.c — ts_probe() tells the truth, leaves nothing behind, and survives every failure.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "os/uapi.h"
#include "tierstore/tierstore.h"
#include "util/hook.h"

static unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned nr_fds = 0;

	CHECK(dir != NULL);
	while (readdir(dir))
		nr_fds++;
	CHECK_EQ(closedir(dir), 0);
	return nr_fds;
}

static struct ts_probe probed(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	return probe;
}

/* Every "works" must be backed by the kernel's own feature bit, and "no uffd" by an errno. */
static void answers_agree_with_each_other(void)
{
	struct ts_probe probe = probed();
	struct utsname name;

	CHECK_EQ(uname(&name), 0);
	CHECK(strcmp(probe.kernel_release, name.release) == 0);
	CHECK_EQ(probe.has_io_uring, probe.io_uring_error == 0);
	CHECK(probe.uffd_error <= 0);
	if (probe.uffd_error) {
		CHECK_EQ(probe.uffd_features, 0);
		CHECK(!probe.has_wp && !probe.has_move && !probe.has_rwp && !probe.has_sigbus);
		return;
	}
	CHECK(!probe.has_wp_async || (probe.uffd_features & UFFD_FEATURE_WP_ASYNC));
	CHECK(!probe.has_move || (probe.uffd_features & UFFD_FEATURE_MOVE));
	CHECK(!probe.has_poison || (probe.uffd_features & UFFD_FEATURE_POISON));
	CHECK(!probe.has_rwp || (probe.uffd_features & UFFD_FEATURE_RWP));
	CHECK(!probe.has_rwp || probe.has_pagemap_scan);
}

/* Nothing that this kernel's version promises may be reported missing: a broken trial would hide
 * a feature for good, and nobody would notice. */
static void nothing_known_is_missed(void)
{
	struct ts_probe probe = probed();
	int major = 0, minor = 0, version;

	if (probe.uffd_error)
		SKIP("no userfaultfd here");
	CHECK_EQ(sscanf(probe.kernel_release, "%d.%d", &major, &minor), 2);
	version = major * 1000 + minor;
#if defined(__x86_64__)
	CHECK(version < 4014 || (probe.has_missing_shmem && probe.has_sigbus));
	CHECK(version < 4014 || (probe.has_thread_id && probe.has_event_remove));
	CHECK(version < 4014 || (probe.has_event_unmap && probe.has_event_remap));
	CHECK(version < 5007 || probe.has_wp);
	CHECK(version < 5014 || probe.has_minor_shmem);
	CHECK(version < 5019 || probe.has_wp_shmem);
	CHECK(version < 6004 || probe.has_wp_unpopulated);
	CHECK(version < 6006 || probe.has_poison);
	CHECK(version < 6007 || (probe.has_wp_async && probe.has_pagemap_scan));
	CHECK(version < 6008 || probe.has_move);
	CHECK_EQ(probe.has_rwp, version >= 7003);
	CHECK_EQ(probe.has_rwp_shmem, version >= 7003);
	/* Of 7.3 only the later ones, and where huge pages are built in. */
	CHECK(!probe.has_rwp_hugetlb || version >= 7003);
#else
	(void)version;
	SKIP("which version brought what is known for x86-64 alone");
#endif
}

static void nothing_stays_open(void)
{
	unsigned before = count_fds();

	for (unsigned i = 0; i < 3; i++)
		(void)probed();
	CHECK_EQ(count_fds(), before);
}

/* Without privileges the answer is an errno and no features, not a failure. */
static void without_privileges(void)
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		struct ts_probe probe = { .size = sizeof(probe) };
		FILE *sysctl;
		char on = '0';

		if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
			_exit(2);
		sysctl = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
		if (sysctl && fread(&on, 1, 1, sysctl) == 1 && on == '1')
			_exit(77);
		if (access("/dev/userfaultfd", R_OK | W_OK) == 0)
			_exit(77);
		if (ts_probe(&probe) != 0)
			_exit(3);
		if (probe.uffd_error != -EPERM || probe.uffd_features || probe.has_wp)
			_exit(4);
		_exit(probe.kernel_release[0] ? 0 : 5);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		SKIP("anybody may use userfaultfd on this machine");
	CHECK_EQ(WEXITSTATUS(status), 0);
}

/* A caller compiled for another version of the struct. */
static void other_sizes(void)
{
	struct {
		struct ts_probe probe;
		char guard[64];
	} larger;
	struct ts_probe probe = probed(), smaller;

	memset(&larger, 0x5a, sizeof(larger));
	larger.probe.size = sizeof(larger);
	CHECK_EQ(ts_probe(&larger.probe), 0);
	CHECK_EQ(larger.guard[0], 0);  /* what this library lacks reads as zero */
	CHECK_EQ(larger.probe.size, sizeof(larger));
	memset(&smaller, 0x5a, sizeof(smaller));
	smaller.size = offsetof(struct ts_probe, has_move);
	CHECK_EQ(ts_probe(&smaller), 0);
	CHECK_EQ(smaller.uffd_features, probe.uffd_features);
	CHECK_EQ(smaller.has_move, 0x5a);
	smaller.size = 7;
	CHECK_EQ(ts_probe(&smaller), TS_EVERSION);
}

/* Whatever call fails, the probe says less, never more, and leaks nothing. */
static void every_failed_call(void)
{
#ifdef TS_HOOKS
	struct ts_probe whole = probed(), probe;
	unsigned before = count_fds();
	uint64_t failed, nth = 0;

	do {
		ts_hook_inject(~0ull, ++nth, EIO, 0);
		probe = (struct ts_probe){ .size = sizeof(probe) };
		CHECK_EQ(ts_probe(&probe), 0);
		(void)ts_hook_inject_count(&failed);
		CHECK(probe.has_wp <= whole.has_wp && probe.has_move <= whole.has_move);
		CHECK(probe.has_poison <= whole.has_poison && probe.has_rwp <= whole.has_rwp);
		CHECK_EQ(count_fds(), before);
	} while (failed > 0);
	ts_hook_inject(0, 0, 0, 0);
	CHECK(nth > 3);
	CHECK(memcmp(&probe, &whole, sizeof(probe)) == 0);
#else
	SKIP("built without hooks");
#endif
}

CHECK_MAIN({ "answers_agree_with_each_other", answers_agree_with_each_other },
	   { "nothing_known_is_missed", nothing_known_is_missed },
	   { "nothing_stays_open", nothing_stays_open },
	   { "without_privileges", without_privileges },
	   { "other_sizes", other_sizes },
	   { "every_failed_call", every_failed_call })
