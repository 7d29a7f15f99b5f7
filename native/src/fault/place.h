/* SPDX-License-Identifier: Apache-2.0
 * place.h — how many fault threads there are, and on which CPUs. */
#ifndef TS_FAULT_PLACE_H
#define TS_FAULT_PLACE_H

#include <tierstore/tierstore.h>

/* Fills cpus[TS_FAULT_THREAD_MAX] with where the threads shall run (-1: anywhere); returns how many
 * there shall be. */
unsigned ts_place_threads(const struct ts_engine_options *options, int *cpus);
/* The calling thread, to one of these. */
void ts_place_pin(int cpu);

#endif
