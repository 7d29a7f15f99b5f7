/* SPDX-License-Identifier: Apache-2.0
 *
 * test_inthread_frame.c — a thread that answers its own fault goes on as if there had been none:
 * every register, the flags, the red zone, the signal mask and the signal stack are what they were,
 * also while other signals come, and whoever called the handler gets to go on, too
 * (fault/sigframe.c). */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "guest.h"

enum { NR = 1024 };

static size_t bytes(uint64_t nr_pages) { return nr_pages * GUEST_PAGE; }

static void begin(struct guest *guest, const char *wrap)
{
	*guest = (struct guest){ 0 };
	guest_map(guest, NR, false);
	guest_open(guest);
	CHECK_EQ(guest_add_tier(guest, "warm", "ram", NULL, 64 << 20, TS_CODEC_LZ4, 4096, wrap),
		 0);
	CHECK_EQ(ts_engine_start(guest->engine), 0);
	/* Nobody brings pages back before they are asked for. */
	guest_attach(guest, (struct ts_region_options){ .serve = TS_SERVE_IN_THREAD,
							.restore = TS_RESTORE_PAGE });
}

static void evict_all(struct guest *guest)
{
	CHECK_EQ(guest_evict(guest, bytes(NR), 0, true).nr_failed, 0);
}

/* ---- Registers -------------------------------------------------------------------------- */

#if defined(__x86_64__)

/* A touch with all registers in use.  Of the flags those that a program sees: carry, parity,
 * auxiliary, zero, sign, direction, overflow. */
enum { FLAGS = 0xcd5, RED_ZONE = 128 };

struct registers {
	uint64_t gpr[16];             /* as the assembler counts them: rax, rcx, ..., r15 */
	uint64_t flags;
	unsigned char red_zone[RED_ZONE];
	unsigned char vectors[32 * 64];
} frame_in, frame_out;             /* not static: the assembler's, too */
uint32_t has_avx512;
uint64_t frame_rsp;

#define LOWER "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define UPPER "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

