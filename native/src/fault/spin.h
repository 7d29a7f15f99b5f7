/* SPDX-License-Identifier: Apache-2.0
 *
 * spin.h — a short look around before a fault thread sleeps.
 *
 * A CPU that has fallen asleep takes 30 to 50 us to come back, above all in a virtual machine, and
 * sleeping and waking cost CPU time as well.  So a thread polls before it sleeps where that has
 * lately been worth it:
 *
 * - for a read or two, since a disk answers in 50 to 100 us; where reads take longer it is in vain,
 *   and tried more and more seldom;
 * - for the next fault, when the last ones came soon after one another, and no longer than a
 *   wake-up would cost: whatever comes then, the polling was at most as dear as what it avoids.
 *
 * bench/README.md has what each gives and costs.
 */
#ifndef TS_FAULT_SPIN_H
#define TS_FAULT_SPIN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/base.h"

struct ts_spin {
	bool has_cpus;       /* more than one */
	uint32_t nr_misses;  /* in a row, of reads */
	uint32_t nr_skips;   /* so often not at all for reads */
	uint32_t nr_soon;    /* faults that came soon, less those that did not */
};

/* One wait. */
struct ts_spin_wait {
	struct pollfd *polls;
	nfds_t nr_polls;
	ts_mono_ns start_ns;  /* now */
	uint32_t spin_us;     /* at least so long; 0: see above */
	bool is_for_faults;   /* of threads that don't need this CPU */
	unsigned nr_reads;    /* under way */
};

void ts_spin_init(struct ts_spin *spin);
/* poll(2) without a time limit, after a look around.  Returns what poll(2) returns. */
int ts_spin_poll(struct ts_spin *spin, const struct ts_spin_wait *wait);

#endif
