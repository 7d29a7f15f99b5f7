/* SPDX-License-Identifier: Apache-2.0
 *
 * kvm_vmm.c — a small virtual machine monitor that runs its guest in a fraction of its memory.
 *
 * A KVM guest (kvm_guest.h) fills hundreds of MiB of RAM, works on it with a hot part, and checks
 * every byte of every page that it comes to.  While its vCPUs run the VMM attaches the RAM to an
 * engine and starts the engine's cycle; a missing page is a fault inside of KVM_RUN that the
 * engine's threads serve, and neither guest nor vCPU thread knows of it.  Then everything is
 * evicted, and the guest walks through all of it, twice, in two orders; at last the RAM is
 * detached while the guest looks at it.
 *
 * What a VMM has to do for tierstore is in open_engine(), attach_ram() and detach_ram().
 *
 *   kvm_vmm [--size MIB] [--budget PCT] [--vcpus N] [--memory anon|memfd] [--seconds N]
 *           [--cold PATH] [--sparse]
 *
 * --sparse: the guest touches sixteen numbers of a page instead of all bytes, and the VMM loads the
 * first contents and checks all bytes at the end; for hosts whose KVM emulates such a guest, where
 * an instruction takes half a microsecond.
 *
 * Prints one JSON object.  Exit codes: 0; 1 a byte was wrong; 2 usage; 3 this host lacks something.
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <tierstore/tierstore.h>

#include "kvm_machine.h"

enum { PAGE_BYTES = 4096, VCPUS_MAX = 8 };

/* What the vCPUs do, one phase after the other; the VMM does its part meanwhile. */
enum phase {
	FILL,    /* every page is written for the first time (sparse: by the VMM) */
	WORK,    /* nine of ten touches go to a tenth of the pages; until is_enough */
	WALK,    /* every page is checked, with a stride, and a quarter of them written */
	RETURN,  /* every page is checked, in order */
	NR_PHASES,
};

static struct options {
	uint64_t size_mib, budget_pct, nr_vcpus, seconds;
	bool is_memfd, is_sparse;
	const char *cold;
} options = { .size_mib = 256, .budget_pct = 25, .nr_vcpus = 1, .seconds = 10 };

struct vcpu {
	pthread_t thread;
	uint32_t index;
	struct cpu cpu;
	uint64_t random, next;            /* next: how far a walk has come */
	_Atomic uint64_t nr_pages;        /* checked or written */
};

static struct vm {
	struct machine machine;
	int memfd;
	unsigned char *ram;
	uint64_t ram_bytes, nr_pages;
	uint32_t *versions;               /* of each page; a page belongs to one vCPU */
	struct vcpu vcpus[VCPUS_MAX];
	pthread_barrier_t begin, end;     /* of a phase; the VMM's thread takes part */
	enum phase phase;
	bool is_over;
	atomic_bool is_enough;
	struct ts_engine *engine;
	pthread_mutex_t region_lock;      /* held to use region other than by faults */
	struct ts_region *region;
} vm = { .memfd = -1, .region_lock = PTHREAD_MUTEX_INITIALIZER };

/* A library call that must succeed. */
#define TRY(call) \
	do { \
		if ((call) < 0) \
			DIE(3, "%s", ts_last_error()); \
	} while (0)

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- tierstore: the engine, the guest's RAM, the cycle ---------------------------------- */

static void on_log(void *user, int level, const char *text)
{
	(void)user;
	if (level <= TS_LOG_WARNING)
		fprintf(stderr, "tierstore: %s\n", text);
}

static void open_engine(void)
{
	struct ts_engine_options engine = { .size = sizeof(engine), .log = on_log };
	struct ts_tier_options warm = { .size = sizeof(warm), .name = "warm", .store = "ram",
		.size_bytes = options.cold ? vm.ram_bytes / 16 + (4 << 20) : vm.ram_bytes,
		.codec = TS_CODEC_LZ4 };
	struct ts_tier_options cold = { .size = sizeof(cold), .name = "cold", .store = "file",
		.path = options.cold, .size_bytes = vm.ram_bytes * 2 + (64 << 20),
		.codec = TS_CODEC_ZSTD, .range_bytes = 64 << 10 };

	TRY(ts_engine_open(&engine, &vm.engine));
	TRY(ts_engine_add_tier(vm.engine, &warm));
	if (options.cold)
		TRY(ts_engine_add_tier(vm.engine, &cold));
	TRY(ts_engine_start(vm.engine));
}

