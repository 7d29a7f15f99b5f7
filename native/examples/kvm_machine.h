/* SPDX-License-Identifier: Apache-2.0
 *
 * kvm_machine.h — KVM as kvm_vmm.c needs it: a machine with two memory slots, vCPUs in 32-bit
 * protected mode, KVM_RUN.  Nothing here knows of tierstore.
 */
#ifndef KVM_MACHINE_H
#define KVM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kvm_guest.h"

struct machine {
	int kvm, fd;
	unsigned char *low;   /* code and mailboxes */
	uint64_t ram_bytes;
};

struct cpu {
	int fd;
	struct kvm_run *run;
	struct guest_mailbox *mailbox;
	uint64_t ram_bytes;
	uint64_t run_ns_max;  /* the longest stay in KVM_RUN, faults and all */
};

#define DIE(code, ...) \
	do { \
		fprintf(stderr, "kvm_vmm: " __VA_ARGS__); \
		fputc('\n', stderr); \
		exit(code); \
	} while (0)

/* These end the program when the host can't do it. */
void *machine_map(uint64_t len_bytes, int memfd);
void machine_make(struct machine *machine, void *ram, uint64_t ram_bytes);
void machine_add_cpu(struct machine *machine, struct cpu *cpu, uint32_t index);

/* Until the guest has done its batch.  serve: asked to bring a page of RAM back when KVM leaves
 * because it could not reach it; false if that is not possible. */
void machine_run(struct cpu *cpu, bool (*serve)(uint64_t offset_bytes));

uint64_t now_ns(void);

#endif