/* Loads registers from frame_in, reads a byte at `page`, stores registers to frame_out. */
void frame_touch(const volatile void *page);
__asm__(
	".text\n"
	"frame_touch:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	.set i, 0\n"
	"	.rept 16\n"
	"	mov frame_in + 136 + i(%rip), %rcx\n"
	"	mov %rcx, -128 + i(%rsp)\n"
	"	.set i, i + 8\n"
	"	.endr\n"
	"	cmpl $0, has_avx512(%rip)\n"
	"	je 1f\n"
	"	.irp n, " LOWER "," UPPER "\n"
	"	vmovdqu64 frame_in + 264 + 64 * \\n(%rip), %zmm\\n\n"
	"	.endr\n"
	"	jmp 2f\n"
	"1:\n"
	"	.irp n, " LOWER "\n"
	"	movups frame_in + 264 + 64 * \\n(%rip), %xmm\\n\n"
	"	.endr\n"
	"2:	mov %rsp, frame_rsp(%rip)\n"
	"	mov %rdi, %rax\n"
	"	mov $0x7f, %cl\n"
	"	add $1, %cl\n"                /* overflow, sign, auxiliary */
	"	stc\n"
	"	std\n"
	"	mov frame_in + 8(%rip), %rcx\n	mov frame_in + 16(%rip), %rdx\n"
	"	mov frame_in + 24(%rip), %rbx\n	mov frame_in + 40(%rip), %rbp\n"
	"	mov frame_in + 48(%rip), %rsi\n	mov frame_in + 56(%rip), %rdi\n"
	"	mov frame_in + 64(%rip), %r8\n	mov frame_in + 72(%rip), %r9\n"
	"	mov frame_in + 80(%rip), %r10\n	mov frame_in + 88(%rip), %r11\n"
	"	mov frame_in + 96(%rip), %r12\n	mov frame_in + 104(%rip), %r13\n"
	"	mov frame_in + 112(%rip), %r14\n	mov frame_in + 120(%rip), %r15\n"
	"	mov (%rax), %al\n"
	"	mov %rax, frame_out(%rip)\n"
	"	mov %rcx, frame_out + 8(%rip)\n	mov %rdx, frame_out + 16(%rip)\n"
	"	mov %rbx, frame_out + 24(%rip)\n	mov %rsp, frame_out + 32(%rip)\n"
	"	mov %rbp, frame_out + 40(%rip)\n	mov %rsi, frame_out + 48(%rip)\n"
	"	mov %rdi, frame_out + 56(%rip)\n	mov %r8, frame_out + 64(%rip)\n"
	"	mov %r9, frame_out + 72(%rip)\n	mov %r10, frame_out + 80(%rip)\n"
	"	mov %r11, frame_out + 88(%rip)\n	mov %r12, frame_out + 96(%rip)\n"
	"	mov %r13, frame_out + 104(%rip)\n	mov %r14, frame_out + 112(%rip)\n"
	"	mov %r15, frame_out + 120(%rip)\n"
	"	.set i, 0\n"
	"	.rept 16\n"
	"	mov -128 + i(%rsp), %rcx\n"
	"	mov %rcx, frame_out + 136 + i(%rip)\n"
	"	.set i, i + 8\n"
	"	.endr\n"
	"	pushfq\n"
	"	pop %rcx\n"
	"	cld\n"
	"	mov %rcx, frame_out + 128(%rip)\n"
	"	cmpl $0, has_avx512(%rip)\n"
	"	je 3f\n"
	"	.irp n, " LOWER "," UPPER "\n"
	"	vmovdqu64 %zmm\\n, frame_out + 264 + 64 * \\n(%rip)\n"
	"	.endr\n"
	"	vzeroupper\n"
	"	jmp 4f\n"
	"3:\n"
	"	.irp n, " LOWER "\n"
	"	movups %xmm\\n, frame_out + 264 + 64 * \\n(%rip)\n"
	"	.endr\n"
	"4:	pop %r15\n	pop %r14\n	pop %r13\n"
	"	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

static void check_touch(struct guest *guest, uint64_t page)
{
	const unsigned char *at = guest->mem + bytes(page);

	for (size_t i = 0; i < sizeof(frame_in) / 8; i++)
		((uint64_t *)&frame_in)[i] = guest_mix(page * 1000 + i);
	memset(&frame_out, 0, sizeof(frame_out));
	frame_touch(at);
	for (unsigned reg = 1; reg < 16; reg++)
		CHECK_EQ(frame_out.gpr[reg], reg == 4 ? frame_rsp : frame_in.gpr[reg]);
	CHECK_EQ(frame_out.gpr[0], ((uintptr_t)at & ~UINT64_C(0xff)) | *at);
	CHECK_EQ(frame_out.flags & FLAGS, 0xc91);
	CHECK(memcmp(frame_out.red_zone, frame_in.red_zone, RED_ZONE) == 0);
	for (unsigned i = 0; i < (has_avx512 ? 32u : 16u); i++)
		CHECK(memcmp(frame_out.vectors + 64 * i, frame_in.vectors + 64 * i,
			     has_avx512 ? 64 : 16) == 0);
}

/* Rounding to the nearest is what everything else here expects. */
enum { MXCSR = 0x1f80, MXCSR_UP = 0x5f80 };

static void touch_all(struct guest *guest)
{
	has_avx512 = __builtin_cpu_supports("avx512f") != 0;
	__builtin_ia32_ldmxcsr(MXCSR_UP);
	for (uint64_t page = 0; page < NR; page++)
		check_touch(guest, page);
	CHECK_EQ(__builtin_ia32_stmxcsr() & MXCSR_UP, MXCSR_UP);
	__builtin_ia32_ldmxcsr(MXCSR);
}

#else

static void touch_all(struct guest *guest)
{
	(void)guest;
}

#endif

/* Runs in a child: the library installs its handler once a process, in front of what is there. */
static int in_child(void (*run)(void))
{
	int status;

	fflush(stdout);
	pid_t child = fork();
	if (!child)
		run();
	CHECK_EQ(waitpid(child, &status, 0), child);
	/* What it needs is not here; it has said so. */
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		exit(77);
	return status;
}

static void registers(void)
{
	struct guest guest;

	begin(&guest, NULL);
	for (unsigned round = 0; round < 4; round++) {
		evict_all(&guest);
		touch_all(&guest);
		guest_check_all(&guest);
	}
	CHECK(guest_stats(&guest)->nr_faults >= NR);
	guest_close(&guest);
}

/* ---- No system call ---------------------------------------------------------------------- */

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* A thread that may not call rt_sigreturn(2) any more. */
static void touch_without(void)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(steps) / sizeof(steps[0]), steps };
	struct guest guest;

	signal(SIGBUS, SIG_DFL);
	begin(&guest, NULL);
	evict_all(&guest);
	CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
	touch_all(&guest);
	CHECK(guest_stats(&guest)->nr_faults > 0);
	_exit(0);
}

#else

static void touch_without(void)
{
	_exit(0);
}

#endif

/* Else all the other tests would show nothing. */
static void no_system_call(void)
{
	CHECK_EQ(in_child(touch_without), 0);
}

/* ---- Other signals ---------------------------------------------------------------------- */

static volatile sig_atomic_t nr_alarms;
static volatile double sink;

/* Leaves nothing in any register as it found it. */
static void on_alarm(int signal)
{
	unsigned char here[512], there[512];

	(void)signal;
	memset(here, nr_alarms, sizeof(here));
	memcpy(there, here, sizeof(there));
	sink = sink * 1.5 + there[nr_alarms % 512];
	nr_alarms++;
}

