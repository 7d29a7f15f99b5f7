/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_host.c — how evenly the machine itself runs, with nothing of ours: every tenth of a second
 * on one CPU what a multiplication, a system call and a read of memory that is in no cache take.
 *
 *   bench_host [SECONDS [CPU]]
 *
 * Prints their deciles.  Where system calls have two prices and multiplications one, somebody
 * else's thread runs on the other half of the core now and then; medians of faults have two values
 * there, too, whoever serves them. */
#include <sys/syscall.h>

#include "measure.h"

enum { SAMPLES_MAX = 600, MULS = 4000000, CALLS = 40000, READS = 60000, MEM_MIB = 64 };

static uint32_t samples[3][SAMPLES_MAX];

static uint64_t mul_ps(void)
{
	static volatile uint64_t result = 1;
	uint64_t start = mono_ns(), value = result;

	for (unsigned i = 0; i < MULS; i++)
		value = value * UINT64_C(6364136223846793005) + 1;
	result = value;
	return (mono_ns() - start) * 1000 / MULS;
}

static uint64_t call_ps(void)
{
	uint64_t start = mono_ns();

	for (unsigned i = 0; i < CALLS; i++)
		CHECK(syscall(SYS_getppid) >= 0);
	return (mono_ns() - start) * 1000 / CALLS;
}

/* Each address depends on what was read before. */
static uint64_t read_ps(const volatile unsigned char *mem)
{
	static uint64_t at = 1;
	uint64_t start = mono_ns();

	for (unsigned i = 0; i < READS; i++)
		at = at * UINT64_C(6364136223846793005) + 1442695040888963407u +
		     mem[(at >> 20) % ((size_t)MEM_MIB << 20)];
	return (mono_ns() - start) * 1000 / READS;
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "multiply", "system call", "cold read" };
	uint64_t nr = argc > 1 ? strtoull(argv[1], NULL, 0) * 10 : 100;
	struct timespec pause = { .tv_nsec = 80000000 };
	unsigned char *mem = malloc((size_t)MEM_MIB << 20);

	CHECK(mem != NULL && nr > 0 && nr <= SAMPLES_MAX);
	memset(mem, 1, (size_t)MEM_MIB << 20);
	pin_to(argc > 2 ? (int64_t)strtoull(argv[2], NULL, 0) : 0);
	for (uint64_t i = 0; i < nr; i++) {
		samples[0][i] = (uint32_t)mul_ps();
		samples[1][i] = (uint32_t)call_ps();
		samples[2][i] = (uint32_t)read_ps(mem);
		nanosleep(&pause, NULL);
	}
	printf("%-12s  p10     p30     p50     p70     p90   (ns)\n", "");
	for (unsigned n = 0; n < 3; n++) {
		printf("%-12s", names[n]);
		for (unsigned p = 1; p < 10; p += 2)
			printf(" %7.2f", percentile_ns(samples[n], nr, p / 10.0) / 1000.0);
		printf("\n");
	}
	free(mem);
	return 0;
}
