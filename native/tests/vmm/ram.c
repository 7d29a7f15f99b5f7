/* SPDX-License-Identifier: Apache-2.0
 *
 * ram.c — the double's guest RAM (ram.h): memory, contents, touches, balloon.
 *
 * A page that can't be read back unharmed is poisoned by whoever serves it: the access raises
 * SIGBUS, which is caught here and counted, and is not taken for wrong bytes.
 */
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../workload/content.h"

enum {
	RAM_WORDS = RAM_PAGE_BYTES / 8,
	RAM_ZERO_PCT = 15,
	LOCK_WAIT_US = 50,
};
static const uint32_t RAM_LOCKED = UINT32_C(1) << 31;
static const uint32_t RAM_NEVER = UINT32_MAX;
static const uint64_t RAM_GUEST_HOLE = UINT64_C(1) << 30; /* between ranges, as below 4 GiB */

static pthread_mutex_t say_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local sigjmp_buf *poison_exit;  /* set while a page is touched */

/* ---- Speaking --------------------------------------------------------------------------- */

static void say_locked(const char *format, va_list args)
{
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
}

void ram_say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	pthread_mutex_lock(&say_lock);
	say_locked(format, args);
	pthread_mutex_unlock(&say_lock);
	va_end(args);
}

_Noreturn void ram_die(int code, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	ram_say("{\"event\":\"error\",\"code\":%d,\"text\":\"%s\"}", code, text);
	_exit(code);
}

uint64_t ram_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Contents --------------------------------------------------------------------------- */

/* One page in eight is noise, some are zero in runs, the others compress. */
static void start_as_pattern(uint64_t seed, uint64_t page, uint64_t *words)
{
	bool is_noise = content_mix(seed ^ page) % 8 == 0;

	memset(words, 0, RAM_PAGE_BYTES);
	if (content_is_zero(seed, page, RAM_ZERO_PCT))
		return;
	for (unsigned i = 0; i < RAM_WORDS; i++)
		words[i] = is_noise || i % 16 == 0 ? content_mix(seed + page * RAM_WORDS + i) :
						     page << 12 | i / 16;
}

static const struct ram_range *range_of(const struct ram *ram, uint64_t page)
{
	for (unsigned i = 0; i < atomic_load(&ram->nr_ranges); i++) {
		const struct ram_range *range = &ram->ranges[i];
		if (page - range->first_page < range->len_bytes / RAM_PAGE_BYTES)
			return range;
	}
	ram_die(70, "no range holds page %llu", (unsigned long long)page);
}

static unsigned char *address_of(const struct ram *ram, uint64_t page)
{
	const struct ram_range *range = range_of(ram, page);

	return range->addr + (page - range->first_page) * RAM_PAGE_BYTES;
}

static void start_of(const struct ram *ram, uint64_t page, uint64_t *words)
{
	if (ram->contents == RAM_PATTERN)
		start_as_pattern(ram->seed, page, words);
	else if (ram->contents == RAM_FILE && (page + 1) * RAM_PAGE_BYTES <= ram->file_bytes)
		memcpy(words, ram->file + page * RAM_PAGE_BYTES, RAM_PAGE_BYTES);
	else
		memset(words, 0, RAM_PAGE_BYTES);
}

/* All of a page, in this version.  The last eight writes are all that can be seen. */
static void expected(const struct ram *ram, uint64_t page, uint32_t version, uint64_t *words)
{
	uint32_t base = ram->pages[page].base;
	uint32_t first = base == RAM_NEVER ? 1 : base + 1;

	if (base == RAM_NEVER)
		start_of(ram, page, words);
	else
		memset(words, 0, RAM_PAGE_BYTES);
	if (version >= CONTENT_SLOTS && first < version - CONTENT_SLOTS + 1)
		first = version - CONTENT_SLOTS + 1;
	for (uint32_t v = first; v <= version; v++)
		words[content_slot(v)] = content_word(ram->seed, page, v);
}

/* ---- Memory ----------------------------------------------------------------------------- */

static void on_sigbus(int signal)
{
	if (poison_exit)
		siglongjmp(*poison_exit, 1);
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigaction(signal, &dfl, NULL);
}

void ram_init(struct ram *ram)
{
	struct sigaction action = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	ram->pages = mmap(NULL, sizeof(*ram->pages) * RAM_PAGES_MAX, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram->pages == MAP_FAILED)
		ram_die(3, "no memory for the table of pages: %s", strerror(errno));
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, NULL))
		ram_die(70, "sigaction: %s", strerror(errno));
}

