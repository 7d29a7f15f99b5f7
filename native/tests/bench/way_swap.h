/* SPDX-License-Identifier: Apache-2.0
 *
 * way_swap.h — the kernel's swap: pages leave by MADV_PAGEOUT to whatever swap is on (the bench
 * sets it up), and come back by the kernel's faults.  With cgroup=FOLDER (v1, memory) this process
 * moves there first, and its swap cache is emptied after the pages left: on a disk they would
 * otherwise stay in memory, and coming back would cost nothing. */
#ifndef TS_TESTS_WAY_SWAP_H
#define TS_TESTS_WAY_SWAP_H

#include "way.h"

static struct {
	struct memory *memory;
	const char *cgroup;
} swap_state;

static void swap_write(const char *folder, const char *file, const char *text)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
	CHECK_EQ(close(fd), 0);
}

/* Before the memory is filled: pages are charged to the group of whoever touches them first. */
static void swap_enter(const struct measure_args *args)
{
	char pid[16];

	swap_state.cgroup = arg_text(args, "cgroup", NULL);
	if (!swap_state.cgroup)
		return;
	snprintf(pid, sizeof(pid), "%d", getpid());
	swap_write(swap_state.cgroup, "cgroup.procs", pid);
}

static void swap_open(const struct measure_args *args, struct memory *memory)
{
	(void)args;
	swap_state.memory = memory;
}

static void swap_leave(void)
{
	CHECK_EQ(madvise(swap_state.memory->mem, memory_bytes(swap_state.memory), MADV_PAGEOUT), 0);
}

/* Pages of ours that are in memory, in the swap cache included. */
static uint64_t swap_resident(void)
{
	unsigned char *vec = malloc(swap_state.memory->nr_pages);
	uint64_t nr = 0;

	CHECK(vec != NULL);
	CHECK_EQ(mincore(swap_state.memory->mem, memory_bytes(swap_state.memory), vec), 0);
	for (uint64_t i = 0; i < swap_state.memory->nr_pages; i++)
		nr += vec[i] & 1;
	free(vec);
	return nr;
}

static void swap_settle(void)
{
	for (unsigned i = 0; i < 5 && swap_state.cgroup && swap_resident(); i++)
		swap_write(swap_state.cgroup, "memory.force_empty", "1");
}

static void swap_report(void)
{
	json_number("resident_pages", (double)swap_resident());
}

static void swap_close(void)
{
}

static const struct way way_swap = { swap_open, swap_leave, swap_settle, swap_report, swap_close };

#endif
