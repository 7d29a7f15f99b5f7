/* SPDX-License-Identifier: Apache-2.0
 *
 * forget.c — reading a userfaultfd, and what its events mean.
 *
 * What the kernel gives us: madvise(DONTNEED, REMOVE), munmap and mremap of a registered range
 * queue an event and wait until it has been read; until then every ioctl that changes the range
 * says EAGAIN. What that means here: reading the event is what lets the guest go on, so the page
 * words must say what the guest will find before anybody can install anything: read and change
 * happen with the gate closed. An event comes before the zap, so pages that are present stay as
 * they are: RESIDENT, and a hole soon.
 */
#include "fault/forget.h"

#include <errno.h>
#include <string.h>

#include "os/handed.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "util/hook.h"

static void drop_ref(struct ts_engine *engine, ts_word word)
{
	bool is_away = ts_word_is(word, TS_AWAY);

	if (!is_away && !(ts_word_is(word, TS_RESIDENT) && (word & TS_WORD_KEPT)))
		return;
	uint32_t frame = ts_word_payload(word);
	if (is_away)
		ts_frames_drop_page(&engine->frames, frame);
	else
		ts_frames_unref(&engine->frames, frame);
}

/* What a page's word becomes when the guest gives it up. */
static ts_word forgotten(ts_word word, bool is_unmapped, bool is_unit)
{
	if (ts_word_is(word, TS_COMING))
		return word | TS_WORD_REMOVED;
	if (is_unmapped)
		return ts_word_make(TS_GONE, 0, 0);
	switch (ts_word_state(word)) {
	case TS_AWAY:
	case TS_ZERO:
		/* RELEASING stays: the evictor is not done with the RAM. */
		return ts_word_make(TS_ZERO, word & TS_WORD_RELEASING, 0);
	case TS_RESIDENT:
		/* The zap is still to come, and nobody tells when it has happened: a page that is
		 * taken in between would bring its old contents back.  If it stays, a scan finds
		 * it. */
		return ts_word_make(TS_ZERO, 0, 0);
	case TS_LEAVING:
		/* The evictor of a hugetlb page keeps it until all of it is settled. */
		return ts_word_make(TS_ZERO, is_unit ? TS_WORD_RELEASING : 0, 0);
	case TS_GONE:
	case TS_COMING:
	case TS_STATE_COUNT:
		break;
	}
	return word;
}

void ts_forget_pages(struct ts_engine *engine, struct ts_shard *shard, uint32_t first_page,
		     uint32_t nr_pages, bool is_unmapped)
{
	struct ts_region *region = shard->region;
	uint64_t nr_removed = 0;

	for (uint32_t page = first_page; page < first_page + nr_pages; page++) {
		ts_word word = ts_word_load(&region->words[page]), to;
		do
			to = forgotten(word, is_unmapped, region->unit_pages > 1);
		while (to != word && !ts_word_swap(&region->words[page], &word, to));
		if (to == word)
			continue;
		drop_ref(engine, word);
		/* For so many scans not taken for a page again (track.c). */
		if (ts_word_is(to, TS_ZERO))
			ts_heat_store(&region->heat[page], ts_heat_make(0, region->guard_scans, 0));
		nr_removed++;
	}
	ts_bump(&region->counters.nr_removed, nr_removed);
}

/* Calls ts_forget_pages for the shard's pages in [addr, end). */
static void forget_range(struct ts_engine *engine, struct ts_shard *shard, uint64_t addr,
			 uint64_t end, bool is_unmapped)
{
	for (unsigned i = 0; i < shard->nr_extents; i++) {
		struct ts_extent *extent = &shard->extents[i];
		uint64_t extent_end = extent->addr + ((uint64_t)extent->nr_pages << TS_PAGE_SHIFT);
		uint64_t lo = TS_MAX(addr, extent->addr), hi = TS_MIN(end, extent_end);
		if (lo < hi)
			ts_forget_pages(engine, shard,
					extent->first_page +
					(uint32_t)((lo - extent->addr) >> TS_PAGE_SHIFT),
					(uint32_t)((hi - lo) >> TS_PAGE_SHIFT), is_unmapped);
	}
}

/* The move itself has happened; what can't be written down any more is given up with a poison on
 * touch (GONE), never answered with zeros. */
static void handle_remap(struct ts_engine *engine, struct ts_shard *shard, uint64_t from,
			 uint64_t to, uint64_t len_bytes)
{
	if (ts_shard_moved(shard, from, to, len_bytes))
		return;
	shard->has_lost_track = true;
	ts_bump(&shard->region->counters.failures[TS_FAIL_INSTALL], len_bytes >> TS_PAGE_SHIFT);
	forget_range(engine, shard, from, from + len_bytes, true);
}

/* Who waits at an address that is gone would wait for ever: installs go to the new one, or
 * nowhere. */
static void handle_event(struct ts_engine *engine, struct ts_shard *shard,
			 const struct uffd_msg *msg)
{
	TS_PHASE(TS_PHASE_EVENT_READ);
	switch (msg->event) {
	case UFFD_EVENT_REMOVE:
		forget_range(engine, shard, msg->arg.remove.start, msg->arg.remove.end, false);
		break;
	case UFFD_EVENT_UNMAP:
		forget_range(engine, shard, msg->arg.remove.start, msg->arg.remove.end, true);
		/* At the bound the extent stays; its pages are GONE. */
		(void)ts_shard_unmapped(shard, msg->arg.remove.start,
					msg->arg.remove.end - msg->arg.remove.start);
		(void)ts_uffd_wake(shard->uffd, msg->arg.remove.start,
				   msg->arg.remove.end - msg->arg.remove.start);
		break;
	case UFFD_EVENT_REMAP:
		handle_remap(engine, shard, msg->arg.remap.from, msg->arg.remap.to,
			     msg->arg.remap.len);
		(void)ts_uffd_wake(shard->uffd, msg->arg.remap.from, msg->arg.remap.len);
		break;
	case UFFD_EVENT_FORK:
		/* Not asked for by us; another process may have.  The child's own userfaultfd comes
		 * with the message: its memory is nobody's to serve, and becomes plain memory. */
		close((int)msg->arg.fork.ufd);
		break;
	default:
		break;
	}
}

int ts_shard_read(struct ts_engine *engine, struct ts_shard *shard, struct uffd_msg *faults,
		  unsigned faults_max)
{
	struct uffd_msg msgs[TS_FAULT_BATCH_MAX];
	size_t max_bytes = faults_max * sizeof(msgs[0]);
	unsigned nr_faults = 0;

	ts_gate_close(&shard->gate);
	ssize_t got = TS_INJECT(TS_SITE_UFFD_READ) ? -1 :
		      shard->region->is_remote ? ts_handed_read(shard->uffd, msgs, max_bytes) :
		      read(shard->uffd, msgs, max_bytes);
	int error = errno;
	for (size_t i = 0; got > 0 && i < (size_t)got / sizeof(msgs[0]); i++) {
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			faults[nr_faults++] = msgs[i];
		else
			handle_event(engine, shard, &msgs[i]);
	}
	ts_gate_reopen(&shard->gate);
	return got < 0 ? -error : (int)nr_faults;
}