void ram_use_file(struct ram *ram, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &status))
		ram_die(2, "%s: %s", path, strerror(errno));
	ram->file_bytes = (uint64_t)status.st_size;
	ram->file = mmap(NULL, ram->file_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (ram->file == MAP_FAILED)
		ram_die(2, "%s: %s", path, strerror(errno));
	close(fd);
	ram->contents = RAM_FILE;
}

void ram_write_file(struct ram *ram, const char *path, uint64_t len_bytes)
{
	uint64_t words[RAM_WORDS];
	FILE *file = fopen(path, "we");

	if (!file)
		ram_die(2, "%s: %s", path, strerror(errno));
	for (uint64_t page = 0; page < len_bytes / RAM_PAGE_BYTES; page++) {
		start_as_pattern(ram->seed, page, words);
		if (fwrite(words, sizeof(words), 1, file) != 1)
			ram_die(4, "%s: %s", path, strerror(errno));
	}
	if (fclose(file))
		ram_die(4, "%s: %s", path, strerror(errno));
}

static int make_memfd(uint64_t len_bytes)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)len_bytes))
		ram_die(3, "memfd: %s", strerror(errno));
	return fd;
}

/* The memfd of the ranges before grows when one is to hold them all. */
static void back_range(struct ram *ram, struct ram_range *range, unsigned index)
{
	range->memfd = -1;
	if (!ram->is_memfd)
		return;
	if (!ram->is_one_memfd || index == 0) {
		range->memfd = make_memfd(range->len_bytes);
		range->offset_bytes = 0;
		return;
	}
	range->memfd = ram->ranges[0].memfd;
	if (ftruncate(range->memfd, (off_t)(range->offset_bytes + range->len_bytes)))
		ram_die(3, "memfd: %s", strerror(errno));
}

struct ram_range *ram_add_range(struct ram *ram, uint64_t len_bytes)
{
	unsigned index = atomic_load(&ram->nr_ranges);
	struct ram_range *range = &ram->ranges[index];
	const struct ram_range *before = index ? range - 1 : NULL;

	if (index == RAM_RANGES_MAX || !len_bytes || len_bytes % RAM_PAGE_BYTES ||
	    (ram->len_bytes + len_bytes) / RAM_PAGE_BYTES > RAM_PAGES_MAX)
		ram_die(2, "a range of %llu bytes is not possible", (unsigned long long)len_bytes);
	range->len_bytes = len_bytes;
	range->offset_bytes = ram->len_bytes;
	range->first_page = ram->len_bytes / RAM_PAGE_BYTES;
	range->guest_addr = before ? before->guest_addr + before->len_bytes + RAM_GUEST_HOLE : 0;
	back_range(ram, range, index);
	int flags = ram->is_memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	range->addr = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, flags, range->memfd,
			   ram->is_memfd ? (off_t)range->offset_bytes : 0);
	if (range->addr == MAP_FAILED)
		ram_die(3, "mmap: %s", strerror(errno));
	ram->len_bytes += len_bytes;
	for (uint64_t i = 0; i < len_bytes / RAM_PAGE_BYTES; i++)
		ram->pages[range->first_page + i].base = RAM_NEVER;
	return range;
}

void ram_fill_range(struct ram *ram, const struct ram_range *range)
{
	for (uint64_t i = 0; i < range->len_bytes / RAM_PAGE_BYTES; i++)
		start_of(ram, range->first_page + i,
			 (uint64_t *)(range->addr + i * RAM_PAGE_BYTES));
}

void ram_publish(struct ram *ram)
{
	atomic_fetch_add(&ram->nr_ranges, 1);
	atomic_store(&ram->nr_pages, ram->len_bytes / RAM_PAGE_BYTES);
}

/* ---- Touches ---------------------------------------------------------------------------- */

static uint32_t lock_page(struct ram_page *page)
{
	for (;; usleep(LOCK_WAIT_US)) {
		uint32_t version = atomic_load(&page->version) & ~RAM_LOCKED;
		if (atomic_compare_exchange_strong(&page->version, &version, version | RAM_LOCKED))
			return version;
	}
}

static void unlock_page(struct ram_page *page, uint32_t version)
{
	atomic_store(&page->version, version);
}

