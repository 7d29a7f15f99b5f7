/* SPDX-License-Identifier: Apache-2.0
 *
 * server.c — fault threads: wait, read, serve, reap, try again (server.h).
 *
 * A thread's round: wait for a shard with messages or a store with results; read a batch of each
 * shard that has some, events first; serve the faults; end the reads that have completed; try again
 * what could not be done before.  What can't be done now (an event is queued, every slot is busy)
 * waits in a list of this thread; what finds no room there is forgotten, and asked for again when
 * there is room.
 */
#include "fault/server.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>

#include "fault/forget.h"
#include "fault/install.h"
#include "fault/place.h"
#include "fault/serve.h"
#include "fault/spin.h"
#include "fault/walk.h"
#include "os/handed.h"
#include "os/sys.h"
#include "os/uffd.h"
#include "util/thread.h"

enum {
	SHARDS_MAX = TS_REGION_MAX * TS_SHARD_MAX,
	/* Retries at full speed before a thread with something pending sleeps between them. */
	STUCK_ROUNDS = 256,
};

struct fault_thread {
	struct ts_fault_server *server;
	pthread_t thread;
	bool is_started;
	struct ts_place place;
	unsigned nr_stuck_rounds;
	int kick_fd;
	/* What it polls: the kick, then the stores' readers, then the shards (a copy of the
	 * server's list, made anew when that has changed). */
	struct pollfd *polls;
	struct ts_shard **shards;
	unsigned nr_fixed, nr_shards;
	uint64_t generation;
	struct ts_serve_ctx serve;
	struct ts_spin spin;
	struct ts_later pending[TS_DEFER_MAX];
	unsigned nr_pending;
	bool has_forgotten;           /* messages of some shard */
	uint64_t unknown_addr;        /* asked for once, and none of ours (handle_unknown()) */
	unsigned nr_unknown;
	/* The region that this thread has seen to be leaving and holds nothing of. */
	_Atomic(struct ts_region *) released;
};

struct ts_fault_server {
	struct ts_engine *engine;
	struct ts_crew crew;
	atomic_bool is_stopping;
	_Atomic(struct ts_region *) leaving; /* nobody reads its events, or waits for an answer */
	struct ts_ahead ahead;
	/* Guards shards[], nr_shards.  Taken by a fault thread only when the generation has
	 * changed. */
	pthread_mutex_t list_lock;
	_Atomic uint64_t generation;
	unsigned nr_shards;
	struct ts_shard *shards[SHARDS_MAX];
	struct fault_thread threads[];
};

static void kick(struct fault_thread *thread)
{
	uint64_t one = 1;

	/* The counter can't overflow: it is read every round. */
	(void)!write(thread->kick_fd, &one, sizeof(one));
}

/* ---- Serving ---------------------------------------------------------------------------- */

static unsigned nr_pending_of(const struct fault_thread *thread, const struct ts_shard *shard)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < thread->nr_pending; i++)
		nr += thread->pending[i].shard == shard;
	return nr;
}

static void push_pending(struct fault_thread *thread, struct ts_later later)
{
	if (later.shard->region->is_dropped || later.shard->region == thread->server->leaving)
		return;
	/* No room: forget the message.  Its sender sleeps on, and is woken, to fault again, as
	 * soon as there is room (wake_forgotten).  Not reading any more would be worse: what all
	 * these wait for may be an event that is queued behind them. */
	if (thread->nr_pending == TS_DEFER_MAX ||
	    (thread->nr_pending >= TS_DEFER_MAX / 2 &&
	     nr_pending_of(thread, later.shard) >= TS_DEFER_MAX / 4)) {
		later.shard->has_forgotten = true;
		thread->has_forgotten = true;
		return;
	}
	thread->pending[thread->nr_pending++] = later;
}

static void serve(struct fault_thread *thread, struct ts_later fault)
{
	if (ts_serve_page(&thread->serve, fault.shard, fault.page, fault.flags, fault.start_ns) ==
	    TS_SERVE_LATER)
		push_pending(thread, fault);
}

