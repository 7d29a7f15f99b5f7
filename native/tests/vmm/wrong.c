/* SPDX-License-Identifier: Apache-2.0
 * wrong.c — the double's lies (wrong.h). */
#include "wrong.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../workload/content.h"

enum {
	NESTED_DEPTH = 200 * 1000,
	MANY_REGIONS = 50 * 1000,
	GARBAGE_BYTES = 3000,
	LONG_BYTES = 8 << 20,
};

static const char *const names[] = {
	"", "unregistered", "unmapped", "overlap", "wrap", "unaligned", "empty-region",
	"no-regions", "many-regions", "negative", "fraction", "text", "missing-key", "huge-offset",
	"other-offset",
	"version", "mode", "pid", "no-mode", "type", "truncated", "huge-length", "zero-length",
	"duplicate", "nested", "garbage", "long", "no-fd", "null-fd", "two-fds", "many-fds",
};

bool wrong_is_known(const char *name)
{
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

bool wrong_is(const struct handoff *handoff, const char *name)
{
	return strcmp(handoff->wrong, name) == 0;
}

static void put_number(char *text, uint64_t number)
{
	snprintf(text, sizeof(((struct wrong_region *)0)->addr), "%" PRIu64, number);
}

/* Memory of ours that is mapped, and that no userfaultfd knows. */
static uint64_t make_unregistered(uint64_t len_bytes)
{
	void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		ram_die(3, "mmap: no memory");
	return (uintptr_t)memory;
}

/* Spoils the last region of a right list. */
static void lie_about(const struct handoff *handoff, const struct ram *ram,
		      struct wrong_region *region)
{
	const struct ram_range *range = &ram->ranges[ram->nr_ranges - 1];
	uint64_t addr = (uintptr_t)range->addr;

	if (wrong_is(handoff, "unregistered"))
		put_number(region->addr, make_unregistered(range->len_bytes));
	if (wrong_is(handoff, "unmapped"))
		put_number(region->addr, UINT64_C(1) << 45);
	if (wrong_is(handoff, "wrap"))
		put_number(region->len, UINT64_MAX - (addr & ~UINT64_C(4095)) / 2);
	if (wrong_is(handoff, "unaligned"))
		put_number(region->addr, addr + 8);
	if (wrong_is(handoff, "empty-region"))
		put_number(region->len, 0);
	if (wrong_is(handoff, "negative"))
		snprintf(region->len, sizeof(region->len), "-4096");
	if (wrong_is(handoff, "fraction"))
		snprintf(region->len, sizeof(region->len), "4096.5");
	if (wrong_is(handoff, "text"))
		snprintf(region->len, sizeof(region->len), "\"4096\"");
	if (wrong_is(handoff, "huge-offset"))
		region->offset_bytes = UINT64_MAX - 4095;
	if (wrong_is(handoff, "other-offset"))
		region->offset_bytes += 4096;
}

unsigned wrong_regions(const struct handoff *handoff, const struct ram *ram,
		       struct wrong_region **list_out)
{
	unsigned nr = atomic_load(&ram->nr_ranges), nr_listed = nr;

	if (wrong_is(handoff, "overlap"))
		nr_listed = nr + 1;
	if (wrong_is(handoff, "many-regions"))
		nr_listed = MANY_REGIONS;
	struct wrong_region *list = calloc(nr_listed, sizeof(*list));
	if (!list)
		ram_die(3, "no memory");
	for (unsigned i = 0; i < nr_listed; i++) {
		const struct ram_range *range = &ram->ranges[i < nr ? i : nr - 1];
		put_number(list[i].addr, (uintptr_t)range->addr);
		put_number(list[i].len, range->len_bytes);
		list[i].offset_bytes = range->offset_bytes;
		list[i].guest_addr = range->guest_addr;
	}
	lie_about(handoff, ram, &list[nr_listed - 1]);
	*list_out = list;
	return wrong_is(handoff, "no-regions") ? 0 : nr_listed;
}

static void put_repeated(FILE *body, char c, unsigned nr)
{
	while (nr--)
		fputc(c, body);
}

bool wrong_body(const struct handoff *handoff, FILE *body)
{
	if (wrong_is(handoff, "nested")) {
		put_repeated(body, '[', NESTED_DEPTH);
	} else if (wrong_is(handoff, "long")) {
		fputs("[\"", body);
		put_repeated(body, 'x', LONG_BYTES);
		fputs("\"]", body);
	} else if (wrong_is(handoff, "garbage")) {
		for (unsigned i = 0; i < GARBAGE_BYTES; i++)
			fputc((int)(content_mix(i) & 255), body);
	} else if (wrong_is(handoff, "type")) {
		fputs(handoff->protocol == HANDOFF_FIRECRACKER ? "{\"regions\":[]}" :
								 "{\"type\":\"goodbye\"}", body);
	} else {
		return false;
	}
	return true;
}
