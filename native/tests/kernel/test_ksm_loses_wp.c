/* SPDX-License-Identifier: Apache-2.0
 *
 * When KSM merges write-protected pages, what becomes of the protection?  On 6.18 the merged page
 * has lost it: a write breaks the sharing silently, where a WP fault was ordered.  So a tracker may
 * not trust WP on MADV_MERGEABLE memory.  KSM is switched on for the test's length only.
 */
#include "kern_thread.h"

static const char run_path[] = "/sys/kernel/mm/ksm/run";

static long read_number(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "re");
	if (!f || fscanf(f, "%ld", &value) != 1)
		KERN_SKIP("cannot read %s", path);
	CHECK_EQ(fclose(f), 0);
	return value;
}

static void write_number(const char *path, long value)
{
	FILE *f = fopen(path, "we");
	if (!f)
		KERN_SKIP("cannot write %s: %s", path, strerror(errno));
	fprintf(f, "%ld\n", value);
	CHECK_EQ(fclose(f), 0);
}

static long run_before;

static void restore(void)
{
	FILE *f = fopen(run_path, "we");
	if (f) {
		fprintf(f, "%ld\n", run_before);
		fclose(f);
	}
}

/* Every full scan sees each page once; pages must be seen unchanged before they are merged. */
static void wait_full_scans(int nr_scans)
{
	const char path[] = "/sys/kernel/mm/ksm/full_scans";
	long end = read_number(path) + nr_scans;
	for (int i = 0; read_number(path) < end; i++) {
		CHECK(i < KERN_TIMEOUT_MS);
		usleep(1000); /* paces the polling */
	}
}

int main(void)
{
	enum { NR = 64 };
	int uffd = kern_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *area = kern_anon(NR);
	kern_fill(area, NR, 'k');
	CHECK_EQ(kern_register(uffd, area, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_WP), 0);
	CHECK_EQ(kern_wp(uffd, area, NR * KERN_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	if (madvise(area, NR * KERN_PAGE, MADV_MERGEABLE))
		KERN_SKIP("madvise(MADV_MERGEABLE): %s", strerror(errno));
	run_before = read_number(run_path);
	CHECK_EQ(atexit(restore), 0);
	write_number(run_path, 1);
	wait_full_scans(4);
	if (kern_smaps_kib(area, "KSM:") == 0)
		KERN_SKIP("KSM merged nothing");

	char *merged = area + 7 * KERN_PAGE;
	CHECK(kern_is_present(merged));
	CHECK(!kern_is_wp(merged));
	merged[0] = 'w';
	CHECK(!kern_has_msg(uffd));
	return 0;
}
