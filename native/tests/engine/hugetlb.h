/* SPDX-License-Identifier: Apache-2.0
 *
 * hugetlb.h — guests in a memfd of 2 MiB pages, which the kernel keeps in a pool: a test asks for
 * as many as it needs and gives them back at its end. */
#ifndef TS_TESTS_HUGETLB_H
#define TS_TESTS_HUGETLB_H

#include "race.h"

enum { HUGE_BYTES = 2 << 20, UNIT = HUGE_BYTES / GUEST_PAGE };

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#define HUGE_POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"
static long huge_before = -1;

/* "nr_hugepages", "free_hugepages", "resv_hugepages"; -1: can't be read. */
static inline long huge_read(const char *name)
{
	char path[128];
	long nr = -1;

	snprintf(path, sizeof(path), HUGE_POOL "%s", name);
	FILE *file = fopen(path, "re");
	if (file && fscanf(file, "%ld", &nr) != 1)
		nr = -1;
	if (file)
		fclose(file);
	return nr;
}

static inline void huge_write(long nr)
{
	FILE *file = fopen(HUGE_POOL "nr_hugepages", "we");

	if (!file)
		return;
	fprintf(file, "%ld\n", nr);
	fclose(file);
}

/* Again and again: what a child still has goes later. */
static inline void huge_restore(void)
{
	struct timespec pause = { .tv_nsec = 10000000 };

	for (unsigned n = 0; huge_read("nr_hugepages") > huge_before && n < 200; n++) {
		huge_write(huge_before);
		nanosleep(&pause, NULL);
	}
}

/* Free ones that nobody has been promised. */
static inline long huge_nr_free(void)
{
	return huge_read("free_hugepages") - huge_read("resv_hugepages");
}

/* Are there so many free ones now, or can they be had?  Those of a guest that is gone come back
 * when the last child that was forked beside it has gone, too. */
static inline bool huge_reserve(long nr)
{
	struct timespec pause = { .tv_nsec = 10000000 };

	if (huge_before < 0) {
		huge_before = huge_read("nr_hugepages");
		if (huge_before < 0)
			return false;
		CHECK_EQ(atexit(huge_restore), 0);
	}
	for (unsigned n = 0; huge_nr_free() < nr && n < 500; n++) {
		if (n % 100 == 0)
			huge_write(huge_read("nr_hugepages") + nr - huge_nr_free());
		else
			nanosleep(&pause, NULL);
	}
	return huge_nr_free() >= nr;
}

static inline bool huge_works(void)
{
	struct ts_probe probe = { .size = sizeof(probe) };

	CHECK_EQ(ts_probe(&probe), 0);
	return probe.has_rwp_hugetlb;
}

#define NEED_HUGE(nr)                                              \
	do {                                                       \
		if (!huge_works())                                 \
			SKIP("RWP of hugetlbfs needs Linux 7.3.4"); \
		CHECK(huge_reserve(nr));                           \
	} while (0)

/* As guest_map(). */
static inline void guest_map_huge(struct guest *guest, uint64_t nr_units)
{
	CHECK(huge_reserve((long)nr_units));
	guest->nr_pages = nr_units * UNIT;
	guest->memfd = memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	CHECK(guest->memfd >= 0);
	CHECK_EQ(ftruncate(guest->memfd, (off_t)(nr_units * HUGE_BYTES)), 0);
	guest->mem = mmap(NULL, nr_units * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			  guest->memfd, 0);
	CHECK(guest->mem != MAP_FAILED);
	guest->versions = calloc(guest->nr_pages, sizeof(*guest->versions));
	CHECK(guest->versions != NULL);
	for (uint64_t page = 0; page < guest->nr_pages; page++)
		guest_fill(guest, page, 0);
}

#endif