static void report(struct ram *ram, uint64_t page, const uint64_t *got, const uint64_t *want)
{
	unsigned i = 0;

	while (i < RAM_WORDS - 1 && got[i] == want[i])
		i++;
	if (atomic_fetch_add(&ram->nr_wrong, 1) < RAM_REPORTS_MAX)
		ram_say("{\"event\":\"mismatch\",\"page\":%llu,\"word\":%u,\"got\":\"%016llx\","
			"\"want\":\"%016llx\"}",
			(unsigned long long)page, i, (unsigned long long)got[i],
			(unsigned long long)want[i]);
}

/* The first access, which is the one that faults. */
static void access_first(uint64_t *words, bool is_write, unsigned slot, uint64_t value)
{
	volatile uint64_t *word = &words[slot];

	if (is_write)
		*word = value;
	else
		(void)*word;
}

struct ram_touch ram_touch_page(struct ram *ram, uint64_t page, bool is_write,
				_Atomic uint64_t *started_ns)
{
	struct ram_touch touch = { 0 };
	uint64_t *words = (uint64_t *)address_of(ram, page), want[RAM_WORDS];
	volatile uint32_t version = lock_page(&ram->pages[page]);
	uint64_t start_ns = ram_now_ns();
	sigjmp_buf out;

	if (started_ns)
		atomic_store(started_ns, start_ns);
	if (sigsetjmp(out, 0)) {
		atomic_fetch_add(&ram->nr_poisoned, 1);
		touch.is_poisoned = true;
	} else {
		poison_exit = &out;
		uint32_t next = version + is_write;
		access_first(words, is_write, content_slot(next),
			     content_word(ram->seed, page, next));
		version = next;
		touch.wait_ns = ram_now_ns() - start_ns;
		expected(ram, page, version, want);
		touch.is_wrong = memcmp(words, want, RAM_PAGE_BYTES) != 0;
		if (touch.is_wrong)
			report(ram, page, words, want);
	}
	poison_exit = NULL;
	if (started_ns)
		atomic_store(started_ns, 0);
	unlock_page(&ram->pages[page], version);
	return touch;
}

/* ---- Balloon ---------------------------------------------------------------------------- */

static int give_up(const struct ram_range *range, uint64_t start_bytes, uint64_t len_bytes,
		   const char *how)
{
	bool is_punch = strncmp(how, "punch", 5) == 0;

	if (is_punch && fallocate(range->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  (off_t)(range->offset_bytes + start_bytes), (off_t)len_bytes))
		return -errno;
	if (strcmp(how, "punch") == 0)
		return 0;
	int advice = strcmp(how, "remove") == 0 ? MADV_REMOVE : MADV_DONTNEED;
	return madvise(range->addr + start_bytes, len_bytes, advice) ? -errno : 0;
}

int ram_balloon(struct ram *ram, uint64_t page, uint64_t nr_pages, const char *how)
{
	const struct ram_range *range = range_of(ram, page);
	uint64_t start_bytes = (page - range->first_page) * RAM_PAGE_BYTES;

	if (start_bytes + nr_pages * RAM_PAGE_BYTES > range->len_bytes)
		return -EINVAL;
	for (uint64_t i = page; i < page + nr_pages; i++)
		lock_page(&ram->pages[i]);
	int rc = give_up(range, start_bytes, nr_pages * RAM_PAGE_BYTES, how);
	for (uint64_t i = page; i < page + nr_pages; i++) {
		uint32_t version = atomic_load(&ram->pages[i].version) & ~RAM_LOCKED;
		if (!rc)
			ram->pages[i].base = version;
		unlock_page(&ram->pages[i], version);
	}
	return rc;
}

uint64_t ram_resident_bytes(const struct ram_range *range)
{
	enum { CHUNK_PAGES = 4096 };
	unsigned char present[CHUNK_PAGES];
	uint64_t nr_present = 0;

	for (uint64_t at = 0; at < range->len_bytes; at += (uint64_t)CHUNK_PAGES * RAM_PAGE_BYTES) {
		uint64_t len_bytes = range->len_bytes - at;
		if (len_bytes > (uint64_t)CHUNK_PAGES * RAM_PAGE_BYTES)
			len_bytes = (uint64_t)CHUNK_PAGES * RAM_PAGE_BYTES;
		if (mincore(range->addr + at, len_bytes, present))
			ram_die(70, "mincore: %s", strerror(errno));
		for (uint64_t i = 0; i < len_bytes / RAM_PAGE_BYTES; i++)
			nr_present += present[i] & 1;
	}
	return nr_present * RAM_PAGE_BYTES;
}