static void set_alarm(long us)
{
	struct itimerval timer = { { 0, us }, { 0, us } };

	CHECK_EQ(setitimer(ITIMER_REAL, &timer, NULL), 0);
}

static void among_signals(void)
{
	/* An emulated machine would come to nothing else. */
	long us = getenv("TIERSTORE_IN_VM") ? 10000 : 100;
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct guest guest;

	begin(&guest, NULL);
	CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
	for (unsigned round = 0; round < check_rounds(48); round++) {
		evict_all(&guest);
		set_alarm(us);
		touch_all(&guest);
		guest_check_all(&guest);
		set_alarm(0);
	}
	CHECK(nr_alarms > 0);
	signal(SIGALRM, SIG_DFL);
	guest_close(&guest);
}

static void mask(void)
{
	sigset_t wanted, before, now;
	struct guest guest;

	begin(&guest, NULL);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, &wanted, &before), 0);
	CHECK_EQ(raise(SIGUSR1), 0);
	evict_all(&guest);
	guest_check_all(&guest);
	CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
	for (int signal = 1; signal < 32; signal++)
		CHECK_EQ(sigismember(&now, signal),
			 signal == SIGUSR1 || sigismember(&before, signal));
	CHECK_EQ(sigpending(&now), 0);
	CHECK_EQ(sigismember(&now, SIGUSR1), 1);
	signal(SIGUSR1, SIG_IGN);
	CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
	guest_close(&guest);
}

/* ---- Other stacks ----------------------------------------------------------------------- */

static void on_stack(struct guest *guest, int flags)
{
	enum { STACK_BYTES = 256 << 10 };
	stack_t stack = { .ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES, .ss_flags = flags };
	stack_t none = { .ss_flags = SS_DISABLE }, now;

	CHECK(stack.ss_sp != NULL);
	CHECK_EQ(sigaltstack(&stack, NULL), 0);
	evict_all(guest);
	touch_all(guest);
	guest_check_all(guest);
	CHECK_EQ(sigaltstack(&none, &now), 0);
	CHECK(now.ss_sp == stack.ss_sp);
	CHECK_EQ(now.ss_flags, flags);
	free(stack.ss_sp);
}

static void signal_stacks(void)
{
	const int autodisarm = (int)(1u << 31);
	struct guest guest;

	begin(&guest, NULL);
	on_stack(&guest, 0);
	on_stack(&guest, autodisarm);
	guest_close(&guest);
}

/* ---- Other handlers --------------------------------------------------------------------- */

static struct sigaction library;
static uint64_t nr_begun, nr_ended;

static void around(int signal, siginfo_t *info, void *context)
{
	nr_begun++;
	library.sa_sigaction(signal, info, context);
	nr_ended++;
}

/* A handler in front of the library's gets its turn after it. */
static void handler_in_front(void)
{
	struct sigaction action = { .sa_sigaction = around, .sa_flags = SA_SIGINFO };
	struct guest guest;

	begin(&guest, NULL);
	CHECK_EQ(sigaction(SIGBUS, &action, &library), 0);
	evict_all(&guest);
	touch_all(&guest);
	guest_check_all(&guest);
	CHECK(nr_begun > 0);
	CHECK_EQ(nr_ended, nr_begun);
	CHECK_EQ(sigaction(SIGBUS, &library, NULL), 0);
	guest_close(&guest);
}

static struct guest nested;

static void touch_too(int signal)
{
	static uint64_t page = NR / 2;

	(void)signal;
	(void)*(volatile unsigned char *)(nested.mem + bytes(page++ % NR));
}

/* The main thread is all but always in the store, which takes its time. */
static void touch_twice(void)
{
	struct sigaction action = { .sa_handler = touch_too };

	signal(SIGBUS, SIG_DFL);
	begin(&nested, "delay:get=20ms");
	CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
	evict_all(&nested);
	set_alarm(5000);
	for (uint64_t page = 0; page < NR / 4; page++)
		(void)*(volatile unsigned char *)(nested.mem + bytes(page));
	_exit(3);
}

/* A fault in a handler that has interrupted the library's can't be served: it may be for the very
 * page.  It ends the process, as SIGBUS does where it is blocked, and does not hang it. */
static void fault_in_a_fault(void)
{
	int status = in_child(touch_twice);

	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* Those with children first. */
CHECK_MAIN({ "fault_in_a_fault", fault_in_a_fault }, { "no_system_call", no_system_call },
	   { "registers", registers }, { "among_signals", among_signals }, { "mask", mask },
	   { "signal_stacks", signal_stacks }, { "handler_in_front", handler_in_front })