/* An address without a page.  Most often it was unmapped after the message had been sent, and the
 * kernel has its own answer; whoever asks a second time waits for ours.  Not at once: by the time a
 * stale message is read the address may be another region's.  Every other newcomer takes the place,
 * so that two of them don't drive each other out for ever. */
static void handle_unknown(struct fault_thread *thread, struct ts_shard *shard, uint64_t addr)
{
	/* Nobody but the other process knows what belongs there: wait for ts_region_add_range(). */
	if (shard->region->is_remote)
		return;
	if (thread->unknown_addr == addr)
		ts_install_unknown(shard, addr);
	else if (thread->nr_unknown++ % 2 == 0)
		thread->unknown_addr = addr;
	(void)ts_uffd_wake(shard->uffd, addr, TS_PAGE_BYTES);
}

static void handle_fault(struct fault_thread *thread, struct ts_shard *shard,
			 const struct uffd_msg *msg, ts_mono_ns start_ns)
{
	uint64_t addr = msg->arg.pagefault.address & ~(uint64_t)(TS_PAGE_BYTES - 1);
	uint64_t kernel_flags = msg->arg.pagefault.flags;
	struct ts_later fault = { .shard = shard, .start_ns = start_ns };

	ts_gate_share(&shard->gate);
	bool is_ours = ts_shard_page(shard, addr, &fault.page);
	ts_gate_unshare(&shard->gate);
	if (!is_ours) {
		handle_unknown(thread, shard, addr);
		return;
	}
	if (kernel_flags & UFFD_PAGEFAULT_FLAG_WRITE)
		fault.flags |= TS_SERVE_WRITE;
	if (kernel_flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_RWP))
		fault.flags |= TS_SERVE_GUARDED;
	if (kernel_flags & UFFD_PAGEFAULT_FLAG_MINOR)
		fault.flags |= TS_SERVE_MINOR;
	serve(thread, fault);
}

static void kick_helper(struct fault_thread *thread, int helper)
{
	if (TS_UNLIKELY(helper >= 0))
		kick(&thread->server->threads[helper]);
}

/* Returns how many faults it has handled. */
static int read_shard(struct fault_thread *thread, struct ts_shard *shard, bool is_at_once)
{
	struct uffd_msg faults[TS_FAULT_BATCH_MAX];
	struct ts_crew *crew = &thread->server->crew;
	unsigned nr_max = ts_place_read_max(crew, &thread->place, thread->serve.fetch.nr_busy > 0);
	int nr_faults = ts_shard_read(thread->server->engine, shard, faults, nr_max);
	struct ts_place_read read = { .nr_faults = nr_faults, .is_at_once = is_at_once,
				      .start_ns = ts_now_ns() };

	if (nr_faults > 0 && !shard->region->is_remote)
		read.tid = faults[0].arg.pagefault.feat.ptid;
	kick_helper(thread, ts_place_adapt(crew, &thread->place, &read));
	thread->serve.is_beside = ts_place_is_beside(&thread->place);
	for (int i = 0; i < nr_faults; i++)
		handle_fault(thread, shard, &faults[i], read.start_ns);
	for (int i = 0; i < nr_faults; i++) {
		uint32_t tid = shard->region->is_remote ? 0 :
			       faults[i].arg.pagefault.feat.ptid;
		bool has_read = thread->serve.fetch.nr_busy > 0;
		kick_helper(thread, ts_place_note(crew, &thread->place, tid, has_read));
	}
	if (TS_UNLIKELY(thread->serve.asked))
		ts_walk_go_on(&thread->serve);
	return nr_faults;
}

/* As long as there is nothing else to do, and never so long that another shard notices. */
static bool may_read_on(const struct fault_thread *thread)
{
	return !thread->nr_pending && !thread->serve.nr_later && !thread->serve.fetch.nr_busy &&
	       ts_place_may_read_on(&thread->server->crew, &thread->place);
}

