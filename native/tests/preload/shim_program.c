/* SPDX-License-Identifier: Apache-2.0
 *
 * shim_program.c — both halves of the preload shim in one program, for sanitizers, which are
 * such shims themselves and can't be preloaded beside ours.
 *
 * The program's mmap(), munmap(), ... are those of native/preload/hooks.c under other names, so
 * that the engine's own are not; dlmopen() answers with the program, so that host.c finds the
 * agent there.  What is lost is the second namespace.  The process that starts it is the
 * controller: it evicts all there is, again and again, while the program does to its memory what
 * programs do, and checks every byte.
 */
#undef _FILE_OFFSET_BITS /* it puts the C library's own mmap64 in place of names as ours */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../preload/agent.h"
#include "../check.h"

enum { PAGE = 4096, MIB = 1 << 20, PATIENCE_MS = 60000, AREAS = 2 };

__attribute__((visibility("default"))) void *dlmopen(Lmid_t list, const char *path, int mode)
{
	(void)list;
	(void)path;
	return dlopen(NULL, mode);
}

#ifdef __SANITIZE_THREAD__
/* The agent thread of a child that a program with many threads has forked is what is tested; and
 * descriptors order nothing, for of the same number they are not the same: see make_memfd(). */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
	return "die_after_fork=0:io_sync=0";
}
#endif

static void pause_ms(unsigned ms)
{
	struct timespec time = { .tv_nsec = ms * 1000000L };

	nanosleep(&time, NULL);
}

/* ---- The program ------------------------------------------------------------------------ */

struct area {
	unsigned char *addr;
	size_t nr_pages;
	uint32_t *version;  /* by page; 0: zeros */
};

static uint64_t word_of(size_t area, size_t page, uint32_t version)
{
	return version ? (area << 56 | page << 24 | version) * UINT64_C(0x9e3779b97f4a7c15) : 0;
}

static void fill(struct area *areas, size_t n, size_t first, size_t nr_pages, uint32_t version)
{
	for (size_t page = first; page < first + nr_pages; page++) {
		uint64_t *words = (uint64_t *)(void *)(areas[n].addr + page * PAGE);
		for (size_t i = 0; i < PAGE / 8; i++)
			words[i] = word_of(n, page, version) + (version ? i : 0);
		areas[n].version[page] = version;
	}
}

static void check_all(const struct area *areas)
{
	for (size_t n = 0; n < AREAS; n++)
		for (size_t page = 0; page < areas[n].nr_pages; page++) {
			const uint64_t *words = (const void *)(areas[n].addr + page * PAGE);
			uint32_t version = areas[n].version[page];
			for (size_t i = 0; i < PAGE / 8; i++)
				CHECK_EQ(words[i], word_of(n, page, version) + (version ? i : 0));
		}
}

/* Until half of it has left. */
static void wait_away(const struct area *area)
{
	unsigned char present[8192];

	CHECK(area->nr_pages <= sizeof(present));
	for (unsigned ms = 0;; ms += 10) {
		size_t nr_present = 0;
		CHECK_EQ(mincore(area->addr, area->nr_pages * PAGE, present), 0);
		for (size_t page = 0; page < area->nr_pages; page++)
			nr_present += present[page] & 1;
		if (nr_present <= area->nr_pages / 2)
			return;
		CHECK(ms < PATIENCE_MS);
		pause_ms(10);
	}
}

static void wait_all_away(const struct area *areas)
{
	for (size_t n = 0; n < AREAS; n++)
		wait_away(&areas[n]);
}

static void map_area(struct area *area, size_t mib, int fd)
{
	area->nr_pages = mib * MIB / PAGE;
	area->addr = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE,
			  fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	CHECK(area->addr != MAP_FAILED);
	area->version = calloc(area->nr_pages * 2, sizeof(*area->version));
	CHECK(area->version != NULL);
}

static void check_in_child(const struct area *areas)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		check_all(areas);
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
}

