/* SPDX-License-Identifier: Apache-2.0
 *
 * kvm_guest.h — the guest of kvm_vmm.c: what it does, and the page of memory through which the host
 * tells it.
 *
 * The guest is a few dozen instructions of 32-bit protected mode without paging, carried by the
 * VMM as bytes.  It takes batches of pages from its mailbox; each page is compared with what it
 * must hold, every byte of it, and then, if the host says so, written anew.  At the end of a batch
 * it writes to an I/O port, which leaves KVM_RUN, and finds the next batch when it runs again.
 */
#ifndef KVM_GUEST_H
#define KVM_GUEST_H

#include <stdint.h>

enum {
	GUEST_CODE_ADDR = 0x1000,     /* in the guest's physical memory */
	GUEST_MAILBOX_ADDR = 0x10000, /* one for each vCPU, one after the other ... */
	GUEST_MAILBOX_BYTES = 0x2000, /* ... with its stack at the end */
	GUEST_LOW_BYTES = 0x40000,    /* code and mailboxes: a memory slot of its own */
	GUEST_RAM_ADDR = 0x10000000,
	GUEST_RAM_MIB_MAX = 2048,
	GUEST_PORT = 0xe9,
	GUEST_BATCH_MAX = 256,
};

/* What a page holds in version v: 64 lines of 64 bytes, each sixteen times one number, which starts
 * at page * GUEST_PAGE_FACTOR + v * GUEST_VERSION_FACTOR and grows by one a line. */
#define GUEST_PAGE_FACTOR 0x9e3779b1u
#define GUEST_VERSION_FACTOR 0x85ebca6bu
enum { GUEST_LINE_BYTES = 64, GUEST_SPARSE_BYTES = 256 };

struct guest_entry {
	uint32_t page;
	uint32_t expected;  /* version that is there; 0: overwrite it without a look */
	uint32_t written;   /* version to write; 0: leave it */
};

struct guest_mailbox {
	uint32_t nr_entries;
	uint32_t nr_wrong;     /* the guest counts */
	uint32_t wrong_page;   /* the last of them */
	uint32_t wrong_offset; /* of a wrong line in it (not sparse) */
	uint32_t is_sparse;    /* touch one number in 256 bytes, for hosts that emulate the guest */
	struct guest_entry entries[GUEST_BATCH_MAX];
};

/* Starts with ebx: its mailbox, esi: its RAM, esp: a stack of 64 bytes. */
extern const unsigned char guest_code[], guest_code_end[];

#endif
