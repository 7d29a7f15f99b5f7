/* SPDX-License-Identifier: Apache-2.0
 *
 * program.c — a program that knows nothing of tiers, and knows every byte of its memory.
 *
 * Reads commands from stdin, one a line, and answers each with "ok" or with what was wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "forks.h"
#include "pages.h"

/* ---- Commands: each returns true, or false with a complaint ------------------------------- */

static bool map_area(size_t mib, int fd)
{
	struct area *area = &areas[nr_areas];

	area->nr_pages = mib * MIB / PAGE;
	area->fd = fd;
	area->addr = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE,
			  fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	area->generation = calloc(area->nr_pages, sizeof(uint32_t));
	if (area->addr == MAP_FAILED || !area->generation)
		return bad("map: %s", strerror(errno));
	nr_areas++;
	return true;
}

static bool map_memfd(size_t mib, const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(mib * MIB)))
		return bad("memfd: %s", strerror(errno));
	return map_area(mib, fd);
}

/* A filter that allows everything, and might as well not. */
static bool filter_calls(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = 1, .filter = &allow };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return bad("seccomp: %s", strerror(errno));
	return true;
}

/* A child that maps memory of its own: is it served, too?  It says its pid, and waits. */
static bool fork_and_map(size_t mib)
{
	char line[16];
	pid_t pid = fork();

	if (pid < 0)
		return bad("fork: %s", strerror(errno));
	if (pid)
		return wait_for(pid);
	unsigned first = nr_areas;
	if (!map_area(mib, -1))
		_exit(1);
	for (size_t page = 0; page < areas[first].nr_pages; page++)
		write_page(first, page, 5);
	printf("child %d\n", (int)getpid());
	fflush(stdout);
	_exit(!fgets(line, sizeof(line), stdin) || !check());
}

static bool dontneed(void)
{
	for (unsigned a = 0; a < nr_areas; a++) {
		size_t first = areas[a].nr_pages / 4, nr = areas[a].nr_pages / 4;
		char *addr = areas[a].addr + first * PAGE;
		if (areas[a].fd >= 0 && fallocate(areas[a].fd, FALLOC_FL_PUNCH_HOLE |
						  FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE),
						  (off_t)(nr * PAGE)))
			return bad("fallocate: %s", strerror(errno));
		if (areas[a].fd < 0 && madvise(addr, nr * PAGE, MADV_DONTNEED))
			return bad("madvise: %s", strerror(errno));
		memset(areas[a].generation + first, 0, nr * sizeof(uint32_t));
	}
	return check();
}

/* Elsewhere, and of another size. */
static bool move_to(unsigned a, size_t bytes)
{
	void *target = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *moved = mremap(areas[a].addr, areas[a].nr_pages * PAGE, bytes,
			     MREMAP_MAYMOVE | MREMAP_FIXED, target);

	if (moved == MAP_FAILED)
		return bad("mremap: %s", strerror(errno));
	areas[a].addr = moved;
	return true;
}

static bool move(unsigned a)
{
	size_t nr = areas[a].nr_pages;

	if (!move_to(a, 2 * nr * PAGE))
		return false;
	areas[a].generation = realloc(areas[a].generation, 2 * nr * sizeof(uint32_t));
	if (!areas[a].generation)
		return bad("realloc");
	memset(areas[a].generation + nr, 0, nr * sizeof(uint32_t));
	areas[a].nr_pages = 2 * nr;
	for (size_t page = nr; page < 2 * nr; page += 2)
		write_page(a, page, 9);
	return check();
}

static bool protect(unsigned a)
{
	size_t half = areas[a].nr_pages / 2 * PAGE;

	if (mprotect(areas[a].addr, half, PROT_READ))
		return bad("mprotect: %s", strerror(errno));
	for (size_t page = 0; page < areas[a].nr_pages; page += 5)
		if (!check_page(a, page))
			return false;
	if (mprotect(areas[a].addr, half, PROT_NONE) || sched_yield() ||
	    mprotect(areas[a].addr, half, PROT_READ | PROT_WRITE))
		return bad("mprotect: %s", strerror(errno));
	return check();
}

static bool lock(unsigned a)
{
	size_t half = areas[a].nr_pages / 2 * PAGE;
	unsigned char seen[1];

	if (mlock(areas[a].addr, half))
		return bad("mlock: %s", strerror(errno));
	if (mincore(areas[a].addr + half - PAGE, PAGE, seen) || !(seen[0] & 1))
		return bad("a locked page is not resident");
	return check();
}