static void attach_ram(void)
{
	struct ts_region_options region = { .size = sizeof(region), .name = "guest RAM",
		.addr = vm.ram, .len_bytes = vm.ram_bytes, .memfd = vm.memfd,
		.memory = options.is_memfd ? TS_MEMORY_MEMFD : TS_MEMORY_ANON };
	struct ts_cycle_options cycle = { .size = sizeof(cycle), .interval_ms = 500, .age_min = 1,
		.budget_pct = (uint32_t)options.budget_pct };

	pthread_mutex_lock(&vm.region_lock);
	TRY(ts_region_attach(vm.engine, &region, &vm.region));
	pthread_mutex_unlock(&vm.region_lock);
	TRY(ts_cycle_start(vm.engine, &cycle));
}

static void detach_ram(void)
{
	pthread_mutex_lock(&vm.region_lock);
	TRY(ts_region_detach(vm.region));
	vm.region = NULL;
	pthread_mutex_unlock(&vm.region_lock);
}

static void evict_all(void)
{
	struct ts_evict_options all = { .size = sizeof(all), .bytes_max = vm.ram_bytes,
					.no_probation = 1 };
	struct ts_evict_result result = { .size = sizeof(result) };

	TRY(ts_region_evict(vm.region, &all, &result));
}

/* KVM says where the page is that it could not reach: it is served right here, and the guest
 * tries again.  With regions that are served by messages this is rare: KVM waits inside. */
static bool serve_here(uint64_t offset_bytes)
{
	pthread_mutex_lock(&vm.region_lock);
	bool is_attached = vm.region != NULL;
	if (is_attached)
		TRY(ts_region_serve(vm.region, offset_bytes, 0));
	pthread_mutex_unlock(&vm.region_lock);
	return is_attached;
}

/* ---- What the guest is told to do ------------------------------------------------------- */

/* Page number i of this vCPU: they share the pages by turns. */
static uint64_t own_page(const struct vcpu *vcpu, uint64_t i)
{
	return i * options.nr_vcpus + vcpu->index;
}

static uint64_t nr_own(void)
{
	return vm.nr_pages / options.nr_vcpus;
}

/* False: the phase is over for this vCPU. */
static bool pick(struct vcpu *vcpu, uint64_t *page, bool *is_written, bool *is_blind)
{
	uint64_t random = next_random(&vcpu->random), nr = nr_own(), nr_hot = nr / 10 + 1;
	uint64_t i = vcpu->next++;

	*is_blind = vm.phase == FILL;
	*is_written = vm.phase == FILL || (vm.phase != RETURN && random % 4 == 0);
	if (vm.phase == WORK) {
		*is_blind = *is_written && random % 3 == 0;
		*page = own_page(vcpu, (random >> 8) % (random >> 32 & 15 ? nr_hot : nr));
		return !atomic_load(&vm.is_enough);
	}
	/* A stride that has no divisor in common with the number of pages. */
	*page = own_page(vcpu, vm.phase == WALK ? i * 1000003 % nr : i);
	return i < nr;
}

static bool fill_batch(struct vcpu *vcpu)
{
	struct guest_mailbox *mailbox = vcpu->cpu.mailbox;
	uint64_t page;
	bool is_written, is_blind;

	mailbox->nr_entries = 0;
	while (mailbox->nr_entries < GUEST_BATCH_MAX &&
	       pick(vcpu, &page, &is_written, &is_blind)) {
		uint32_t version = vm.versions[page];
		mailbox->entries[mailbox->nr_entries++] = (struct guest_entry){ (uint32_t)page,
			is_blind ? 0 : version, is_written ? version + 1 : 0 };
		vm.versions[page] += is_written;
	}
	atomic_fetch_add(&vcpu->nr_pages, mailbox->nr_entries);
	return mailbox->nr_entries > 0;
}

static void *vcpu_main(void *argument)
{
	struct vcpu *vcpu = argument;

	machine_run(&vcpu->cpu, serve_here);  /* to where it asks for its first batch */
	for (;;) {
		pthread_barrier_wait(&vm.begin);
		if (vm.is_over)
			return NULL;
		for (vcpu->next = 0; fill_batch(vcpu);)
			machine_run(&vcpu->cpu, serve_here);
		pthread_barrier_wait(&vm.end);
	}
}

/* ---- RAM as the VMM sees it ------------------------------------------------------------- */

static uint32_t number_at(uint64_t page, uint32_t version, uint32_t offset)
{
	return (uint32_t)page * GUEST_PAGE_FACTOR + version * GUEST_VERSION_FACTOR +
	       offset / GUEST_LINE_BYTES;
}

