/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_delay.c — "delay": makes every call of the store behind it take longer.
 *
 * A get is not slept through: it returns 1 and completes when it is due, so that the delays of
 * several requests overlap as those of a disk do.  A request is either still pending in the next
 * store (it has a slot, whose note is when it is due) or held here until then.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "store/wrap.h"

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000 };

struct delay_store {
	struct ts_wrap wrap;
	uint64_t get_ns, put_ns, del_ns;
};

struct held {
	struct ts_get *request;
	ts_mono_ns due_ns;
};

struct delay_reader {
	struct ts_wrap_reader wrap;
	int timer_fd;       /* readable once a held request is due */
	int epoll_fd;       /* readable if timer_fd or the next store's descriptor is */
	uint32_t nr_held;
	struct held *held;  /* depth_max of them */
	struct ts_get **reaped; /* depth_max: scratch */
};

static const struct ts_store_ops delay_ops;

static int delay_option(void *context, const char *key, const char *value)
{
	struct delay_store *store = context;

	if (strcmp(key, "get") == 0)
		return ts_option_duration_ns("delay", key, value, &store->get_ns);
	if (strcmp(key, "put") == 0)
		return ts_option_duration_ns("delay", key, value, &store->put_ns);
	if (strcmp(key, "del") == 0)
		return ts_option_duration_ns("delay", key, value, &store->del_ns);
	return ts_fail(TS_ECONFIG, "delay: no option '%s'; there are: get, put, del", key);
}

static int delay_open(struct ts_store *next, const struct ts_store_config *config,
		      struct ts_store **store_out)
{
	struct delay_store *store = ts_wrap_create(sizeof(*store), &delay_ops, next, config);

	if (!store)
		return -ENOMEM;
	int result = ts_options_parse("delay", config->options, delay_option, store);
	if (result < 0) {
		free(store);
		return result;
	}
	*store_out = &store->wrap.base;
	return 0;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / NS_PER_S),
				  .tv_nsec = (long)(ns % NS_PER_S) };
}

static void sleep_for(uint64_t ns)
{
	struct timespec left = timespec_of(ns);

	while (ns && nanosleep(&left, &left) < 0 && errno == EINTR)
		continue;
}

static int delay_put(struct ts_store *base, struct ts_put *items, unsigned nr_items)
{
	sleep_for(((struct delay_store *)base)->put_ns);
	return ts_wrap_put(base, items, nr_items);
}

static int delay_del(struct ts_store *base, const uint64_t *keys, unsigned nr_keys)
{
	sleep_for(((struct delay_store *)base)->del_ns);
	return ts_wrap_del(base, keys, nr_keys);
}

static void delay_reader_close(struct ts_reader *base)
{
	struct delay_reader *reader = (struct delay_reader *)base;

	if (!reader)
		return;
	if (reader->epoll_fd >= 0)
		close(reader->epoll_fd);
	if (reader->timer_fd >= 0)
		close(reader->timer_fd);
	free(reader->held);
	free(reader->reaped);
	ts_wrap_reader_close(base);
}

