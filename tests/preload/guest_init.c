/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_init.c — the only program of a small guest: /init of its initramfs, linked statically.
 *
 * Fills most of the guest's memory with pages that it can tell from all others, and answers
 * commands from the serial line: "verify" looks at every byte, "off" ends the machine.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t word_of(uint64_t page, unsigned i, uint64_t round)
{
	return (page + 1) * 0x9E3779B97F4A7C15ull + round * 0x100000001ull + i / 4;
}

static void fill(uint64_t *memory, uint64_t nr_pages, uint64_t round)
{
	for (uint64_t page = 0; page < nr_pages; page++)
		for (unsigned i = 0; i < WORDS; i++)
			memory[page * WORDS + i] = word_of(page, i, round);
}

static uint64_t count_bad(const uint64_t *memory, uint64_t nr_pages, uint64_t round)
{
	uint64_t nr_bad = 0;

	for (uint64_t page = 0; page < nr_pages; page++)
		for (unsigned i = 0; i < WORDS; i++)
			if (memory[page * WORDS + i] != word_of(page, i, round)) {
				nr_bad++;
				break;
			}
	return nr_bad;
}

static void load_balloon(void)
{
	int fd = open("/balloon.ko", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		printf("no balloon: %m\n");
	if (fd >= 0)
		close(fd);
}

/* "fill=MIB" on the kernel's command line comes in the environment. */
static uint64_t pages_wanted(void)
{
	const char *text = getenv("fill");

	return (text ? strtoull(text, NULL, 10) : 64) * ((1 << 20) / PAGE);
}

int main(void)
{
	uint64_t nr_pages = pages_wanted(), round = 0;
	struct termios line_settings;
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!tcgetattr(0, &line_settings)) {
		line_settings.c_lflag &= ~(tcflag_t)ECHO;
		line_settings.c_oflag &= ~(tcflag_t)OPOST;
		tcsetattr(0, TCSANOW, &line_settings);
	}
	load_balloon();
	uint64_t *memory = mmap(NULL, nr_pages * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		printf("guest: no memory: %m\n");
	else
		fill(memory, nr_pages, round);
	printf("guest: filled %llu\n", (unsigned long long)nr_pages);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "verify", 6))
			printf("guest: bad %llu\n",
			       (unsigned long long)count_bad(memory, nr_pages, round));
		if (!strncmp(line, "fill", 4)) {
			fill(memory, nr_pages, ++round);
			printf("guest: filled %llu\n", (unsigned long long)nr_pages);
		}
		if (!strncmp(line, "off", 3))
			break;
	}
	printf("guest: off\n");
	reboot(RB_AUTOBOOT);
	return 0;
}
