/* SPDX-License-Identifier: Apache-2.0
 *
 * double.c — vmm_double, a stand-in for the VMMs that hand their guest memory to a manager.
 *
 * It makes guest RAM with contents that verify themselves, registers it with a userfaultfd, hands
 * that over as Firecracker or Cloud Hypervisor do (handoff.h), and lets vCPU threads loose on it
 * (vcpu.h).  A test tells it what to do by lines on stdin and reads lines of JSON from stdout:
 *
 *   run | pause            vCPUs go; come to rest
 *   verify [random]        every page is read and compared
 *   balloon PAGE NR [HOW]  the guest gives pages up (ram.h)
 *   hotadd BYTES           one more range, filled, registered, announced
 *   resume [PATH]          hands over again, to the next manager
 *   disconnect             closes the connection, keeps the userfaultfd
 *   frame TEXT             sends TEXT as a message and awaits the answer
 *   ranges                 the ranges, with what is resident of each; answers at once
 *   stats                  counts so far, who is blocked, what is resident; answers at once
 *   vanish                 ends in the middle of whatever it does, with code 9
 *   quit                   ends; 1 if a byte was wrong, else 0
 *
 * run, pause, verify and balloon touch guest memory and happen one after the other on a thread of
 * their own, for they may be blocked by a page that nobody serves; the others answer meanwhile.
 * Exit codes besides: 2 bad usage, 3 the hand-over failed, 77 the kernel can't.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "handoff.h"
#include "ram.h"
#include "vcpu.h"
#include "wrong.h"

enum { LINE_MAX_BYTES = 4096, JOBS_MAX = 64, EXIT_HANDOFF = 3 };

static struct ram ram = { .seed = 1 };
static struct handoff handoff = {
	.uffd = -1, .socket = -1, .wrong = "", .vanish = "", .page_size_fields = 2,
	.patience_ms = 2000,
};
static struct vcpu_options vcpu_options = {
	.nr_vcpus = 1, .touches_per_s = 2000, .hot_pct = 10, .write_pct = 30,
};
static uint64_t start_bytes[RAM_RANGES_MAX] = { 16 << 20 };
static unsigned nr_start = 1;
static const char *snapshot_out;

/* ---- Options ---------------------------------------------------------------------------- */

static const char usage[] =
	"usage: vmm_double --protocol firecracker|cloud-hypervisor --socket PATH [OPTIONS]\n"
	"  --ranges BYTES,BYTES...  guest RAM (default 16M); K, M, G are understood\n"
	"  --memory anon|memfd      default: anon for firecracker, memfd for cloud-hypervisor\n"
	"  --one-memfd              all ranges of the start in one memfd\n"
	"  --contents pattern|empty|file:PATH   what it must hold (file: RAM is empty)\n"
	"  --mode TOKENS            MISSING|WP|WP_UNPOPULATED|WP_ASYNC|RWP|RWP_ASYNC\n"
	"  --memfds                 send the memfds, too\n"
	"  --no-remove              firecracker: without EVENT_REMOVE\n"
	"  --page-size-fields 0..2  firecracker: older releases say less\n"
	"  --fd-late                the descriptors come after the first byte\n"
	"  --slow MS                the message comes byte by byte\n"
	"  --patience MS            for an answer (default 2000, as Cloud Hypervisor)\n"
	"  --wrong NAME             a misbehaviour (wrong.h)\n"
	"  --vanish STEP            connect, message, handoff, ready\n"
	"  --vcpus N --rate N --hot PCT --writes PCT --seed N\n"
	"  --write-snapshot PATH    write the memory file of the pattern, and end\n";

_Noreturn static void bad_usage(const char *what)
{
	fprintf(stderr, "vmm_double: %s\n%s", what, usage);
	exit(2);
}

static uint64_t to_number(const char *text)
{
	char *end;
	uint64_t number = strtoull(text, &end, 0);
	const char *const units = "KMG", *unit = *end ? strchr(units, *end) : NULL;

	if (end == text || (*end && (!unit || end[1])))
		bad_usage("not a number");
	return unit ? number << 10 * (unit - units + 1) : number;
}

static void set_ranges(char *text)
{
	char *rest = NULL;

	nr_start = 0;
	for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		if (nr_start == RAM_RANGES_MAX)
			bad_usage("too many ranges");
		start_bytes[nr_start++] = to_number(one);
	}
}

static void set_contents(const char *text)
{
	if (strncmp(text, "file:", 5) == 0)
		ram_use_file(&ram, text + 5);
	else if (strcmp(text, "empty") == 0)
		ram.contents = RAM_EMPTY;
	else if (strcmp(text, "pattern") != 0)
		bad_usage("--contents is pattern, empty, or file:PATH");
}

