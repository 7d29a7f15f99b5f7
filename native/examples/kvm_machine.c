/* SPDX-License-Identifier: Apache-2.0
 * kvm_machine.c — the calls to KVM (kvm_machine.h). */
#include "kvm_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CR0_PROTECTED = 1, CR0_FPU = 0x10, TYPE_CODE = 11, TYPE_DATA = 3 };

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int kvm_call(int fd, const char *what, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		DIE(3, "%s: %s", what, strerror(errno));
	return result;
}

/* For arguments that are numbers. */
static int kvm_call_number(int fd, const char *what, unsigned long request, unsigned long number)
{
	return kvm_call(fd, what, request, (void *)number);
}

static void *map_shared(uint64_t len_bytes, int fd)
{
	void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		DIE(3, "mmap of %llu bytes: %s", (unsigned long long)len_bytes, strerror(errno));
	return memory;
}

void *machine_map(uint64_t len_bytes, int memfd)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (memfd >= 0)
		return map_shared(len_bytes, memfd);
	void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (memory == MAP_FAILED)
		DIE(3, "mmap of %llu bytes: %s", (unsigned long long)len_bytes, strerror(errno));
	return memory;
}

static void add_slot(struct machine *machine, uint32_t slot, uint64_t guest_addr, void *memory,
		     uint64_t len_bytes)
{
	struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = guest_addr,
		.memory_size = len_bytes, .userspace_addr = (uintptr_t)memory };

	kvm_call(machine->fd, "KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, &region);
}

void machine_make(struct machine *machine, void *ram, uint64_t ram_bytes)
{
	machine->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm < 0)
		DIE(3, "/dev/kvm: %s", strerror(errno));
	machine->fd = kvm_call(machine->kvm, "KVM_CREATE_VM", KVM_CREATE_VM, NULL);
	/* Three pages that Intel's processors want for themselves. */
	kvm_call_number(machine->fd, "KVM_SET_TSS_ADDR", KVM_SET_TSS_ADDR, 0xfffbd000);
	machine->ram_bytes = ram_bytes;
	machine->low = machine_map(GUEST_LOW_BYTES, -1);
	memcpy(machine->low + GUEST_CODE_ADDR, guest_code, (size_t)(guest_code_end - guest_code));
	add_slot(machine, 0, 0, machine->low, GUEST_LOW_BYTES);
	add_slot(machine, 1, GUEST_RAM_ADDR, ram, ram_bytes);
}

static struct kvm_segment flat(uint8_t type)
{
	return (struct kvm_segment){ .base = 0, .limit = 0xffffffff, .type = type,
		.selector = type == TYPE_CODE ? 8 : 16, .present = 1, .db = 1, .s = 1, .g = 1 };
}

static void set_registers(const struct cpu *cpu, uint32_t mailbox_addr)
{
	struct kvm_sregs system;
	struct kvm_regs general = { .rip = GUEST_CODE_ADDR, .rflags = 2, .rbx = mailbox_addr,
		.rsp = mailbox_addr + GUEST_MAILBOX_BYTES, .rsi = GUEST_RAM_ADDR };

	kvm_call(cpu->fd, "KVM_GET_SREGS", KVM_GET_SREGS, &system);
	system.cs = flat(TYPE_CODE);
	system.ds = flat(TYPE_DATA);
	system.es = system.fs = system.gs = system.ss = system.ds;
	system.cr0 = CR0_PROTECTED | CR0_FPU;
	kvm_call(cpu->fd, "KVM_SET_SREGS", KVM_SET_SREGS, &system);
	kvm_call(cpu->fd, "KVM_SET_REGS", KVM_SET_REGS, &general);
}

void machine_add_cpu(struct machine *machine, struct cpu *cpu, uint32_t index)
{
	uint32_t mailbox_addr = GUEST_MAILBOX_ADDR + index * GUEST_MAILBOX_BYTES;
	int len_bytes = kvm_call(machine->kvm, "KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE,
				 NULL);

	cpu->fd = kvm_call_number(machine->fd, "KVM_CREATE_VCPU", KVM_CREATE_VCPU, index);
	cpu->run = map_shared((uint64_t)len_bytes, cpu->fd);
	cpu->mailbox = (void *)(machine->low + mailbox_addr);
	cpu->ram_bytes = machine->ram_bytes;
	set_registers(cpu, mailbox_addr);
}

/* Whether it left because of a page of RAM, which is there now. */
static bool is_served(const struct cpu *cpu, bool (*serve)(uint64_t offset_bytes))
{
#ifdef KVM_EXIT_MEMORY_FAULT
	uint64_t offset_bytes = cpu->run->memory_fault.gpa - GUEST_RAM_ADDR;

	return cpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT && offset_bytes < cpu->ram_bytes &&
	       serve(offset_bytes);
#else
	return false;
#endif
}

void machine_run(struct cpu *cpu, bool (*serve)(uint64_t offset_bytes))
{
	for (;;) {
		uint64_t start_ns = now_ns();
		int rc = ioctl(cpu->fd, KVM_RUN, NULL);
		uint64_t run_ns = now_ns() - start_ns;
		if (run_ns > cpu->run_ns_max)
			cpu->run_ns_max = run_ns;
		if (rc < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (rc == 0 && cpu->run->exit_reason == KVM_EXIT_IO &&
		    cpu->run->io.port == GUEST_PORT)
			return;
		if (!is_served(cpu, serve))
			DIE(3, "KVM_RUN: %s, exit reason %u", rc ? strerror(errno) : "no error",
			    cpu->run->exit_reason);
	}
}
