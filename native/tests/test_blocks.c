/* SPDX-License-Identifier: Apache-2.0
 *
 * test_blocks.c — what a scan remembers of words (page/blocks.h): ages, counts and heat come out as
 * if every word had been read each time, over many scans between which words change as evictions
 * and faults change them; also where they change while a scan is under way. */
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "content.h"
#include "track/age.h"

enum { NR_PAGES = 8192 + 40, BLOCK = TS_WORD_BLOCK, SCANS = 300, THREADS = 2 };

static uint64_t random_state = 7;

static uint64_t random_from(uint64_t *state)
{
	return content_random(state) >> 16;
}

static unsigned random_below(unsigned n)
{
	return (unsigned)(random_from(&random_state) % n);
}

/* Two regions alike: the words of one are remembered, those of the other read each time. */
static struct ts_region region, plain;

static void begin(void)
{
	memset(&region, 0, sizeof(region));
	memset(&plain, 0, sizeof(plain));
	CHECK_EQ(ts_region_pages_init(&region, NR_PAGES, NR_PAGES, 1), 0);
	CHECK_EQ(ts_region_pages_init(&plain, NR_PAGES, NR_PAGES, 1), 0);
}

static void end(void)
{
	ts_region_pages_finish(&region);
	ts_region_pages_finish(&plain);
}

/* As it happens to pages: into one of the states that the word may go to.  COMING has one owner,
 * who ends it; among several threads nobody is. */
static void change(struct ts_region *of, uint32_t page, uint64_t random, bool is_owner)
{
	ts_word word = ts_word_load(&of->words[page]);
	enum ts_state state = (enum ts_state)(random % TS_GONE);
	bool is_released = (state == TS_AWAY || state == TS_ZERO) && random / 8 % 2;
	ts_word to = ts_word_make(state, is_released ? TS_WORD_RELEASING : 0,
				  state == TS_AWAY ? (uint32_t)page : 0);

	if (is_owner && ts_word_is(word, TS_COMING) && ts_word_edge_is_legal(word, to))
		ts_word_finish(&of->words[page], to);
	else if (ts_word_edge_is_legal(word, to))
		(void)ts_word_swap(&of->words[page], &word, to);
}

static struct ts_scan_result scan(struct ts_region *of, const uint64_t *touched, bool has_blocks)
{
	struct ts_scan_result result = { 0 };
	struct ts_ages ages = { .has_blocks = has_blocks };

	ts_age_pages(of, 0, NR_PAGES, touched, &ages);
	ts_ages_report(&ages, &result);
	return result;
}

/* What is known of a block is so, and a deactivate may rely on it. */
static void check_flags(uint32_t nr_blocks)
{
	for (uint32_t block = 0; block < nr_blocks; block++) {
		uint64_t stamp = ts_block_stamp(&region.words[block * BLOCK]);
		unsigned flags = ts_block_flags(&region.blocks, block, stamp);
		bool is_plain = true;

		for (unsigned i = 0; i < BLOCK; i++) {
			ts_word word = ts_word_load(&region.words[block * BLOCK + i]);
			enum ts_state state = ts_word_state(word);

			is_plain = is_plain && (state == TS_RESIDENT || state == TS_AWAY ||
						state == TS_ZERO) &&
				   (state == TS_RESIDENT || !(word & TS_WORD_RELEASING));
			if (flags & TS_BLOCK_KNOWN)
				CHECK_EQ(region.blocks.resident[block] >> i & 1,
					 state == TS_RESIDENT);
		}
		if (flags & TS_BLOCK_KNOWN)
			CHECK_EQ(!!(flags & TS_BLOCK_PLAIN), is_plain);
	}
}

static void change_some(unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		uint32_t page = random_below(NR_PAGES);
		uint64_t random = random_from(&random_state);

		change(&region, page, random, true);
		change(&plain, page, random, true);
		if (random_below(4))
			continue;
		unsigned heat = ts_heat_make(random_below(256), random_below(3), random_below(16));
		ts_heat_store(&region.heat[page], heat);
		ts_heat_store(&plain.heat[page], heat);
	}
}