static void serve_shard(struct fault_thread *thread, struct ts_shard *shard, short events)
{
	bool is_at_once = false;

	if (TS_UNLIKELY(events & POLLERR) && shard->region->is_remote)
		(void)ts_handed_unblock(shard->uffd);  /* its owner may have made it blocking */
	while (read_shard(thread, shard, is_at_once) > 0 && may_read_on(thread))
		is_at_once = true;
}

static void retry_pending(struct fault_thread *thread)
{
	struct ts_serve_ctx *ctx = &thread->serve;
	unsigned nr_pending = thread->nr_pending;

	thread->nr_pending = 0;
	for (unsigned i = 0; i < nr_pending; i++)
		serve(thread, thread->pending[i]);
	for (unsigned i = 0; i < ctx->nr_later; i++)
		push_pending(thread, ctx->later[i]);
	ctx->nr_later = 0;
}

/* Wakes everybody in the shards of which messages were forgotten. */
static void wake_forgotten(struct fault_thread *thread)
{
	/* Once there is room for what they will send, and none of the shard's own is left. */
	if (thread->nr_pending >= TS_DEFER_MAX / 2)
		return;
	thread->has_forgotten = false;
	for (unsigned s = 0; s < thread->nr_shards; s++) {
		struct ts_shard *shard = thread->shards[s];
		if (!atomic_load(&shard->has_forgotten))
			continue;
		if (nr_pending_of(thread, shard) ||
		    !atomic_exchange(&shard->has_forgotten, false)) {
			thread->has_forgotten = true;
			continue;
		}
		ts_gate_share(&shard->gate);
		for (unsigned i = 0; i < shard->nr_extents; i++)
			(void)ts_uffd_wake(shard->uffd, shard->extents[i].addr,
					   (uint64_t)shard->extents[i].nr_pages << TS_PAGE_SHIFT);
		ts_gate_unshare(&shard->gate);
	}
}

/* ---- Waiting ---------------------------------------------------------------------------- */

static void refresh_list(struct fault_thread *thread)
{
	struct ts_fault_server *server = thread->server;

	if (thread->generation == atomic_load_explicit(&server->generation, memory_order_acquire))
		return;
	TS_SCOPED_LOCK(&server->list_lock);
	thread->generation = atomic_load(&server->generation);
	thread->nr_shards = server->nr_shards;
	memcpy(thread->shards, server->shards, server->nr_shards * sizeof(server->shards[0]));
	for (unsigned i = 0; i < thread->nr_shards; i++)
		thread->polls[thread->nr_fixed + i] =
			(struct pollfd){ thread->shards[i]->uffd, POLLIN, 0 };
}

/* Not epoll: with several threads waiting, one that polls is woken on the CPU of the fault when the
 * scheduler may choose; an epoll instance adds a hop that loses this. */
static int wait_events(struct fault_thread *thread)
{
	struct ts_place *place = &thread->place;
	bool waits_for_faults = ts_place_waits(&thread->server->crew, place);
	nfds_t nr_polls = thread->nr_fixed + (waits_for_faults ? thread->nr_shards : 0);

	place->round_end_ns = ts_now_ns();
	if (thread->nr_pending) {
		/* What it waits for is another thread's work: an event to be read, which is a
		 * matter of microseconds, or a slow store that keeps all slots busy, which is not
		 * worth a CPU. */
		bool is_stuck = thread->nr_stuck_rounds++ > STUCK_ROUNDS;
		sched_yield();
		return poll(thread->polls, nr_polls, is_stuck ? 1 : 0);
	}
	thread->nr_stuck_rounds = 0;
	struct ts_spin_wait wait = {
		.polls = thread->polls,
		.nr_polls = nr_polls,
		.start_ns = place->round_end_ns,
		.spin_us = thread->server->engine->options.spin_us,
		.is_for_faults = waits_for_faults && ts_place_may_spin(place),
		.nr_reads = thread->serve.fetch.nr_busy,
	};
	return ts_spin_poll(&thread->spin, &wait);
}

