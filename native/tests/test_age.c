/* SPDX-License-Identifier: Apache-2.0
 *
 * test_age.c — pages aged many at a time (track/age.h) against the rule for one page, written down
 * once more here, on words, heat and bitmaps of every kind.  By vectors on a CPU with AVX2, four at
 * a time on others and under the thread sanitizer. */
#include <string.h>

#include "check.h"
#include "content.h"
#include "track/age.h"

enum { NR_PAGES = 2048, ROUNDS = 400, GUARD = 3 };

static struct ts_region region;
static uint64_t random_state = 42;

static unsigned random_below(unsigned n)
{
	return (unsigned)(content_random(&random_state) >> 16) % n;
}

/* Mostly of one kind for 64 pages, as in a guest, and then one that is not. */
static ts_word random_word(unsigned kind)
{
	unsigned state = random_below(100) ? kind : random_below(TS_STATE_COUNT);

	return ts_word_make((enum ts_state)state, 0, state == TS_AWAY ? random_below(1000) : 0);
}

static uint16_t random_heat(void)
{
	unsigned guard = random_below(50) ? 0 : random_below(GUARD + 1);
	unsigned age = random_below(8) ? random_below(4) : 250 + random_below(6);

	return (uint16_t)ts_heat_make(age, guard, random_below(16));
}

struct expected {
	ts_word words[NR_PAGES];
	uint16_t heat[NR_PAGES];
	struct ts_scan_result result;
};

/* The rule for one page. */
static void expect_page(struct expected *to, uint32_t page, bool is_touched)
{
	unsigned guard = ts_heat_guard(to->heat[page]);
	bool is_zero = to->words[page] == ts_word_make(TS_ZERO, 0, 0);

	if (is_touched && is_zero) {
		to->heat[page] = ts_heat_scanned(to->heat[page], true);
		if (!guard)
			to->words[page] = ts_word_make(TS_RESIDENT, 0, 0);
	}
	if (!ts_word_is(to->words[page], TS_RESIDENT))
		return;
	uint16_t heat = ts_heat_scanned(to->heat[page], is_touched);
	to->heat[page] = heat;
	to->result.nr_resident++;
	to->result.nr_touched += is_touched;
	to->result.nr_cold += !is_touched;
	to->result.nr_guarded += ts_heat_guard(heat) > 0;
	to->result.nr_by_age[ts_heat_guard(heat) ? 0 : TS_MIN(ts_heat_age(heat), 63u)]++;
}

static void fill(struct expected *to, uint64_t *touched, uint32_t first_page)
{
	unsigned kind = 0, often = 1 + random_below(20);

	memset(to, 0, sizeof(*to));
	memset(touched, 0, NR_PAGES / 8);
	for (uint32_t page = 0; page < NR_PAGES; page++) {
		if (page % 64 == 0)
			kind = random_below(2) ? TS_RESIDENT : random_below(TS_STATE_COUNT);
		to->words[page] = random_word(kind);
		to->heat[page] = random_heat();
		atomic_store(&region.words[page], to->words[page]);
		ts_heat_store(&region.heat[page], to->heat[page]);
		if (page >= first_page && !random_below(often))
			touched[(page - first_page) / 64] |=
				UINT64_C(1) << (page - first_page) % 64;
	}
}

static void compare(uint32_t first_page, uint32_t nr_pages)
{
	static struct expected expected;
	struct ts_scan_result result = { 0 };
	struct ts_ages ages = { 0 };
	uint64_t touched[NR_PAGES / 64];

	fill(&expected, touched, first_page);
	for (uint32_t i = 0; i < nr_pages; i++)
		expect_page(&expected, first_page + i, touched[i / 64] >> i % 64 & 1);
	ts_age_pages(&region, first_page, nr_pages, touched, &ages);
	ts_ages_report(&ages, &result);
	for (uint32_t page = 0; page < NR_PAGES; page++) {
		CHECK_EQ(atomic_load(&region.words[page]), expected.words[page]);
		CHECK_EQ(ts_heat_load(&region.heat[page]), expected.heat[page]);
	}
	CHECK(memcmp(&result, &expected.result, sizeof(result)) == 0);
}

int main(void)
{
	CHECK_EQ(ts_region_pages_init(&region, NR_PAGES, NR_PAGES, 1), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		/* Aligned and not, whole and with a tail. */
		uint32_t first_page = round % 3 ? random_below(8) * 4 : random_below(100);
		uint32_t nr_pages = NR_PAGES - first_page - random_below(200);

		compare(first_page, nr_pages);
	}
	ts_region_pages_finish(&region);
	return 0;
}
