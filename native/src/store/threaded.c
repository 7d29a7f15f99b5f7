/* SPDX-License-Identifier: Apache-2.0
 *
 * threaded.c — gives a store whose get() blocks threads of its own, so that no fault waits for
 * another page's disk.  ts_store_open() puts it around every TS_STORE_BLOCKING_GET store; the
 * wrap list may name it with another number of threads ("thread:n=4").
 *
 * get() puts the request into a queue and returns 1.  A worker takes it out, calls the store with
 * a reader of its own, and appends it to its reader's done list, whose eventfd is readable as long
 * as the list is not empty.  Every reader has depth_max jobs, linked into the queue: it can't
 * overflow and nothing is allocated.  No lock is held while the store is called.
 */
#include "store/threaded.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "store/wrap.h"
#include "util/hook.h"
#include "util/thread.h"

struct job {
	struct ts_get *request;
	struct thread_reader *reader;
	struct job *next;
};

struct job_list {
	struct job *head, *tail;
};

struct worker {
	pthread_t thread;
	struct thread_store *store;
	struct ts_reader *reader;
};

struct thread_store {
	struct ts_wrap wrap;
	pthread_mutex_t lock;   /* guards queue and is_closing; innermost */
	pthread_cond_t changed;
	struct job_list queue;
	bool is_closing;
	uint32_t nr_workers;    /* running */
	struct worker workers[TS_STORE_THREAD_MAX];
};

struct thread_reader {
	struct ts_reader base;
	int event_fd;
	pthread_mutex_t lock;   /* guards the two lists and the eventfd's state; innermost */
	struct job_list done, spare;
	struct job jobs[];
};

static void list_push(struct job_list *list, struct job *job)
{
	job->next = NULL;
	if (list->head)
		list->tail->next = job;
	else
		list->head = job;
	list->tail = job;
}

static struct job *list_pop(struct job_list *list)
{
	struct job *job = list->head;

	if (job)
		list->head = job->next;
	return job;
}

/* Hands a completed job back to its reader. */
static void job_done(struct job *job)
{
	struct thread_reader *reader = job->reader;
	uint64_t one = 1;

	TS_SCOPED_LOCK(&reader->lock);
	if (!reader->done.head)
		TS_ASSERT(write(reader->event_fd, &one, sizeof(one)) == sizeof(one));
	list_push(&reader->done, job);
}

/* Blocks until the store has answered. */
static void job_run(struct worker *worker, struct job *job)
{
	struct ts_get *done;
	int result = ts_store_get(worker->reader, job->request);

	/* A store may block in get() and yet answer later.  It has the buffer until it has
	 * answered, so that a failing reap() can't end the wait. */
	while (result == 1) {
		int nr_done = ts_store_reap(worker->reader, &done, 1, -1);

		if (nr_done == 1)
			result = 0;
		else
			poll(NULL, 0, 1);
	}
	job_done(job);
}

static void *worker_main(void *context)
{
	struct worker *worker = context;
	struct thread_store *store = worker->store;

	for (;;) {
		pthread_mutex_lock(&store->lock);
		while (!store->queue.head && !store->is_closing)
			pthread_cond_wait(&store->changed, &store->lock);
		struct job *job = list_pop(&store->queue);
		pthread_mutex_unlock(&store->lock);
		if (!job)
			return NULL;
		job_run(worker, job);
	}
}

/* Starts one worker; signals are for the host program's own threads. */
static int worker_start(struct thread_store *store)
{
	struct worker *worker = &store->workers[store->nr_workers];

	worker->store = store;
	int result = ts_store_reader_open(store->wrap.next, &worker->reader);
	if (result < 0)
		return result;
	result = ts_thread_start(&worker->thread, "ts-store-read", worker_main, worker);
	if (result < 0) {
		ts_store_reader_close(worker->reader);
		return result;
	}
	store->nr_workers++;
	return 0;
}

static void workers_stop(struct thread_store *store)
{
	pthread_mutex_lock(&store->lock);
	store->is_closing = true;
	pthread_cond_broadcast(&store->changed);
	pthread_mutex_unlock(&store->lock);
	for (; store->nr_workers > 0; store->nr_workers--) {
		struct worker *worker = &store->workers[store->nr_workers - 1];

		pthread_join(worker->thread, NULL);
		ts_store_reader_close(worker->reader);
	}
	pthread_cond_destroy(&store->changed);
	pthread_mutex_destroy(&store->lock);
}

static void thread_close(struct ts_store *base)
{
	if (!base)
		return;
	workers_stop((struct thread_store *)base);
	ts_wrap_close(base);
}

static int thread_option(void *context, const char *key, const char *value)
{
	uint64_t *nr_threads = context;

	if (strcmp(key, "n") != 0)
		return ts_fail(TS_ECONFIG, "thread: no option '%s'; there is: n", key);
	int result = ts_option_number("thread", key, value, TS_STORE_THREAD_MAX, nr_threads);
	if (result == 0 && *nr_threads == 0)
		return ts_fail(TS_ECONFIG, "thread: n=0; at least one is needed");
	return result;
}

static const struct ts_store_ops thread_ops;

