/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_fault.c — "fault": makes calls of the store behind it fail, or spoils what they return, at
 * random or the Nth one.  The same seed and the same order of calls give the same failures.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "store/forward.h"
#include "store/wrap.h"
#include "util/sized.h"

enum fault_kind { FAULT_GET, FAULT_PUT, FAULT_DEL, FAULT_KINDS };

struct fault_store {
	struct ts_wrap wrap;
	pthread_mutex_t lock; /* guards what follows; innermost, held for a few instructions */
	struct ts_store_fault plan;
	uint64_t nr_random;   /* numbers drawn since the plan was set */
	uint64_t nr_calls;    /* of the kinds that may fail, since the plan was set */
	uint64_t nr_failed;   /* since open */
};

/* What befalls one call. */
struct fault {
	bool is_on;
	int error;
	bool is_corrupt, is_short;
	uint64_t random;
};

static const struct ts_store_ops fault_ops;

/* The random number that follows from the seed and a counter (splitmix64). */
static uint64_t mix(uint64_t seed, uint64_t count)
{
	uint64_t x = seed + count * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static struct fault fault_draw(struct fault_store *store, enum fault_kind kind)
{
	TS_SCOPED_LOCK(&store->lock);
	const struct ts_store_fault *plan = &store->plan;
	const double shares[FAULT_KINDS] = { plan->get_share, plan->put_share, plan->del_share };
	struct fault fault = { .error = plan->error };

	if (shares[kind] <= 0)
		return fault;
	store->nr_calls++;
	fault.random = mix(plan->seed, ++store->nr_random);
	if (plan->nth)
		fault.is_on = store->nr_calls == plan->nth;
	else /* 53 bits: what a double tells apart */
		fault.is_on = (double)(fault.random >> 11) * 0x1p-53 < shares[kind];
	fault.is_corrupt = plan->is_corrupt && kind == FAULT_GET;
	fault.is_short = plan->is_short && kind == FAULT_GET;
	store->nr_failed += fault.is_on;
	return fault;
}

static int plan_set(struct fault_store *store, const struct ts_store_fault *plan)
{
	struct ts_store_fault full;
	int rc = ts_sized_in(&full, sizeof(full), plan, "ts_store_fault");

	if (rc)
		return rc;
	if ((full.is_corrupt || full.is_short) && (full.put_share > 0 || full.del_share > 0))
		return ts_fail(TS_ECONFIG, "fault: error=corrupt and error=short are for get; put "
			       "and del can't suffer them");
	full.seed = full.seed ? full.seed : 1;
	full.error = full.error < 0 ? full.error : -EIO;
	TS_SCOPED_LOCK(&store->lock);
	store->plan = full;
	store->nr_random = 0;
	store->nr_calls = 0;
	return 0;
}

static int error_option(struct ts_store_fault *plan, const char *value)
{
	static const struct {
		const char *name;
		int error;
	} errors[] = {
		{ "EIO", -EIO }, { "ENOSPC", -ENOSPC }, { "full", TS_EFULL },
		{ "notfound", TS_ENOTFOUND },
	};

	plan->is_corrupt = strcmp(value, "corrupt") == 0;
	plan->is_short = strcmp(value, "short") == 0;
	if (plan->is_corrupt || plan->is_short)
		return 0;
	for (size_t i = 0; i < TS_ARRAY_LEN(errors); i++) {
		if (strcmp(errors[i].name, value) == 0) {
			plan->error = errors[i].error;
			return 0;
		}
	}
	return ts_fail(TS_ECONFIG, "fault: no error '%s'; there are: EIO, ENOSPC, full, notfound, "
		       "corrupt, short", value);
}

static int fault_option(void *context, const char *key, const char *value)
{
	struct ts_store_fault *plan = context;

	if (strcmp(key, "get") == 0)
		return ts_option_share("fault", key, value, &plan->get_share);
	if (strcmp(key, "put") == 0)
		return ts_option_share("fault", key, value, &plan->put_share);
	if (strcmp(key, "del") == 0)
		return ts_option_share("fault", key, value, &plan->del_share);
	if (strcmp(key, "seed") == 0)
		return ts_option_number("fault", key, value, UINT64_MAX, &plan->seed);
	if (strcmp(key, "nth") == 0)
		return ts_option_number("fault", key, value, UINT64_MAX, &plan->nth);
	if (strcmp(key, "error") == 0)
		return error_option(plan, value);
	return ts_fail(TS_ECONFIG, "fault: no option '%s'; there are: get, put, del, seed, nth, "
		       "error", key);
}

static int fault_open(struct ts_store *next, const struct ts_store_config *config,
		      struct ts_store **store_out)
{
	struct ts_store_fault plan = { .size = sizeof(plan) };
	struct fault_store *store;
	int result = ts_options_parse("fault", config->options, fault_option, &plan);

	if (result < 0)
		return result;
	store = ts_wrap_create(sizeof(*store), &fault_ops, next, config);
	if (!store)
		return -ENOMEM;
	pthread_mutex_init(&store->lock, NULL);
	result = plan_set(store, &plan);
	if (result < 0) {
		pthread_mutex_destroy(&store->lock);
		free(store);
		return result;
	}
	*store_out = &store->wrap.base;
	return 0;
}

static void fault_close(struct ts_store *base)
{
	if (base)
		pthread_mutex_destroy(&((struct fault_store *)base)->lock);
	ts_wrap_close(base);
}

/* Each frame has its own luck: the unlucky ones cut the batch into runs that do get stored. */
static int fault_put(struct ts_store *base, struct ts_put *items, unsigned nr_items)
{
	struct fault_store *store = (struct fault_store *)base;
	unsigned first = 0;

	for (unsigned i = 0; i <= nr_items; i++) {
		struct fault fault = { .is_on = true };

		if (i < nr_items) {
			fault = fault_draw(store, FAULT_PUT);
			if (!fault.is_on)
				continue;
			items[i].status = fault.error;
		}
		/* A run that fails as a whole has it in its items' statuses. */
		(void)ts_store_put(store->wrap.next, items + first, i - first);
		first = i + 1;
	}
	return 0;
}

static int fault_del(struct ts_store *base, const uint64_t *keys, unsigned nr_keys)
{
	struct fault fault = fault_draw((struct fault_store *)base, FAULT_DEL);

	return fault.is_on ? fault.error : ts_wrap_del(base, keys, nr_keys);
}

/* Spoils a frame that has arrived.  @random: which bit. */
static void spoil(const struct fault *fault, struct ts_get *request)
{
	unsigned char *bytes = (unsigned char *)request->buf + request->off_bytes;

	if (request->status < 0 || request->len_bytes == 0)
		return;
	if (fault->is_corrupt) {
		uint64_t bit = fault->random % ((uint64_t)request->len_bytes * 8);

		bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
	} else if (fault->is_short) {
		request->len_bytes--;
	}
}

/* A slot's note: the random number, and in its lowest two bits how to spoil. */
enum { NOTE_CORRUPT = 1, NOTE_SHORT = 2, NOTE_MASK = 3 };

static int fault_get(struct ts_reader *base, struct ts_get *request)
{
	struct ts_wrap_reader *reader = (struct ts_wrap_reader *)base;
	struct fault fault = fault_draw((struct fault_store *)base->store, FAULT_GET);
	uint64_t note;

	if (fault.is_on && !fault.is_corrupt && !fault.is_short) {
		request->status = fault.error;
		return 0;
	}
	int result = ts_store_get(reader->next, request);
	if (result == 0) {
		if (fault.is_on)
			spoil(&fault, request);
		return 0;
	}
	note = fault.random & ~(uint64_t)NOTE_MASK;
	if (fault.is_on)
		note |= fault.is_corrupt ? NOTE_CORRUPT : NOTE_SHORT;
	ts_wrap_slot_take(reader, request, note);
	return 1;
}

static int fault_reap(struct ts_reader *base, struct ts_get **done, unsigned done_max, int wait_ms)
{
	struct ts_wrap_reader *reader = (struct ts_wrap_reader *)base;
	int nr_done = ts_store_reap(reader->next, done, done_max, wait_ms);

	for (int i = 0; i < nr_done; i++) {
		uint64_t note = ts_wrap_slot_give(reader, done[i]);
		struct fault fault = {
			.is_corrupt = note & NOTE_CORRUPT,
			.is_short = note & NOTE_SHORT,
			.random = note >> 2,
		};

		spoil(&fault, done[i]);
	}
	return nr_done;
}

static struct fault_store *fault_find(struct ts_store *base)
{
	struct fault_store *store = (struct fault_store *)ts_guard_find(base, &fault_ops);

	if (!store)
		ts_fail(TS_ENOTFOUND, "store '%s' has no wrapper 'fault'", base->ops->name);
	return store;
}

int ts_store_fault_set(struct ts_store *base, const struct ts_store_fault *plan)
{
	struct fault_store *store = fault_find(base);

	return store ? plan_set(store, plan) : TS_ENOTFOUND;
}

int ts_store_fault_count(struct ts_store *base, uint64_t *nr_out)
{
	struct fault_store *store = fault_find(base);

	if (!store)
		return TS_ENOTFOUND;
	TS_SCOPED_LOCK(&store->lock);
	*nr_out = store->nr_failed;
	return 0;
}

static const struct ts_store_ops fault_ops = {
	.size = sizeof(fault_ops),
	.name = "fault",
	.open = ts_wrap_open_alone,
	.close = fault_close,
	.put = fault_put,
	.del = fault_del,
	.reader_open = ts_wrap_reader_open,
	.reader_close = ts_wrap_reader_close,
	.get = fault_get,
	.reap = fault_reap,
	.reader_arena = ts_wrap_reader_arena,
	.reader_fd = ts_wrap_reader_fd,
	.maintain = ts_wrap_maintain,
	.stat = ts_wrap_stat,
};

const struct ts_wrap_kind ts_wrap_fault = {
	.name = "fault", .ops = &fault_ops, .open = fault_open,
};