/* A hole in the middle, and fresh memory in a part of it. */
static bool punch(unsigned a)
{
	size_t first = areas[a].nr_pages / 3, nr = areas[a].nr_pages / 3;
	char *addr = areas[a].addr + first * PAGE;

	if (munmap(addr, nr * PAGE) ||
	    mmap(addr, nr * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) != addr)
		return bad("munmap: %s", strerror(errno));
	memset(areas[a].generation + first, 0, nr * sizeof(uint32_t));
	for (size_t page = first; page < first + nr; page += 2)
		write_page(a, page, 11);
	return check();
}

static bool unmap(unsigned a)
{
	if (munmap(areas[a].addr, areas[a].nr_pages * PAGE))
		return bad("munmap: %s", strerror(errno));
	areas[a].nr_pages = 0;
	return true;
}

/* Through the kernel: out of one evicted page, into another. */
static bool through_pipe(unsigned a)
{
	int ends[2];

	if (pipe(ends))
		return bad("pipe: %s", strerror(errno));
	for (size_t page = 0; page + 1 < areas[a].nr_pages; page += 64) {
		if (write(ends[1], areas[a].addr + page * PAGE, PAGE) != PAGE ||
		    read(ends[0], areas[a].addr + (page + 1) * PAGE, PAGE) != PAGE)
			return bad("through a pipe: %s", strerror(errno));
		if (memcmp(areas[a].addr + page * PAGE, areas[a].addr + (page + 1) * PAGE, PAGE))
			return bad("page %zu changed on its way", page);
		write_page(a, page + 1, areas[a].generation[page + 1]);
	}
	close(ends[0]);
	close(ends[1]);
	return check();
}

static volatile bool was_right;

static void on_signal(int number)
{
	(void)number;
	was_right = check();
}

static bool in_handler(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	if (sigaction(SIGUSR1, &action, NULL) || raise(SIGUSR1))
		return bad("signal: %s", strerror(errno));
	return was_right;
}

/* What does a program see that is executed by this one? */
static bool spawn(void)
{
	extern char **environ;
	char *command[] = { "sh", "-c", "test -z \"$TIERSTORE_RUN$LD_PRELOAD\"", NULL };
	pid_t pid;

	if (posix_spawn(&pid, "/bin/sh", NULL, NULL, command, environ) || !wait_for(pid))
		return false;
	pid = fork();
	if (!pid) {
		execv("/bin/sh", command);
		_exit(127);
	}
	return wait_for(pid) && check();
}

static bool close_all(void)
{
	int lowest = open("/dev/null", O_RDONLY);

	if (lowest != 3 + (int)(areas[0].fd >= 0))
		return bad("the lowest descriptor was %d", lowest);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	return check();
}

/* ---- All at once ---------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t any(uint64_t below)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return (random_state >> 33) % below;
}

static bool storm_step(uint32_t step)
{
	unsigned a = (unsigned)any(nr_areas);
	size_t nr = areas[a].nr_pages, first = any(nr), some = 1 + any(nr / 8);

	some = some < nr - first ? some : nr - first;
	switch (any(40)) {
	case 0:
		return fork_and_check(step);
	case 1:
	case 2:
		return move_to(a, nr * PAGE);
	case 3:
	case 4:
		if (madvise(areas[a].addr + first * PAGE, some * PAGE, MADV_DONTNEED))
			return bad("madvise: %s", strerror(errno));
		memset(areas[a].generation + first, 0, some * sizeof(uint32_t));
		return true;
	case 5:
		return protect(a);
	default:
		for (size_t page = first; page < first + some; page++) {
			if (!check_page(a, page))
				return false;
			if (any(4) == 0)
				write_page(a, page, step);
		}
		return true;
	}
}

static bool storm(uint32_t nr_steps, uint64_t seed)
{
	random_state = seed;
	for (uint32_t step = 1; step <= nr_steps; step++)
		if (!storm_step(step))
			return false;
	return check();
}

/* Threads, each with an area of its own, while the first one forks, maps and unmaps. */
static _Atomic bool is_over;

struct worker {
	pthread_t thread;
	unsigned area;
	uint64_t random;
	bool is_right;
};

