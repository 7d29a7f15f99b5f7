/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.h — program.c's memory: each page is the product of its area, its number and its
 * generation; generation 0 is zeros.
 */
#ifndef PAGES_H
#define PAGES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { PAGE = 4096, WORDS = PAGE / 8, AREA_MAX = 8, MIB = 1 << 20 };

struct area {
	char *addr;
	size_t nr_pages;
	uint32_t *generation;
	int fd;
};

static struct area areas[AREA_MAX];
static unsigned nr_areas;
static char complaint[256];

static bool bad(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(complaint, sizeof(complaint), format, args);
	va_end(args);
	return false;
}

static uint64_t word_of(unsigned area, size_t page, uint32_t generation, unsigned i)
{
	uint64_t seed = (uint64_t)area << 56 | (uint64_t)generation << 32 | page;

	/* Compressible, and different from every other page. */
	return generation ? seed * 0x9E3779B97F4A7C15ull + i / 8 : 0;
}

static void write_page(unsigned a, size_t page, uint32_t generation)
{
	uint64_t *words = (uint64_t *)(areas[a].addr + page * PAGE);

	for (unsigned i = 0; i < WORDS; i++)
		words[i] = word_of(a, page, generation, i);
	areas[a].generation[page] = generation;
}

static bool check_page(unsigned a, size_t page)
{
	const uint64_t *words = (const uint64_t *)(areas[a].addr + page * PAGE);

	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != word_of(a, page, areas[a].generation[page], i))
			return bad("area %u page %zu word %u is %llx", a, page, i,
				   (unsigned long long)words[i]);
	return true;
}

static bool check(void)
{
	for (unsigned a = 0; a < nr_areas; a++)
		for (size_t page = 0; page < areas[a].nr_pages; page++)
			if (!check_page(a, page))
				return false;
	return true;
}

static void fill(uint32_t generation)
{
	for (unsigned a = 0; a < nr_areas; a++)
		for (size_t page = 0; page < areas[a].nr_pages; page++)
			write_page(a, page, generation);
}

#endif