/* Moved, lengthened, cut, replaced in the middle. */
static void change_mappings(struct area *areas)
{
	struct area *area = &areas[0];
	size_t bytes = area->nr_pages * PAGE;

	area->addr = mremap(area->addr, bytes, bytes + 4 * MIB, MREMAP_MAYMOVE);
	CHECK(area->addr != MAP_FAILED);
	area->nr_pages += 4 * MIB / PAGE;
	check_all(areas);
	fill(areas, 0, bytes / PAGE, 4 * MIB / PAGE, 2);
	wait_away(area);
	check_all(areas);
	CHECK(mmap(area->addr + 2 * MIB, MIB, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == area->addr + 2 * MIB);
	memset(area->version + 2 * MIB / PAGE, 0, MIB / PAGE * sizeof(*area->version));
	CHECK_EQ(munmap(area->addr + area->nr_pages * PAGE - MIB, MIB), 0);
	area->nr_pages -= MIB / PAGE;
	check_all(areas);
}

static void give_up(struct area *areas, int fd)
{
	size_t nr_pages = MIB / PAGE;

	wait_all_away(areas);
	CHECK_EQ(madvise(areas[0].addr, MIB, MADV_DONTNEED), 0);
	memset(areas[0].version, 0, nr_pages * sizeof(*areas[0].version));
	CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB), 0);
	CHECK_EQ(madvise(areas[1].addr + 2 * MIB, MIB, MADV_REMOVE), 0);
	memset(areas[1].version, 0, nr_pages * sizeof(*areas[1].version));
	memset(areas[1].version + 2 * nr_pages, 0, nr_pages * sizeof(*areas[1].version));
	check_all(areas);
}

/* The agent's table of descriptors is its own, which the thread sanitizer does not know: it takes
 * equal numbers for the same file.  So ours is no number that the agent has, at no time that it can
 * see. */
static int make_memfd(void)
{
	int low = (int)syscall(SYS_memfd_create, "shim", MFD_CLOEXEC);
	int fd = fcntl(low, F_DUPFD_CLOEXEC, 500);

	CHECK(low >= 0 && fd >= 0);
	CHECK_EQ(syscall(SYS_close, low), 0);
	return fd;
}

static int run_program(void)
{
	struct area areas[AREAS];
	int fd = make_memfd();

	CHECK_EQ(ftruncate(fd, 8 * MIB), 0);
	map_area(&areas[0], 8, -1);
	map_area(&areas[1], 8, fd);
	for (size_t n = 0; n < AREAS; n++)
		fill(areas, n, 0, areas[n].nr_pages, 1);
	wait_all_away(areas);
	check_all(areas);
	change_mappings(areas);
	give_up(areas, fd);
	/* The session ends and comes again; shared memory stays for good. */
	CHECK_EQ(madvise(areas[0].addr, PAGE, MADV_DONTFORK), 0);
	CHECK_EQ(madvise(areas[0].addr, PAGE, MADV_DOFORK), 0);
	check_in_child(areas);
	fill(areas, 0, 0, areas[0].nr_pages, 3);
	wait_away(&areas[0]);
	check_in_child(areas);
	check_all(areas);
	for (size_t n = 0; n < AREAS; n++) {
		CHECK_EQ(munmap(areas[n].addr, areas[n].nr_pages * PAGE), 0);
		free(areas[n].version);
	}
	return close(fd);
}

/* ---- The controller --------------------------------------------------------------------- */

struct controller {
	int listener, fds[3];
	pid_t program;
	int status;                  /* of the program, once it has ended */
	bool has_ended;
	uint64_t nr_evicted;
	unsigned nr_sessions;
};

static bool has_ended(struct controller *controller)
{
	if (!controller->has_ended)
		controller->has_ended = waitpid(controller->program, &controller->status,
						WNOHANG) == controller->program;
	return controller->has_ended;
}

/* Three connections, each with its hello. */
static bool meet(struct controller *controller)
{
	struct pollfd ready = { .fd = controller->listener, .events = POLLIN };

	for (unsigned n = 0; n < 3;) {
		struct tsp_head head;
		struct tsp_hello hello;
		if (has_ended(controller))
			return false;
		if (poll(&ready, 1, 50) < 1)
			continue;
		int fd = accept(controller->listener, NULL, NULL);
		CHECK(fd >= 0);
		CHECK_EQ(tsp_recv(fd, &head, sizeof(head)), 0);
		CHECK_EQ(head.len_bytes, sizeof(hello));
		CHECK_EQ(tsp_recv(fd, &hello, sizeof(hello)), 0);
		CHECK(hello.channel < 3);
		controller->fds[hello.channel] = fd;
		n++;
	}
	return true;
}

