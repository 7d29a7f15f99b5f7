// SPDX-License-Identifier: Apache-2.0
/*
 * A guest without an operating system, for a VMM that loads 64-bit ELF kernels (Firecracker): fills
 * its memory, then verifies all of it again and again, writing a part anew on the way, and says on
 * the first serial port what it found: "filled", "pass 1 bad 0", "pass 2 bad 0", ...
 *
 * It needs no interrupts, no devices but that port, and instructions that a KVM which emulates
 * knows.  The VMM leaves it in long mode with the first GiB mapped to itself.  -DMIB=N is the VM's
 * memory; tests/vmm/test_firecracker.py has the compiler's other options.
 */

#include <stdint.h>

#ifndef MIB
#define MIB 96
#endif
#define BASE (32UL << 20) // below are this program and what the VMM puts there
#define N_PAGES ((((uint64_t)MIB << 20) - BASE) >> 12)
#define PAGE_WORDS 512
#define STEP_WORDS 32 // not every word: emulated instructions take a microsecond
#define COM1 0x3f8

void bare_guest_main(void) __attribute__((noreturn));

__asm__(".globl _start\n"
	"_start:\n\t"
	"cli\n\t"
	"lea bare_guest_stack+16384(%rip), %rsp\n\t"
	"call bare_guest_main\n");

uint8_t bare_guest_stack[16384] __attribute__((aligned(16)));
static uint8_t round_of[N_PAGES];

static void out(char c)
{
	__asm__ volatile("outb %0, %1" : : "a"(c), "d"((uint16_t)COM1));
}

static void say(const char *text)
{
	while (*text)
		out(*text++);
}

static void say_number(uint64_t n)
{
	char digits[20];
	unsigned count = 0;

	do {
		digits[count++] = (char)('0' + n % 10);
	} while (n /= 10);
	while (count)
		out(digits[--count]);
}

/* Half of the words are hard to compress, half are the page's number. */
static uint64_t value(uint64_t page, unsigned word, uint64_t round)
{
	uint64_t x = page * 0x9e3779b97f4a7c15UL ^ word * 0xc2b2ae3d27d4eb4fUL ^ round;

	return word & STEP_WORDS ? page << 8 | round : x ^ x >> 29;
}

static uint64_t *words_of(uint64_t page)
{
	return (uint64_t *)(BASE + (page << 12));
}

static void fill(uint64_t page, uint8_t round)
{
	uint64_t *words = words_of(page);

	for (unsigned w = 0; w < PAGE_WORDS; w += STEP_WORDS)
		words[w] = value(page, w, round);
	round_of[page] = round;
}

static unsigned wrong(uint64_t page)
{
	const uint64_t *words = words_of(page);

	for (unsigned w = 0; w < PAGE_WORDS; w += STEP_WORDS)
		if (words[w] != value(page, w, round_of[page]))
			return 1;
	return 0;
}

void bare_guest_main(void)
{
	uint64_t random = 1;

	for (uint64_t page = 0; page < N_PAGES; page++)
		fill(page, 0);
	say("filled\n");
	for (uint64_t pass = 1;; pass++) {
		uint64_t bad = 0;

		for (uint64_t page = 0; page < N_PAGES; page++) {
			bad += wrong(page);
			random = random * 6364136223846793005UL + 1442695040888963407UL;
			if (random >> 61 == 3)
				fill(page, (uint8_t)pass);
		}
		say("pass ");
		say_number(pass);
		say(" bad ");
		say_number(bad);
		say("\n");
	}
}