static int watch(int epoll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int delay_reader_init(struct delay_reader *reader)
{
	uint32_t nr_slots = reader->wrap.nr_slots;
	int next_fd = ts_store_reader_fd(reader->wrap.next), result;

	reader->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	reader->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (reader->timer_fd < 0 || reader->epoll_fd < 0)
		return -errno;
	reader->held = calloc(nr_slots, sizeof(reader->held[0]));
	reader->reaped = calloc(nr_slots, sizeof(struct ts_get *));
	if (!reader->held || !reader->reaped)
		return -ENOMEM;
	result = watch(reader->epoll_fd, reader->timer_fd);
	return result < 0 || next_fd < 0 ? result : watch(reader->epoll_fd, next_fd);
}

static int delay_reader_open(struct ts_store *base, struct ts_reader **reader_out)
{
	int result = ts_wrap_reader_create(base, sizeof(struct delay_reader), reader_out);

	if (result < 0)
		return result;
	result = delay_reader_init((struct delay_reader *)*reader_out);
	if (result < 0) {
		delay_reader_close(*reader_out);
		return ts_fail(result, "delay: can't open a reader: %s", ts_strerror(result));
	}
	return 0;
}

/* When the first held request is due; UINT64_MAX if there is none. */
static ts_mono_ns first_due(const struct delay_reader *reader)
{
	ts_mono_ns due_ns = UINT64_MAX;

	for (uint32_t i = 0; i < reader->nr_held; i++)
		due_ns = TS_MIN(due_ns, reader->held[i].due_ns);
	return due_ns;
}

/* Sets the timer by what is held; setting it also ends its being readable. */
static void timer_set(struct delay_reader *reader)
{
	struct itimerspec when = { 0 };

	/* A time of 0 would switch it off; any time gone by fires at once. */
	if (reader->nr_held > 0)
		when.it_value = timespec_of(TS_MAX(first_due(reader), 1u));
	TS_ASSERT(timerfd_settime(reader->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
}

static void hold(struct delay_reader *reader, struct ts_get *request, ts_mono_ns due_ns)
{
	TS_ASSERT(reader->nr_held < reader->wrap.nr_slots);
	reader->held[reader->nr_held++] = (struct held){ request, due_ns };
}

static int delay_get(struct ts_reader *base, struct ts_get *request)
{
	struct delay_reader *reader = (struct delay_reader *)base;
	uint64_t get_ns = ((struct delay_store *)base->store)->get_ns;
	ts_mono_ns due_ns = ts_now_ns() + get_ns;
	int result = ts_store_get(reader->wrap.next, request);

	if (result == 1) {
		ts_wrap_slot_take(&reader->wrap, request, due_ns);
	} else if (get_ns > 0) {
		hold(reader, request, due_ns);
		timer_set(reader);
		result = 1;
	}
	return result;
}

/* Moves what the next store has completed to the held ones. */
static int reap_next(struct delay_reader *reader)
{
	int nr_done = ts_store_reap(reader->wrap.next, reader->reaped, reader->wrap.nr_slots, 0);

	for (int i = 0; i < nr_done; i++)
		hold(reader, reader->reaped[i],
		     ts_wrap_slot_give(&reader->wrap, reader->reaped[i]));
	return nr_done < 0 ? nr_done : 0;
}

/* Takes what is due out of the held ones. */
static int take_due(struct delay_reader *reader, struct ts_get **done, unsigned done_max)
{
	ts_mono_ns now_ns = ts_now_ns();
	unsigned nr_done = 0;

	for (uint32_t i = 0; i < reader->nr_held && nr_done < done_max;) {
		if (reader->held[i].due_ns <= now_ns) {
			done[nr_done++] = reader->held[i].request;
			reader->held[i] = reader->held[--reader->nr_held];
		} else {
			i++;
		}
	}
	timer_set(reader);
	return (int)nr_done;
}

static int delay_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max, int wait_ms)
{
	struct delay_reader *reader = (struct delay_reader *)base;
	ts_mono_ns end_ns = wait_ms > 0 ? ts_now_ns() + (uint64_t)wait_ms * NS_PER_MS : 0;
	struct pollfd poll_fd = { .fd = reader->epoll_fd, .events = POLLIN };

	for (;;) {
		int result = reap_next(reader);

		if (result < 0)
			return result;
		int nr_done = take_due(reader, done, done_max);
		ts_mono_ns now_ns = ts_now_ns();
		if (nr_done > 0 || wait_ms == 0 || (wait_ms > 0 && now_ns >= end_ns))
			return nr_done;
		struct timespec left = timespec_of(wait_ms > 0 ? end_ns - now_ns : 0);
		if (ppoll(&poll_fd, 1, wait_ms > 0 ? &left : NULL, NULL) < 0 && errno != EINTR)
			return -errno;
	}
}

static int delay_reader_fd(struct ts_reader *base)
{
	return ((struct delay_reader *)base)->epoll_fd;
}

static const struct ts_store_ops delay_ops = {
	.size = sizeof(delay_ops),
	.name = "delay",
	.open = ts_wrap_open_alone,
	.close = ts_wrap_close,
	.put = delay_put,
	.del = delay_del,
	.reader_open = delay_reader_open,
	.reader_close = delay_reader_close,
	.get = delay_get,
	.reap = delay_reap,
	.reader_arena = ts_wrap_reader_arena,
	.reader_fd = delay_reader_fd,
	.maintain = ts_wrap_maintain,
	.stat = ts_wrap_stat,
};

const struct ts_wrap_kind ts_wrap_delay = {
	.name = "delay", .ops = &delay_ops, .open = delay_open,
};