static int thread_open(struct ts_store *next, const struct ts_store_config *config,
		       struct ts_store **store_out)
{
	uint64_t nr_threads = 1;
	int result = ts_options_parse("thread", config->options, thread_option, &nr_threads);

	if (result < 0)
		return result;
	if (nr_threads > config->reader_max)
		return ts_fail(TS_ECONFIG, "thread: n=%llu, but the store has %u readers at most",
			       (unsigned long long)nr_threads, config->reader_max);
	struct thread_store *store = ts_wrap_create(sizeof(*store), &thread_ops, next, config);
	if (!store)
		return -ENOMEM;
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->changed, NULL);
	while (result == 0 && store->nr_workers < nr_threads)
		result = worker_start(store);
	if (result < 0) {
		workers_stop(store);
		free(store);
		return result;
	}
	*store_out = &store->wrap.base;
	return 0;
}

static int thread_reader_open(struct ts_store *base, struct ts_reader **reader_out)
{
	struct thread_store *store = (struct thread_store *)base;
	uint32_t nr_jobs = store->wrap.depth_max;
	struct thread_reader *reader =
		TS_INJECT(TS_SITE_ALLOC)
			? NULL
			: calloc(1, sizeof(*reader) + nr_jobs * sizeof(reader->jobs[0]));

	if (!reader)
		return ts_fail(-ENOMEM, "store '%s': no memory for a reader", store->wrap.name);
	reader->event_fd = TS_INJECT(TS_SITE_OPEN) ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (reader->event_fd < 0) {
		int error = errno;

		free(reader);
		return ts_fail(-error, "store '%s': eventfd: %s", store->wrap.name,
			       strerror(error));
	}
	pthread_mutex_init(&reader->lock, NULL);
	for (uint32_t i = 0; i < nr_jobs; i++) {
		reader->jobs[i].reader = reader;
		list_push(&reader->spare, &reader->jobs[i]);
	}
	reader->base.store = base;
	*reader_out = &reader->base;
	return 0;
}

static void thread_reader_close(struct ts_reader *base)
{
	struct thread_reader *reader = (struct thread_reader *)base;

	if (!reader)
		return;
	close(reader->event_fd);
	pthread_mutex_destroy(&reader->lock);
	free(reader);
}

static int thread_get(struct ts_reader *base, struct ts_get *request)
{
	struct thread_reader *reader = (struct thread_reader *)base;
	struct thread_store *store = (struct thread_store *)base->store;
	struct job *job;

	pthread_mutex_lock(&reader->lock);
	job = list_pop(&reader->spare);
	pthread_mutex_unlock(&reader->lock);
	TS_ASSERT(job); /* the forwarder holds callers to depth_max */
	job->request = request;
	pthread_mutex_lock(&store->lock);
	list_push(&store->queue, job);
	pthread_cond_signal(&store->changed);
	pthread_mutex_unlock(&store->lock);
	return 1;
}

/* Takes what is done; the eventfd is cleared together with the list's last element. */
static int done_take(struct thread_reader *reader, struct ts_get **done, unsigned done_max)
{
	unsigned nr_done = 0;
	uint64_t count;

	TS_SCOPED_LOCK(&reader->lock);
	while (nr_done < done_max && reader->done.head) {
		struct job *job = list_pop(&reader->done);

		done[nr_done++] = job->request;
		list_push(&reader->spare, job);
	}
	if (nr_done > 0 && !reader->done.head)
		TS_ASSERT(read(reader->event_fd, &count, sizeof(count)) == sizeof(count));
	return (int)nr_done;
}

static int thread_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max,
		       int wait_ms)
{
	struct thread_reader *reader = (struct thread_reader *)base;
	ts_mono_ns start_ns = wait_ms > 0 ? ts_now_ns() : 0;
	int left_ms = wait_ms;

	for (;;) {
		struct pollfd poll_fd = { .fd = reader->event_fd, .events = POLLIN };
		int nr_done = done_take(reader, done, done_max);

		if (nr_done > 0 || left_ms == 0)
			return nr_done;
		if (poll(&poll_fd, 1, left_ms) < 0 && errno != EINTR)
			return -errno;
		if (wait_ms > 0) {
			uint64_t past_ms = (ts_now_ns() - start_ns) / 1000000;
			left_ms = past_ms < (uint64_t)wait_ms ? wait_ms - (int)past_ms : 0;
		}
	}
}

static int thread_reader_fd(struct ts_reader *base)
{
	return ((struct thread_reader *)base)->event_fd;
}

/* reader_arena is left out: the workers' readers get buffers of every caller's arena. */
static const struct ts_store_ops thread_ops = {
	.size = sizeof(thread_ops),
	.name = "thread",
	.open = ts_wrap_open_alone,
	.close = thread_close,
	.put = ts_wrap_put,
	.del = ts_wrap_del,
	.reader_open = thread_reader_open,
	.reader_close = thread_reader_close,
	.get = thread_get,
	.reap = thread_reap,
	.reader_fd = thread_reader_fd,
	.maintain = ts_wrap_maintain,
	.stat = ts_wrap_stat,
};

const struct ts_wrap_kind ts_wrap_thread = {
	.name = "thread", .ops = &thread_ops, .open = thread_open,
};