static void set_protocol(const char *text)
{
	bool is_firecracker = strcmp(text, "firecracker") == 0;

	if (!is_firecracker && strcmp(text, "cloud-hypervisor") != 0)
		bad_usage("--protocol is firecracker or cloud-hypervisor");
	handoff.protocol = is_firecracker ? HANDOFF_FIRECRACKER : HANDOFF_CLOUD_HYPERVISOR;
}

static const struct option options[] = {
	{ "protocol", 1, NULL, 'p' }, { "socket", 1, NULL, 's' }, { "ranges", 1, NULL, 'r' },
	{ "memory", 1, NULL, 'm' }, { "one-memfd", 0, NULL, '1' }, { "contents", 1, NULL, 'c' },
	{ "mode", 1, NULL, 'M' }, { "memfds", 0, NULL, 'f' }, { "no-remove", 0, NULL, 'R' },
	{ "page-size-fields", 1, NULL, 'P' }, { "fd-late", 0, NULL, 'l' },
	{ "slow", 1, NULL, 'b' }, { "patience", 1, NULL, 'T' },
	{ "wrong", 1, NULL, 'w' }, { "vanish", 1, NULL, 'v' },
	{ "vcpus", 1, NULL, 'n' }, { "rate", 1, NULL, 't' }, { "hot", 1, NULL, 'h' },
	{ "writes", 1, NULL, 'W' }, { "seed", 1, NULL, 'S' }, { "write-snapshot", 1, NULL, 'o' },
	{ NULL, 0, NULL, 0 },
};

/* Of the guest; false: not one of these. */
static bool set_guest_option(int option, char *text)
{
	switch (option) {
	case 'r': set_ranges(text); break;
	case '1': ram.is_one_memfd = true; break;
	case 'n': vcpu_options.nr_vcpus = (unsigned)to_number(text); break;
	case 't': vcpu_options.touches_per_s = (unsigned)to_number(text); break;
	case 'h': vcpu_options.hot_pct = (unsigned)to_number(text); break;
	case 'W': vcpu_options.write_pct = (unsigned)to_number(text); break;
	case 'S': ram.seed = to_number(text); break;
	case 'o': snapshot_out = text; break;
	case 'c': set_contents(text); break;
	default: return false;
	}
	return true;
}

static void set_handoff_option(int option, const char *text)
{
	switch (option) {
	case 'p': set_protocol(text); break;
	case 's': handoff.path = text; break;
	case 'M': handoff.mode = text; break;
	case 'f': handoff.has_memfds = true; break;
	case 'R': handoff.has_no_remove = true; break;
	case 'P': handoff.page_size_fields = (unsigned)to_number(text); break;
	case 'l': handoff.is_fd_late = true; break;
	case 'b': handoff.byte_delay_ms = (unsigned)to_number(text); break;
	case 'T': handoff.patience_ms = (unsigned)to_number(text); break;
	case 'w': handoff.wrong = text; break;
	case 'v': handoff.vanish = text; break;
	default: bad_usage("unknown option");
	}
}

static void parse(int argc, char **argv)
{
	const char *memory = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'm')
			memory = optarg;
		else if (!set_guest_option(option, optarg))
			set_handoff_option(option, optarg);
	}
	if (optind != argc)
		bad_usage("unknown argument");
	bool is_firecracker = handoff.protocol == HANDOFF_FIRECRACKER;
	ram.is_memfd = memory ? strcmp(memory, "memfd") == 0 : !is_firecracker;
	if (memory && !ram.is_memfd && strcmp(memory, "anon") != 0)
		bad_usage("--memory is anon or memfd");
	if (ram.is_memfd && is_firecracker)
		ram.is_one_memfd = true;
	if (!handoff.mode)
		handoff.mode = is_firecracker ? "MISSING" : "MISSING|WP";
	if (!wrong_is_known(handoff.wrong) || vcpu_options.nr_vcpus > VCPU_MAX)
		bad_usage("--wrong is not one of wrong.h's, or too many --vcpus");
	if (!handoff.path && !snapshot_out)
		bad_usage("--socket is missing");
}

/* ---- Jobs: what may be blocked by guest memory ------------------------------------------ */

struct job {
	char line[LINE_MAX_BYTES];
};

static pthread_mutex_t job_lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards the next four. */
static pthread_cond_t job_added = PTHREAD_COND_INITIALIZER;
static struct job jobs[JOBS_MAX];
static unsigned nr_jobs, first_job;
static _Atomic uint64_t job_started_ns;

