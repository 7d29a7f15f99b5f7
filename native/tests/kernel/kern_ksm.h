/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_ksm.h — lets KSM merge a range, for the kernel tests.  KSM is switched on for as long as the
 * program runs, and then as it was.
 */
#ifndef TS_TESTS_KERNEL_KERN_KSM_H
#define TS_TESTS_KERNEL_KERN_KSM_H

#include "kern.h"

/* As they were, and as the test wants them: other programs' memory is scanned as well, and a full
 * scan must not take minutes. */
static struct {
	const char *path;
	long wanted, before;
} kern_ksm_settings[] = {
	{"/sys/kernel/mm/ksm/pages_to_scan", 20000, 0},
	{"/sys/kernel/mm/ksm/run", 1, 0},
};
enum { KERN_KSM_SETTINGS = sizeof kern_ksm_settings / sizeof kern_ksm_settings[0] };

static inline long kern_read_number(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "re");
	if (!f || fscanf(f, "%ld", &value) != 1)
		KERN_SKIP("cannot read %s", path);
	CHECK_EQ(fclose(f), 0);
	return value;
}

static inline void kern_write_number(const char *path, long value)
{
	FILE *f = fopen(path, "we");
	if (!f)
		KERN_SKIP("cannot write %s: %s", path, strerror(errno));
	fprintf(f, "%ld\n", value);
	CHECK_EQ(fclose(f), 0);
}

static inline void kern_ksm_restore(void)
{
	for (int i = KERN_KSM_SETTINGS; i-- > 0;) {
		FILE *f = fopen(kern_ksm_settings[i].path, "we");
		if (f) {
			fprintf(f, "%ld\n", kern_ksm_settings[i].before);
			fclose(f);
		}
	}
}

/* Every full scan sees each page once; pages must be seen unchanged before they are merged. */
static inline void kern_ksm_wait_scans(int nr_scans)
{
	const char path[] = "/sys/kernel/mm/ksm/full_scans";
	long end = kern_read_number(path) + nr_scans;
	uint64_t end_ms = kern_now_ms() + KERN_TIMEOUT_MS;
	while (kern_read_number(path) < end) {
		CHECK(kern_now_ms() < end_ms);
		usleep(1000); /* paces the polling */
	}
}

/* Returns when pages of the range have been merged; they must be alike. */
static inline void kern_ksm_merge(void *addr, size_t len_bytes)
{
	if (madvise(addr, len_bytes, MADV_MERGEABLE))
		KERN_SKIP("madvise(MADV_MERGEABLE): %s", strerror(errno));
	for (int i = 0; i < KERN_KSM_SETTINGS; i++)
		kern_ksm_settings[i].before = kern_read_number(kern_ksm_settings[i].path);
	CHECK_EQ(atexit(kern_ksm_restore), 0);
	for (int i = 0; i < KERN_KSM_SETTINGS; i++)
		kern_write_number(kern_ksm_settings[i].path, kern_ksm_settings[i].wanted);
	kern_ksm_wait_scans(4);
	long kib = kern_smaps_find(addr, "KSM:");
	if (kib < 0)
		KERN_SKIP("smaps does not count what KSM merged: Linux 6.6");
	if (kib == 0)
		KERN_SKIP("KSM merged nothing");
}

#endif
