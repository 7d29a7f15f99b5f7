/* SPDX-License-Identifier: Apache-2.0
 *
 * gate.h — orders the events of a userfaultfd against everything that acts on its addresses.
 *
 * A REMOVE event lets the guest's madvise() go on as soon as it has been read.  A page that is
 * installed after that, from a decision made before, would bring back contents that the guest gave
 * up.  So: whoever reads events holds the gate alone, and changes the page words before letting
 * go; whoever installs, takes or protects pages shares the gate from its last look at the word
 * (or at the address) to the end of the ioctl.
 *
 * Held for one system call, a few microseconds (discard: for 4096 words); taken by fault threads,
 * evictors and restorers of one shard, and by the control plane for a look at addresses; never
 * while waiting for anything.  Innermost, but for the
 * kernel's own locks.  The exclusive side does not wait for newcomers: readers of events are rare,
 * installs are short, and both sides yield.
 */
#ifndef TS_PAGE_GATE_H
#define TS_PAGE_GATE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "util/base.h"

struct ts_gate {
	_Atomic int holders;  /* > 0: that many share it; -1: held alone */
	_Atomic int waiting;  /* threads that want it alone: newcomers let them go first */
};

enum { TS_GATE_SPINS = 200 };

static inline void ts_gate_pause(unsigned *spins)
{
	if (++*spins % TS_GATE_SPINS == 0)
		sched_yield();
	else
		ts_cpu_relax();
}

static inline void ts_gate_share(struct ts_gate *gate)
{
	unsigned spins = 0;

	for (;;) {
		int holders = atomic_load_explicit(&gate->holders, memory_order_relaxed);
		if (holders >= 0 &&
		    !atomic_load_explicit(&gate->waiting, memory_order_relaxed) &&
		    atomic_compare_exchange_weak_explicit(&gate->holders, &holders, holders + 1,
							  memory_order_acquire,
							  memory_order_relaxed))
			return;
		ts_gate_pause(&spins);
	}
}

static inline void ts_gate_unshare(struct ts_gate *gate)
{
	atomic_fetch_sub_explicit(&gate->holders, 1, memory_order_release);
}

static inline bool ts_gate_try_close(struct ts_gate *gate)
{
	int holders = 0;
	return atomic_compare_exchange_strong_explicit(&gate->holders, &holders, -1,
						       memory_order_acquire, memory_order_relaxed);
}

static inline void ts_gate_close(struct ts_gate *gate)
{
	unsigned spins = 0;

	if (ts_gate_try_close(gate))
		return;
	atomic_fetch_add_explicit(&gate->waiting, 1, memory_order_relaxed);
	while (!ts_gate_try_close(gate))
		ts_gate_pause(&spins);
	atomic_fetch_sub_explicit(&gate->waiting, 1, memory_order_relaxed);
}

static inline void ts_gate_reopen(struct ts_gate *gate)
{
	atomic_store_explicit(&gate->holders, 0, memory_order_release);
}

#endif