static void verify(bool is_random)
{
	uint64_t nr_pages = atomic_load(&ram.nr_pages), nr_wrong = 0, nr_poisoned = 0;
	uint64_t wait_ns_max = 0, start_ns = ram_now_ns();
	/* A stride without a common divisor walks through all pages once. */
	uint64_t stride = is_random ? 1000003 : 1;

	for (uint64_t i = 0; i < nr_pages; i++) {
		struct ram_touch touch =
			ram_touch_page(&ram, i * stride % nr_pages, false, &job_started_ns);
		nr_wrong += touch.is_wrong;
		nr_poisoned += touch.is_poisoned;
		if (touch.wait_ns > wait_ns_max)
			wait_ns_max = touch.wait_ns;
	}
	ram_say("{\"event\":\"verify\",\"pages\":%" PRIu64 ",\"mismatches\":%" PRIu64
		",\"poisoned\":%" PRIu64 ",\"wait_max_us\":%" PRIu64 ",\"seconds\":%.3f}",
		nr_pages, nr_wrong, nr_poisoned, wait_ns_max / 1000,
		(double)(ram_now_ns() - start_ns) / 1e9);
}

static void balloon(const char *line)
{
	uint64_t page, nr_pages;
	char how[32] = "";
	int nr = sscanf(line, "balloon %" SCNu64 " %" SCNu64 " %31s", &page, &nr_pages, how);

	if (nr < 2 || page + nr_pages > atomic_load(&ram.nr_pages)) {
		ram_say("{\"event\":\"error\",\"text\":\"balloon PAGE NR [HOW]\"}");
		return;
	}
	if (nr < 3)
		snprintf(how, sizeof(how), ram.is_memfd ? "punch+dontneed" : "dontneed");
	int rc = ram_balloon(&ram, page, nr_pages, how);
	ram_say("{\"event\":\"balloon\",\"pages\":%" PRIu64 ",\"how\":\"%s\",\"error\":%d}",
		nr_pages, how, rc);
}

static void do_job(const char *line)
{
	if (strncmp(line, "verify", 6) == 0) {
		verify(strcmp(line + 6, " random") == 0);
	} else if (strncmp(line, "balloon", 7) == 0) {
		balloon(line);
	} else if (strcmp(line, "run") == 0) {
		vcpu_run();
		ram_say("{\"event\":\"running\"}");
	} else {
		vcpu_pause();
		ram_say("{\"event\":\"paused\"}");
	}
}

static void *job_main(void *unused)
{
	struct job job;

	(void)unused;
	for (;;) {
		pthread_mutex_lock(&job_lock);
		while (!nr_jobs)
			pthread_cond_wait(&job_added, &job_lock);
		job = jobs[first_job];
		first_job = (first_job + 1) % JOBS_MAX;
		nr_jobs--;
		pthread_mutex_unlock(&job_lock);
		do_job(job.line);
	}
	return NULL;
}

static bool add_job(const char *line)
{
	pthread_mutex_lock(&job_lock);
	bool has_room = nr_jobs < JOBS_MAX;
	if (has_room) {
		struct job *job = &jobs[(first_job + nr_jobs++) % JOBS_MAX];
		snprintf(job->line, sizeof(job->line), "%s", line);
		pthread_cond_signal(&job_added);
	}
	pthread_mutex_unlock(&job_lock);
	return has_room;
}

/* ---- Commands that answer at once ------------------------------------------------------- */

static void say_ranges(void)
{
	char text[RAM_RANGES_MAX * 128];
	size_t len = 0;

	for (unsigned i = 0; i < atomic_load(&ram.nr_ranges); i++) {
		const struct ram_range *range = &ram.ranges[i];
		len += (size_t)snprintf(text + len, sizeof(text) - len,
					"%s{\"addr\":%" PRIuPTR ",\"size\":%" PRIu64
					",\"first_page\":%" PRIu64 ",\"resident\":%" PRIu64 "}",
					i ? "," : "", (uintptr_t)range->addr, range->len_bytes,
					range->first_page, ram_resident_bytes(range));
	}
	ram_say("{\"event\":\"ranges\",\"pid\":%d,\"ranges\":[%s]}", getpid(), text);
}