static bool holds_region(const struct fault_thread *thread, const struct ts_region *region)
{
	for (unsigned i = 0; i < thread->nr_pending; i++)
		if (thread->pending[i].shard->region == region)
			return true;
	for (unsigned i = 0; i < thread->serve.fetch.depth; i++)
		if (thread->serve.fetch.slots[i].is_busy &&
		    thread->serve.fetch.slots[i].shard->region == region)
			return true;
	return false;
}

static void note_leaving(struct fault_thread *thread)
{
	struct ts_region *leaving = atomic_load(&thread->server->leaving);

	/* With an old list it might still read the region's messages in the next round. */
	if (leaving && thread->generation == atomic_load(&thread->server->generation) &&
	    !holds_region(thread, leaving))
		atomic_store(&thread->released, leaving);
}

static void round_of_work(struct fault_thread *thread)
{
	struct ts_ahead_place *ahead = &thread->server->ahead.places[thread->place.index];

	refresh_list(thread);
	atomic_store_explicit(&ahead->is_idle, !thread->nr_pending, memory_order_relaxed);
	int nr_events = wait_events(thread);
	atomic_store_explicit(&ahead->is_idle, false, memory_order_relaxed);
	if (nr_events > 0 && thread->polls[0].revents) {
		uint64_t ignored;
		(void)!read(thread->kick_fd, &ignored, sizeof(ignored));
	}
	for (unsigned i = 0; nr_events > 0 && i < thread->nr_shards; i++)
		if (thread->polls[thread->nr_fixed + i].revents) {
			short events = thread->polls[thread->nr_fixed + i].revents;
			thread->polls[thread->nr_fixed + i].revents = 0;
			serve_shard(thread, thread->shards[i], events);
		}
	ts_ahead_serve(ahead, &thread->serve);
	if (thread->serve.fetch.nr_busy)
		ts_serve_reap(&thread->serve, 0);
	if (thread->nr_pending || thread->serve.nr_later)
		retry_pending(thread);
	if (TS_UNLIKELY(thread->has_forgotten))
		wake_forgotten(thread);
	note_leaving(thread);
}

static void *run(void *arg)
{
	struct fault_thread *thread = arg;

	ts_place_begin(&thread->place);
	while (!atomic_load_explicit(&thread->server->is_stopping, memory_order_relaxed))
		round_of_work(thread);
	/* Reads that are under way end before their buffers go. */
	while (thread->serve.fetch.nr_busy)
		ts_serve_reap(&thread->serve, 100);
	return NULL;
}

/* ---- Life ------------------------------------------------------------------------------- */

static int prepare_thread(struct fault_thread *thread)
{
	struct ts_engine *engine = thread->server->engine;

	thread->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (thread->kick_fd < 0)
		return ts_fail(-errno, "fault thread: eventfd: %m");
	thread->polls = calloc(1 + TS_TIER_MAX + SHARDS_MAX, sizeof(*thread->polls));
	thread->shards = calloc(SHARDS_MAX, sizeof(struct ts_shard *));
	if (!thread->polls || !thread->shards)
		return ts_fail(-ENOMEM, "fault thread: out of memory");
	int rc = ts_serve_init(&thread->serve, engine, TS_FAULT_DEPTH_MAX);
	if (rc)
		return rc;
	ts_spin_init(&thread->spin);
	thread->serve.ahead = &thread->server->ahead;
	thread->server->ahead.places[thread->place.index].kick_fd = thread->kick_fd;
	thread->polls[thread->nr_fixed++] = (struct pollfd){ thread->kick_fd, POLLIN, 0 };
	for (unsigned t = 0; t < engine->nr_tiers; t++) {
		int fd = ts_fetch_poll_fd(&thread->serve.fetch, t);
		if (fd >= 0)
			thread->polls[thread->nr_fixed++] = (struct pollfd){ fd, POLLIN, 0 };
	}
	return 0;
}

static int start_thread(struct fault_thread *thread, unsigned index)
{
	char name[32];
	int rc = prepare_thread(thread);

	if (rc)
		return rc;
	snprintf(name, sizeof(name), "ts-fault-%u", index);
	rc = ts_thread_start(&thread->thread, name, run, thread);
	thread->is_started = !rc;
	return rc;
}

