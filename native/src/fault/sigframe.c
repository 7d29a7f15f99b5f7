/* SPDX-License-Identifier: Apache-2.0
 *
 * sigframe.c — registers put back from a signal's frame, on x86-64 (sigframe.h).
 *
 * What may_leave() asks, and why:
 *  - the kernel itself called the handler, on the frame that is given: else there is a caller to
 *    return to (a handler that chains to ours, a sanitizer, an emulator), which lays its frames
 *    differently;
 *  - a fault of user-mode code at an address, so no system call has to be begun again;
 *  - the frame has all vector registers, in the form that XRSTOR takes;
 *  - no signal stack that is disarmed while a handler is on it;
 *  - no shadow stack: the kernel has put a token on that, which only it can take off;
 *  - the frame right below the red zone of the interrupted code, on the same stack.
 *
 * Flags and instruction pointer must come last and together, from memory, since no register is
 * left.  They are put between red zone and frame, where the vector registers were that are back in
 * place by then, so nothing is written that is not the frame's.  IRETQ would do without, but QEMU
 * 7.2 emulates it with the kernel's rights, and the kernel inside then kills the thread.  A signal
 * that comes meanwhile finds a stack that is in order at every instruction.
 */
#include "fault/sigframe.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ucontext.h>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* As in the kernel's asm/ucontext.h, asm/sigcontext.h and linux/signal.h, which don't go together
 * with the C library's headers. */
enum {
	HAS_XSTATE = 1, HAS_SS = 2,         /* uc_flags */
	CODE_64BIT = 0x33,
	SW_BYTES_AT = 464,                  /* in the FXSAVE image */
	XSTATE_MAGIC1 = 0x46505853,
	XSTATE_ALIGN = 64,
	RED_ZONE = 128,
};

static const int autodisarm = (int)(1u << 31);

struct sw_bytes {
	uint32_t magic1, extended_bytes;
	uint64_t features;
};

static uint64_t shadow_stack(void)
{
	uint64_t pointer = 0;

	/* Does nothing where there is none. */
	__asm__ volatile("rdsspq %0" : "+r"(pointer));
	return pointer;
}

bool ts_sigframe_may_leave(const void *cfa, const siginfo_t *info, const void *context)
{
	const ucontext_t *frame = context;
	const char *state = (const char *)frame->uc_mcontext.fpregs;

	if (cfa != context || info->si_code != BUS_ADRERR ||
	    (frame->uc_flags & (HAS_XSTATE | HAS_SS)) != (HAS_XSTATE | HAS_SS) ||
	    (frame->uc_stack.ss_flags & autodisarm) || !state ||
	    (frame->uc_mcontext.gregs[REG_CSGSFS] & 0xffff) != CODE_64BIT || shadow_stack())
		return false;
	const struct sw_bytes *sw = (const void *)(state + SW_BYTES_AT);
	uint64_t end = (uintptr_t)state + sw->extended_bytes;
	uint64_t gap_bytes = (uint64_t)frame->uc_mcontext.gregs[REG_RSP] - RED_ZONE - end;
	return sw->magic1 == XSTATE_MAGIC1 && gap_bytes < XSTATE_ALIGN;
}

#define AT(reg) (offsetof(ucontext_t, uc_mcontext.gregs) + REG_##reg * sizeof(greg_t))
/* They are popped from where they are. */
_Static_assert(REG_R8 == 0 && REG_RDI == 8 && REG_RSI == 9 && REG_RBP == 10 && REG_RBX == 11 &&
	       REG_RDX == 12 && REG_RAX == 13 && REG_RCX == 14 && REG_RSP == 15, "in this order");

_Noreturn void ts_sigframe_leave(const void *context)
{
	__asm__ volatile(
		"mov %c[fpregs](%%rbx), %%rdi\n\t"
		"mov %c[features](%%rdi), %%eax\n\t"
		"mov %c[features] + 4(%%rdi), %%edx\n\t"
		"xrstor64 (%%rdi)\n\t"
		"mov %c[rsp](%%rbx), %%rdi\n\t"
		"mov %c[flags](%%rbx), %%rax\n\t"
		"mov %c[rip](%%rbx), %%rdx\n\t"
		"lea -%c[red_zone] - 16(%%rdi), %%rdi\n\t"
		"mov %%rax, (%%rdi)\n\t"
		"mov %%rdx, 8(%%rdi)\n\t"
		"mov %%rdi, %c[rsp](%%rbx)\n\t"
		"lea %c[first](%%rbx), %%rsp\n\t"
		"pop %%r8\n\t"
		"pop %%r9\n\t"
		"pop %%r10\n\t"
		"pop %%r11\n\t"
		"pop %%r12\n\t"
		"pop %%r13\n\t"
		"pop %%r14\n\t"
		"pop %%r15\n\t"
		"pop %%rdi\n\t"
		"pop %%rsi\n\t"
		"pop %%rbp\n\t"
		"pop %%rbx\n\t"
		"pop %%rdx\n\t"
		"pop %%rax\n\t"
		"pop %%rcx\n\t"
		"pop %%rsp\n\t"
		"popfq\n\t"
		"ret %[red_zone]"
		: : "b"(context), [fpregs] "i"(offsetof(ucontext_t, uc_mcontext.fpregs)),
		  [features] "i"(SW_BYTES_AT + offsetof(struct sw_bytes, features)),
		  [first] "i"(AT(R8)), [rsp] "i"(AT(RSP)), [flags] "i"(AT(EFL)), [rip] "i"(AT(RIP)),
		  [red_zone] "i"(RED_ZONE)
		: "memory");
	__builtin_unreachable();
}

#else

bool ts_sigframe_may_leave(const void *cfa, const siginfo_t *info, const void *context)
{
	(void)cfa;
	(void)info;
	(void)context;
	return false;
}

_Noreturn void ts_sigframe_leave(const void *context)
{
	(void)context;
	__builtin_trap();
}

#endif