/* As if it were a kernel and its file systems. */
static void load_image(void)
{
	uint32_t *numbers = (uint32_t *)vm.ram;

	for (uint64_t page = 0; page < vm.nr_pages; page++) {
		vm.versions[page] = 1;
		for (uint32_t offset = 0; offset < PAGE_BYTES; offset += 4)
			*numbers++ = number_at(page, 1, offset);
	}
}

/* Every byte, after everything; returns how many pages are wrong. */
static uint64_t check_ram(void)
{
	const uint32_t *numbers = (const uint32_t *)vm.ram;
	uint64_t nr_wrong = 0;

	for (uint64_t page = 0; page < vm.nr_pages; page++) {
		bool is_wrong = false;
		for (uint32_t offset = 0; offset < PAGE_BYTES; offset += 4) {
			bool is_old = options.is_sparse && offset % GUEST_SPARSE_BYTES;
			uint32_t version = is_old ? 1 : vm.versions[page];
			is_wrong |= *numbers++ != number_at(page, version, offset) && version;
		}
		nr_wrong += is_wrong;
	}
	return nr_wrong;
}

/* ---- The run ---------------------------------------------------------------------------- */

static void begin_phase(enum phase phase)
{
	vm.phase = phase;
	pthread_barrier_wait(&vm.begin);
}

static void end_phase(void)
{
	pthread_barrier_wait(&vm.end);
}

/* What the kernel says is in RAM: that of a memfd too, whether mapped or not. */
static uint64_t resident_bytes(void)
{
	static unsigned char present[1 << 20];
	uint64_t nr = 0;

	if (vm.nr_pages > sizeof(present) || mincore(vm.ram, vm.ram_bytes, present))
		DIE(3, "mincore: %s", strerror(errno));
	for (uint64_t page = 0; page < vm.nr_pages; page++)
		nr += present[page] & 1;
	return nr * PAGE_BYTES;
}

/* The guest rests, but neighbours of what it touched last may still be on their way back: what
 * comes after its turn here leaves in the next round. */
static uint64_t evict_to_the_last(void)
{
	uint64_t bytes = UINT64_MAX;

	for (unsigned n = 0; n < 1000 && bytes; n++) {
		evict_all();
		bytes = resident_bytes();
		if (bytes)
			usleep(10 * 1000);
	}
	return bytes;
}

static uint64_t work(void)
{
	uint64_t least_bytes = vm.ram_bytes, end_ns = now_ns() + options.seconds * 1000000000;

	begin_phase(WORK);
	attach_ram();  /* the guest is running */
	while (now_ns() < end_ns) {
		uint64_t bytes = resident_bytes();
		if (bytes < least_bytes)
			least_bytes = bytes;
		usleep(100 * 1000);
	}
	atomic_store(&vm.is_enough, true);
	end_phase();
	TRY(ts_cycle_stop(vm.engine));
	return least_bytes;
}

struct outcome {
	uint64_t least_bytes, evicted_bytes, nr_wrong, nr_pages, run_ns_max;
	double seconds;
};

static void print(const struct outcome *outcome, const struct ts_stats *stats)
{
	const struct ts_hist *faults = &stats->stages[TS_STAGE_FAULT];

	printf("{\"guest_bytes\": %llu, \"vcpus\": %llu, \"memory\": \"%s\",\n"
	       " \"seconds\": %.1f,\n"
	       " \"resident_least_bytes\": %llu, \"resident_evicted_bytes\": %llu,\n"
	       " \"pages_touched\": %llu, \"pages_evicted\": %llu, \"faults\": %llu,\n"
	       " \"fault_us_p50\": %.1f, \"fault_us_p99\": %.1f, \"run_ms_max\": %.1f,\n"
	       " \"pages_wrong\": %llu}\n",
	       (unsigned long long)vm.ram_bytes, (unsigned long long)options.nr_vcpus,
	       options.is_memfd ? "memfd" : "anon", outcome->seconds,
	       (unsigned long long)outcome->least_bytes,
	       (unsigned long long)outcome->evicted_bytes, (unsigned long long)outcome->nr_pages,
	       (unsigned long long)stats->nr_evicted, (unsigned long long)stats->nr_faults,
	       (double)ts_hist_percentile_ns(faults, 0.5) / 1e3,
	       (double)ts_hist_percentile_ns(faults, 0.99) / 1e3,
	       (double)outcome->run_ns_max / 1e6, (unsigned long long)outcome->nr_wrong);
}

static void run_phase(enum phase phase)
{
	begin_phase(phase);
	end_phase();
}