static void same_as_if_words_were_read(void)
{
	uint64_t touched[NR_PAGES / 64 + 1];

	begin();
	change_some(4 * NR_PAGES);
	for (unsigned round = 0; round < SCANS; round++) {
		memset(touched, 0, sizeof(touched));
		for (unsigned n = random_below(round % 3 ? 200 : 5000); n; n--) {
			uint32_t page = random_below(NR_PAGES);
			touched[page / 64] |= UINT64_C(1) << page % 64;
		}
		struct ts_scan_result now = scan(&region, touched, true);
		struct ts_scan_result expected = scan(&plain, touched, false);
		CHECK(memcmp(&now, &expected, sizeof(now)) == 0);
		for (uint32_t page = 0; page < NR_PAGES; page++) {
			CHECK_EQ(ts_word_load(&region.words[page]),
				 ts_word_load(&plain.words[page]));
			CHECK_EQ(ts_heat_load(&region.heat[page]), ts_heat_load(&plain.heat[page]));
		}
		check_flags(NR_PAGES / BLOCK);
		change_some(round % 4 ? random_below(100) : 0);
		check_flags(NR_PAGES / BLOCK);
	}
	end();
}

/* Else all this would test nothing: a word that changes and is not counted goes unnoticed. */
static void words_are_not_read_again(void)
{
	static const uint64_t touched[NR_PAGES / 64 + 1];
	ts_word word = ts_word_make(TS_ZERO, 0, 0);

	begin();
	CHECK_EQ(scan(&region, touched, true).nr_resident, 0);
	atomic_store(&region.words[100], ts_word_make(TS_RESIDENT, 0, 0));
	CHECK_EQ(scan(&region, touched, true).nr_resident, 0);
	CHECK_EQ(scan(&region, touched, false).nr_resident, 1);
	CHECK(ts_word_swap(&region.words[101], &word, ts_word_make(TS_RESIDENT, 0, 0)));
	CHECK_EQ(scan(&region, touched, true).nr_resident, 2);
	end();
}

enum { EPISODES = 1500, CHANGES = 300, CROWDED = 4 * BLOCK };

static pthread_barrier_t barrier;
static _Atomic unsigned nr_busy;

static void *change_in_episodes(void *arg)
{
	uint64_t state = (uintptr_t)arg;

	for (unsigned episode = 0; episode < EPISODES; episode++) {
		pthread_barrier_wait(&barrier);
		for (unsigned n = 0; n < CHANGES; n++) {
			uint64_t random = random_from(&state);
			change(&region, (uint32_t)(random >> 20) % CROWDED, random, false);
		}
		atomic_fetch_sub(&nr_busy, 1);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

/* A scan may miss what happens meanwhile, and the next must not.  The last change of each block is
 * what could go unnoticed for good. */
static void changes_during_scans_are_seen(void)
{
	static const uint64_t touched[CROWDED / 64];
	pthread_t threads[THREADS];
	struct ts_ages ages = { .has_blocks = true };

	begin();
	CHECK_EQ(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, change_in_episodes, (void *)(i + 1)), 0);
	for (unsigned episode = 0; episode < EPISODES; episode++) {
		atomic_store(&nr_busy, THREADS);
		pthread_barrier_wait(&barrier);
		while (atomic_load(&nr_busy))
			ts_age_pages(&region, 0, CROWDED, touched, &ages);
		pthread_barrier_wait(&barrier);
		check_flags(CROWDED / BLOCK);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	pthread_barrier_destroy(&barrier);
	end();
}

/* Blocks are one scan's at a time. */
static void taken_once(void)
{
	begin();
	CHECK(ts_blocks_take(&region.blocks));
	CHECK(!ts_blocks_take(&region.blocks));
	ts_blocks_give(&region.blocks);
	CHECK(ts_blocks_take(&region.blocks));
	end();
}

CHECK_MAIN({ "same_as_if_words_were_read", same_as_if_words_were_read },
	   { "words_are_not_read_again", words_are_not_read_again },
	   { "changes_during_scans_are_seen", changes_during_scans_are_seen },
	   { "taken_once", taken_once })
