/* SPDX-License-Identifier: Apache-2.0
 * forget.h — pages that the guest gave up: removed (balloon) or unmapped. */
#ifndef TS_FAULT_FORGET_H
#define TS_FAULT_FORGET_H

#include "core/engine.h"

/* Forgets what is stored of [first, first + nr) of the shard's region.  With is_unmapped the pages
 * are GONE, else they read as zeros.  The shard's gate is closed. */
void ts_forget_pages(struct ts_engine *engine, struct ts_shard *shard, uint32_t first_page,
		     uint32_t nr_pages, bool is_unmapped);

/* Reads and handles what a userfaultfd has to say about its own range, with the gate closed; page
 * faults go to faults[faults_max], of TS_FAULT_BATCH_MAX at most.  Returns how many, or -errno
 * (-EAGAIN: nothing). */
struct uffd_msg;
int ts_shard_read(struct ts_engine *engine, struct ts_shard *shard, struct uffd_msg *faults,
		  unsigned faults_max);

#endif