/* False: the session has ended. */
static bool ask(struct controller *controller, enum tsp_type type, uint32_t region,
		const void *payload, size_t len_bytes, void *answer, size_t cap_bytes, size_t *got)
{
	int fd = controller->fds[TSP_CONTROL];
	struct tsp_head head = { type, 0, region, (uint32_t)len_bytes };
	char rest[1024];

	if (send(fd, &head, sizeof(head), MSG_NOSIGNAL) != sizeof(head) ||
	    (len_bytes && send(fd, payload, len_bytes, MSG_NOSIGNAL) != (ssize_t)len_bytes) ||
	    tsp_recv(fd, &head, sizeof(head)))
		return false;
	bool fits = head.len_bytes <= cap_bytes;
	CHECK(fits || head.len_bytes <= sizeof(rest));
	*got = head.rc < 0 ? 0 : head.len_bytes;
	return !tsp_recv(fd, fits ? answer : rest, head.len_bytes);
}

static bool evict_all(struct controller *controller)
{
	static struct tsp_region regions[TSP_REGION_MAX];
	struct ts_evict_options all = { .size = sizeof(all), .bytes_max = UINT64_MAX };
	struct ts_evict_result result = { 0 };
	size_t len_bytes, got;
	char rest[1024];

	if (!ask(controller, TSP_LIST, 0, NULL, 0, regions, sizeof(regions), &len_bytes))
		return false;
	for (size_t i = 0; i < len_bytes / sizeof(*regions); i++) {
		uint32_t id = regions[i].id;
		if (!ask(controller, TSP_DEACTIVATE, id, NULL, 0, rest, sizeof(rest), &got) ||
		    !ask(controller, TSP_SCAN, id, NULL, 0, rest, sizeof(rest), &got) ||
		    !ask(controller, TSP_EVICT, id, &all, sizeof(all), &result, sizeof(result),
			 &got))
			return false;
		controller->nr_evicted += got == sizeof(result) ? result.nr_evicted : 0;
	}
	return true;
}

static void drive(struct controller *controller)
{
	struct tsp_config config = { .settle_ms = 50, .probation_ms = 20, .guard_scans = 1,
				     .nr_tiers = 1 };
	struct tsp_head head = { 0 };

	snprintf(config.tiers[0].name, sizeof(config.tiers[0].name), "warm");
	snprintf(config.tiers[0].store, sizeof(config.tiers[0].store), "ram");
	config.tiers[0].size_bytes = 64 << 20;
	config.tiers[0].codec = TS_CODEC_LZ4;
	while (meet(controller)) {
		int fd = controller->fds[TSP_CONTROL];
		bool is_well = !tsp_send(fd, TSP_CONFIG, 0, &config, sizeof(config)) &&
			       !tsp_recv(fd, &head, sizeof(head));
		CHECK(!is_well || (head.type == TSP_READY && !head.rc));
		controller->nr_sessions += is_well;
		while (is_well && evict_all(controller))
			pause_ms(20);
		for (unsigned i = 0; i < 3; i++)
			close(controller->fds[i]);
	}
}

/* Before exec nothing of ours has run in it: TIERSTORE_RUN is what turns the shim on. */
static pid_t start_program(const char *path)
{
	char text[160];

	snprintf(text, sizeof(text), "socket=%s;min=%d;anon=1;memfd=1", path, 2 * MIB);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		setenv("TIERSTORE_RUN", text, 1);
		execl("/proc/self/exe", "test_shim", "program", (char *)NULL);
		_exit(126);
	}
	return pid;
}

int main(int argc, char **argv)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct controller controller = { .listener = -1 };
	char folder[] = "/tmp/tierstore-shim-XXXXXX";

	if (argc > 1 && !strcmp(argv[1], "program"))
		return run_program();
	CHECK(mkdtemp(folder) != NULL);
	snprintf(name.sun_path, sizeof(name.sun_path), "%s/run", folder);
	controller.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(controller.listener >= 0);
	CHECK_EQ(bind(controller.listener, (struct sockaddr *)&name, sizeof(name)), 0);
	CHECK_EQ(listen(controller.listener, 16), 0);
	controller.program = start_program(name.sun_path);
	drive(&controller);
	unlink(name.sun_path);
	rmdir(folder);
	printf("%u sessions, %llu pages left\n", controller.nr_sessions,
	       (unsigned long long)controller.nr_evicted);
	CHECK_EQ(controller.status, 0);
	/* The first fork ends the first. */
	CHECK(controller.nr_sessions >= 2 && controller.nr_evicted >= 2 * 8 * MIB / PAGE);
	return 0;
}