static uint64_t any_of(struct worker *worker, uint64_t below)
{
	worker->random = worker->random * 6364136223846793005ull + 1442695040888963407ull;
	return (worker->random >> 33) % below;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct area *area = &areas[worker->area];

	worker->is_right = true;
	for (uint32_t step = 1; !is_over && worker->is_right; step++) {
		size_t first = any_of(worker, area->nr_pages);
		size_t some = 1 + any_of(worker, area->nr_pages - first);
		if (any_of(worker, 50) == 0) {
			some = some / 8 + 1;
			worker->is_right = !madvise(area->addr + first * PAGE, some * PAGE,
						    MADV_DONTNEED);
			memset(area->generation + first, 0, some * sizeof(uint32_t));
		}
		for (size_t page = first; page < first + some && worker->is_right; page++) {
			worker->is_right = check_page(worker->area, page);
			if (any_of(worker, 8) == 0)
				write_page(worker->area, page, step);
		}
	}
	return NULL;
}

static bool with_threads(unsigned nr_rounds)
{
	struct worker workers[AREA_MAX];
	bool is_right = true;

	is_over = false;
	for (unsigned a = 0; a < nr_areas; a++) {
		workers[a] = (struct worker){ .area = a, .random = a + 1 };
		if (pthread_create(&workers[a].thread, NULL, work, &workers[a]))
			return bad("pthread_create");
	}
	for (unsigned round = 0; round < nr_rounds && is_right; round++) {
		size_t bytes = (size_t)(8 + round % 3) * MIB;
		char *brief = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (brief == MAP_FAILED)
			return bad("mmap: %s", strerror(errno));
		memset(brief, 1, bytes);
		pid_t pid = round % 4 ? 0 : fork();
		if (round % 4 == 0 && !pid)
			_exit(0);
		is_right = !pid || wait_for(pid);
		usleep(20000);
		is_right &= brief[0] == 1 && brief[bytes - 1] == 1 && !munmap(brief, bytes);
	}
	is_over = true;
	for (unsigned a = 0; a < nr_areas; a++)
		is_right &= !pthread_join(workers[a].thread, NULL) && workers[a].is_right;
	return is_right && check();
}

/* ---- The interpreter ------------------------------------------------------------------------ */

static bool obey(const char *command, unsigned long value, const char *text)
{
	static const struct {
		const char *name;
		bool (*run)(unsigned a);
	} on_area[] = { { "mremap", move }, { "mprotect", protect }, { "mlock", lock },
			{ "punch", punch }, { "munmap", unmap }, { "pipe", through_pipe } };
	static const struct {
		const char *name;
		bool (*run)(void);
	} on_all[] = { { "forkpty", fork_inside }, { "seccomp", filter_calls },
		       { "clone", clone_and_check },
		       { "forkfail", fork_and_fail },
		       { "forksignal", fork_in_handler }, { "dontneed", dontneed },
		       { "signal", in_handler }, { "spawn", spawn }, { "closeall", close_all } };

	for (size_t i = 0; i < sizeof(on_area) / sizeof(on_area[0]); i++)
		if (!strcmp(command, on_area[i].name))
			return on_area[i].run((unsigned)value);
	for (size_t i = 0; i < sizeof(on_all) / sizeof(on_all[0]); i++)
		if (!strcmp(command, on_all[i].name))
			return on_all[i].run();
	if (!strcmp(command, "map"))
		return map_area(value, -1);
	if (!strcmp(command, "memfd"))
		return map_memfd(value, text);
	if (!strcmp(command, "fork"))
		return fork_and_check((uint32_t)value);
	if (!strcmp(command, "forkmap"))
		return fork_and_map(value);
	if (!strcmp(command, "threads"))
		return with_threads((unsigned)value);
	if (!strcmp(command, "storm"))
		return storm((uint32_t)value, strtoul(text, NULL, 10));
	if (!strcmp(command, "fill"))
		fill((uint32_t)value);
	return check();
}

int main(void)
{
	char line[128], command[32], text[64];

	setvbuf(stdin, NULL, _IONBF, 0);
	printf("pid %d\n", (int)getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		unsigned long value = 0;
		text[0] = '\0';
		if (sscanf(line, "%31s %lu %63s", command, &value, text) < 1)
			continue;
		if (!strcmp(command, "exit"))
			value = ~0ul;
		puts(obey(command, value, text) ? "ok" : complaint);
		fflush(stdout);
		if (value == ~0ul)
			break;
	}
	return 0;
}