static void say_stats(void)
{
	struct vcpu_stats stats = vcpu_stats_get();
	uint64_t resident_bytes = 0, since_ns = atomic_load(&job_started_ns);
	bool is_open = handoff_is_open(&handoff);

	for (unsigned i = 0; i < atomic_load(&ram.nr_ranges); i++)
		resident_bytes += ram_resident_bytes(&ram.ranges[i]);
	uint64_t job_us = since_ns ? (ram_now_ns() - since_ns) / 1000 : 0;
	ram_say("{\"event\":\"stats\",\"reads\":%" PRIu64 ",\"writes\":%" PRIu64
		",\"mismatches\":%" PRIu64 ",\"poisoned\":%" PRIu64 ",\"waits\":%" PRIu64
		",\"wait_max_us\":%" PRIu64 ",\"blocked\":%u,\"blocked_us\":%" PRIu64
		",\"job_blocked_us\":%" PRIu64 ",\"pages\":%" PRIu64 ",\"resident\":%" PRIu64
		",\"socket\":\"%s\",\"received\":%" PRIu64 "}",
		stats.nr_reads, stats.nr_writes, atomic_load(&ram.nr_wrong),
		atomic_load(&ram.nr_poisoned), stats.nr_waits, stats.wait_ns_max / 1000,
		stats.nr_blocked, stats.blocked_ns_max / 1000, job_us,
		atomic_load(&ram.nr_pages), resident_bytes, is_open ? "open" : "closed",
		handoff.received_bytes);
}

static void say_result(const char *what, enum handoff_result result, uint64_t start_ns)
{
	ram_say("{\"event\":\"%s\",\"result\":\"%s\",\"us\":%" PRIu64 "}", what,
		handoff_result_name(result), (ram_now_ns() - start_ns) / 1000);
}

static void hotadd(uint64_t len_bytes)
{
	struct ram_range *range = ram_add_range(&ram, len_bytes);
	uint64_t start_ns = ram_now_ns();

	if (ram.contents == RAM_PATTERN)
		ram_fill_range(&ram, range);
	handoff_register(&handoff, range);
	ram_publish(&ram);
	say_result("hotadd", handoff_add_region(&handoff, range), start_ns);
}

_Noreturn static void quit(void)
{
	uint64_t nr_wrong = atomic_load(&ram.nr_wrong);

	ram_say("{\"event\":\"quit\",\"mismatches\":%" PRIu64 "}", nr_wrong);
	_exit(nr_wrong > 0);
}

static bool is_job(const char *line)
{
	return strncmp(line, "verify", 6) == 0 || strncmp(line, "balloon", 7) == 0 ||
	       strcmp(line, "run") == 0 || strcmp(line, "pause") == 0;
}

static void resume(const char *path)
{
	uint64_t start_ns = ram_now_ns();

	if (*path)
		handoff.path = strdup(path);
	say_result("resume", handoff_connect(&handoff, &ram), start_ns);
}

static void obey(const char *line)
{
	if (is_job(line) && add_job(line))
		return;
	if (strcmp(line, "stats") == 0) {
		say_stats();
	} else if (strcmp(line, "ranges") == 0) {
		say_ranges();
	} else if (strncmp(line, "hotadd ", 7) == 0) {
		hotadd(to_number(line + 7));
	} else if (strncmp(line, "resume", 6) == 0) {
		resume(line[6] ? line + 7 : "");
	} else if (strcmp(line, "disconnect") == 0) {
		handoff_disconnect(&handoff);
		ram_say("{\"event\":\"disconnect\"}");
	} else if (strncmp(line, "frame ", 6) == 0) {
		say_result("frame", handoff_send_text(&handoff, line + 6), ram_now_ns());
	} else if (strcmp(line, "vanish") == 0) {
		_exit(9);
	} else if (strcmp(line, "quit") == 0) {
		quit();
	} else {
		ram_say("{\"event\":\"error\",\"text\":\"no such command\"}");
	}
}

/* ---- Life ------------------------------------------------------------------------------- */

static void make_guest(void)
{
	for (unsigned i = 0; i < nr_start; i++) {
		struct ram_range *range = ram_add_range(&ram, start_bytes[i]);
		if (ram.contents == RAM_PATTERN)
			ram_fill_range(&ram, range);
		ram_publish(&ram);
	}
	ram.is_one_memfd = false; /* what is added later has its own */
}

static void hand_over(void)
{
	uint64_t start_ns = ram_now_ns();

	handoff_open_uffd(&handoff, &ram);
	enum handoff_result result = handoff_connect(&handoff, &ram);
	say_result("handoff", result, start_ns);
	if (result != HANDOFF_READY)
		_exit(EXIT_HANDOFF);
}

int main(int argc, char **argv)
{
	char line[LINE_MAX_BYTES];
	pthread_t job_thread;

	ram_init(&ram);
	parse(argc, argv);
	if (snapshot_out) {
		uint64_t len_bytes = 0;
		for (unsigned i = 0; i < nr_start; i++)
			len_bytes += start_bytes[i];
		ram_write_file(&ram, snapshot_out, len_bytes);
		return 0;
	}
	make_guest();
	hand_over();
	vcpu_start(&ram, &vcpu_options);
	if (pthread_create(&job_thread, NULL, job_main, NULL))
		return 70;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(line);
	}
	quit();
}