int ts_fault_server_create(struct ts_engine *engine, struct ts_fault_server **server_out)
{
	int cpus[TS_FAULT_THREAD_MAX];
	unsigned nr_threads = ts_place_threads(&engine->options, cpus);
	struct ts_fault_server *server = calloc(1, sizeof(*server) +
						nr_threads * sizeof(server->threads[0]));

	if (!server)
		return -ENOMEM;
	server->engine = engine;
	pthread_mutex_init(&server->list_lock, NULL);
	ts_crew_init(&server->crew, nr_threads);
	for (unsigned i = 0; i < nr_threads; i++) {
		struct fault_thread *thread = &server->threads[i];
		*thread = (struct fault_thread){ .server = server, .kick_fd = -1,
						 .place = { .index = i, .cpu = cpus[i] } };
		server->crew.nr_threads++;
		int rc = start_thread(thread, i);
		if (rc) {
			ts_fault_server_destroy(server);
			return rc;
		}
	}
	/* From here on, for before it a place might be without its thread. */
	server->ahead.nr_threads = nr_threads;
	*server_out = server;
	return 0;
}

struct ts_ahead *ts_fault_server_ahead(struct ts_fault_server *server)
{
	return &server->ahead;
}

static void finish_thread(struct fault_thread *thread)
{
	if (thread->is_started)
		pthread_join(thread->thread, NULL);
	if (thread->serve.engine)
		ts_serve_finish(&thread->serve);
	if (thread->kick_fd >= 0)
		close(thread->kick_fd);
	free(thread->polls);
	free(thread->shards);
}

void ts_fault_server_destroy(struct ts_fault_server *server)
{
	if (!server)
		return;
	atomic_store(&server->is_stopping, true);
	for (unsigned i = 0; i < server->crew.nr_threads; i++)
		if (server->threads[i].is_started)
			kick(&server->threads[i]);
	for (unsigned i = 0; i < server->crew.nr_threads; i++)
		finish_thread(&server->threads[i]);
	pthread_mutex_destroy(&server->list_lock);
	free(server);
}

static void list_changed(struct ts_fault_server *server)
{
	atomic_fetch_add_explicit(&server->generation, 1, memory_order_release);
	for (unsigned i = 0; i < server->crew.nr_threads; i++)
		kick(&server->threads[i]);
}

int ts_fault_server_add(struct ts_fault_server *server, struct ts_region *region)
{
	pthread_mutex_lock(&server->list_lock);
	bool has_room = server->nr_shards + region->nr_shards <= SHARDS_MAX;
	for (unsigned s = 0; has_room && s < region->nr_shards; s++)
		server->shards[server->nr_shards++] = &region->shards[s];
	pthread_mutex_unlock(&server->list_lock);
	list_changed(server);
	return has_room ? 0 : TS_ELIMIT;
}

static void unlist(struct ts_fault_server *server, const struct ts_region *region)
{
	unsigned nr_kept = 0;

	TS_SCOPED_LOCK(&server->list_lock);
	for (unsigned i = 0; i < server->nr_shards; i++)
		if (server->shards[i]->region != region)
			server->shards[nr_kept++] = server->shards[i];
	server->nr_shards = nr_kept;
}

void ts_fault_server_remove(struct ts_fault_server *server, struct ts_region *region)
{
	struct timespec pause = { .tv_nsec = 100000 };

	unlist(server, region);
	/* The list first: a thread that reports the region released has fetched the new list in the
	 * same round. */
	for (unsigned i = 0; i < server->crew.nr_threads; i++)
		atomic_store(&server->threads[i].released, NULL);
	list_changed(server);
	atomic_store(&server->leaving, region);
	for (unsigned i = 0; i < server->crew.nr_threads; i++)
		while (atomic_load(&server->threads[i].released) != region) {
			kick(&server->threads[i]);
			nanosleep(&pause, NULL);
		}
	atomic_store(&server->leaving, NULL);
}
