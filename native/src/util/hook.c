/* SPDX-License-Identifier: Apache-2.0
 * hook.c — failure injection and barriers for tests (hook.h). */
#include "util/hook.h"

#ifdef TS_HOOKS
#include <errno.h>
#include <stdatomic.h>

#include "util/base.h"

static struct {
	_Atomic uint64_t mask;  /* 0: off, and the only thing the fast path reads */
	_Atomic uint64_t nth, calls, failed;
	_Atomic int error, sticky;
} inject;

void ts_hook_inject(uint64_t site_mask, uint64_t nth, int error, int sticky)
{
	atomic_store(&inject.mask, 0);
	atomic_store(&inject.nth, nth);
	atomic_store(&inject.calls, 0);
	atomic_store(&inject.failed, 0);
	atomic_store(&inject.error, error);
	atomic_store(&inject.sticky, sticky);
	atomic_store(&inject.mask, site_mask);
}

uint64_t ts_hook_inject_count(uint64_t *failed_out)
{
	if (failed_out)
		*failed_out = atomic_load(&inject.failed);
	return atomic_load(&inject.calls);
}

int ts_hook_inject_(enum ts_site site)
{
	uint64_t mask = atomic_load_explicit(&inject.mask, memory_order_acquire);

	if (TS_LIKELY(!(mask & (UINT64_C(1) << site))))
		return 0;
	uint64_t nth = atomic_load(&inject.nth);
	uint64_t call = atomic_fetch_add(&inject.calls, 1) + 1;
	if (nth == 0 || call < nth || (call > nth && !atomic_load(&inject.sticky)))
		return 0;
	atomic_fetch_add(&inject.failed, 1);
	errno = atomic_load(&inject.error);
	return 1;
}

static pthread_mutex_t phase_lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards phases[].  Innermost. */
static pthread_cond_t phase_changed = PTHREAD_COND_INITIALIZER;
static struct {
	bool is_armed, is_parked;
} phases[TS_PHASE_COUNT];
static _Atomic unsigned nr_armed;  /* 0: no thread takes the lock */

void ts_hook_park(int phase)
{
	TS_SCOPED_LOCK(&phase_lock);
	if (!phases[phase].is_armed)
		atomic_fetch_add(&nr_armed, 1);
	phases[phase].is_armed = true;
}

int ts_hook_wait(int phase, int timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	TS_SCOPED_LOCK(&phase_lock);
	while (!phases[phase].is_parked)
		if (pthread_cond_timedwait(&phase_changed, &phase_lock, &until))
			return -ETIMEDOUT;
	return 0;
}

void ts_hook_release(int phase)
{
	TS_SCOPED_LOCK(&phase_lock);
	if (phases[phase].is_armed)
		atomic_fetch_sub(&nr_armed, 1);
	phases[phase].is_armed = false;
	phases[phase].is_parked = false;
	pthread_cond_broadcast(&phase_changed);
}

void ts_hook_phase_(enum ts_phase phase)
{
	if (TS_LIKELY(!atomic_load_explicit(&nr_armed, memory_order_acquire)))
		return;
	TS_SCOPED_LOCK(&phase_lock);
	if (!phases[phase].is_armed || phases[phase].is_parked)
		return;
	phases[phase].is_parked = true;
	pthread_cond_broadcast(&phase_changed);
	while (phases[phase].is_parked)
		pthread_cond_wait(&phase_changed, &phase_lock);
}

static _Atomic uint64_t knobs[TS_KNOB_COUNT];

void ts_hook_set_knob(int knob, uint64_t value)
{
	atomic_store(&knobs[knob], value);
}

uint64_t ts_hook_knob_(enum ts_knob knob, uint64_t usual)
{
	uint64_t value = atomic_load_explicit(&knobs[knob], memory_order_relaxed);

	return value ? value : usual;
}
#else
typedef int ts_hook_translation_unit_not_empty;
#endif