/* All of it away, and all of it back by the guest's own touches, twice. */
static void walk(struct outcome *outcome)
{
	outcome->evicted_bytes = evict_to_the_last();
	run_phase(WALK);
	evict_all();
	run_phase(RETURN);
}

static void stop_vcpus(struct outcome *outcome)
{
	vm.is_over = true;
	pthread_barrier_wait(&vm.begin);
	for (unsigned i = 0; i < options.nr_vcpus; i++) {
		struct vcpu *vcpu = &vm.vcpus[i];
		pthread_join(vcpu->thread, NULL);
		outcome->nr_wrong += vcpu->cpu.mailbox->nr_wrong;
		outcome->nr_pages += vcpu->nr_pages;
		if (vcpu->cpu.run_ns_max > outcome->run_ns_max)
			outcome->run_ns_max = vcpu->cpu.run_ns_max;
	}
}

static struct outcome run(void)
{
	static struct ts_stats stats = { .size = sizeof(stats) };
	struct outcome outcome = { 0 };
	uint64_t start_ns = now_ns();

	if (options.is_sparse)
		load_image();
	else
		run_phase(FILL);
	outcome.least_bytes = work();
	walk(&outcome);
	TRY(ts_stats_get(vm.engine, NULL, &stats));
	evict_all();
	begin_phase(RETURN);
	detach_ram();  /* the guest is running */
	end_phase();
	ts_engine_close(vm.engine);
	stop_vcpus(&outcome);
	outcome.nr_wrong += check_ram();
	outcome.seconds = (double)(now_ns() - start_ns) / 1e9;
	print(&outcome, &stats);
	return outcome;
}

static uint64_t to_number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t number = strtoull(text, &end, 10);

	if (*end || number < least || number > most)
		DIE(2, "%s: a number from %llu to %llu", text, (unsigned long long)least,
		    (unsigned long long)most);
	return number;
}

static bool is_memfd(const char *text)
{
	if (strcmp(text, "memfd") != 0 && strcmp(text, "anon") != 0)
		DIE(2, "%s: --memory is anon or memfd", text);
	return strcmp(text, "memfd") == 0;
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "size", 1, NULL, 's' }, { "budget", 1, NULL, 'b' }, { "vcpus", 1, NULL, 'v' },
		{ "memory", 1, NULL, 'm' }, { "seconds", 1, NULL, 't' },
		{ "cold", 1, NULL, 'c' },
		{ "sparse", 0, NULL, 'S' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 's': options.size_mib = to_number(optarg, 1, GUEST_RAM_MIB_MAX); break;
		case 'b': options.budget_pct = to_number(optarg, 1, 100); break;
		case 'v': options.nr_vcpus = to_number(optarg, 1, VCPUS_MAX); break;
		case 't': options.seconds = to_number(optarg, 1, 86400); break;
		case 'c': options.cold = optarg; break;
		case 'S': options.is_sparse = true; break;
		case 'm': options.is_memfd = is_memfd(optarg); break;
		default: DIE(2, "options: --size --budget --vcpus --memory --seconds --cold "
				"--sparse");
		}
	}
}

static void make_ram(void)
{
	vm.ram_bytes = options.size_mib << 20;
	vm.nr_pages = vm.ram_bytes / PAGE_BYTES;
	vm.versions = calloc(vm.nr_pages, sizeof(*vm.versions));
	if (!vm.versions)
		DIE(3, "no memory");
	if (options.is_memfd) {
		vm.memfd = memfd_create("guest", MFD_CLOEXEC);
		if (vm.memfd < 0 || ftruncate(vm.memfd, (off_t)vm.ram_bytes))
			DIE(3, "memfd: %s", strerror(errno));
	}
	vm.ram = machine_map(vm.ram_bytes, vm.memfd);
}

static void make_vcpu(uint32_t index)
{
	struct vcpu *vcpu = &vm.vcpus[index];

	vcpu->index = index;
	vcpu->random = index + 1;
	machine_add_cpu(&vm.machine, &vcpu->cpu, index);
	vcpu->cpu.mailbox->is_sparse = options.is_sparse;
	int rc = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	if (rc)
		DIE(3, "pthread_create: %s", strerror(rc));
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	make_ram();
	machine_make(&vm.machine, vm.ram, vm.ram_bytes);
	open_engine();
	unsigned nr_threads = (unsigned)options.nr_vcpus + 1;
	pthread_barrier_init(&vm.begin, NULL, nr_threads);
	pthread_barrier_init(&vm.end, NULL, nr_threads);
	for (uint32_t i = 0; i < options.nr_vcpus; i++)
		make_vcpu(i);
	return run().nr_wrong > 0;
}
