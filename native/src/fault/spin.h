/* SPDX-License-Identifier: Apache-2.0
 *
 * spin.h — a short look around before a fault thread sleeps.
 *
 * A disk's read takes 50 to 100 us, and a CPU that fell asleep meanwhile as long again to come
 * back, above all in a virtual machine.  So a thread that waits for a read or two polls that long
 * before it sleeps: the fault takes two thirds of the time, for a quarter more CPU
 * (bench/README.md).  Where reads take longer that is in vain, and is tried more and more seldom.
 */
#ifndef TS_FAULT_SPIN_H
#define TS_FAULT_SPIN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct ts_spin {
	bool has_cpus;       /* more than one */
	uint32_t nr_misses;  /* in a row */
	uint32_t nr_skips;   /* so often not at all */
};

void ts_spin_init(struct ts_spin *spin);
/* poll(2) without a time limit, after polling for spin_us, or for the next of nr_reads reads. */
int ts_spin_poll(struct ts_spin *spin, struct pollfd *polls, nfds_t nr_polls, uint32_t spin_us,
		 unsigned nr_reads);

#endif
