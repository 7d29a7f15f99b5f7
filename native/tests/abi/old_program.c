/* SPDX-License-Identifier: Apache-2.0
 *
 * old_program.c — a program compiled with the headers of the first release (0.1/), run with the
 * library of today.
 *
 * Every struct that it hands over ends right before memory that can't be touched, so a library that
 * reads or writes a byte more than the program knew of dies.  Newer programs are there, too: their
 * structs are longer than the library's.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tierstore/store.h>
#include <tierstore/tierstore.h>
#include <unistd.h>

#include "check.h"

enum { LEN = 8 << 20, PAGE = 4096, ROOM = 1 << 17, NR_KEYS = 1 << 16 };

/* Of the guest's pages: the last that came back may still be on its way in the books. */
enum { NR_MOST = LEN / PAGE - 16 };

/* ---- Structs at the end of the world ---------------------------------------------------- */

/* size bytes, all `byte`, before a page without access; the first 8 say size. */
static void *edge(size_t size, int byte)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *room = mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);

	CHECK(room != MAP_FAILED && size <= ROOM);
	CHECK_EQ(mprotect(room + ROOM, PAGE, PROT_NONE), 0);
	char *object = room + ROOM - size;
	memset(object, byte, size);
	memcpy(object, &size, sizeof(size));
	return object;
}

#define IN(type) ((struct type *)edge(sizeof(struct type), 0))
#define OUT(type) ((struct type *)edge(sizeof(struct type), 0x5a))

/* ---- A store of an author's own, written for the first release -------------------------- */

struct own_store {
	struct ts_store base;
	struct own_frame {
		void *data;
		uint32_t len_bytes;
	} frames[NR_KEYS];
};

static struct own_store the_store;
static const struct ts_store_ops *own_ops(void);

static int own_open(const struct ts_store_config *config, struct ts_store **store_out)
{
	CHECK(config->size >= sizeof(*config));
	CHECK(strcmp(config->name, "mine") == 0);
	the_store.base.ops = own_ops();
	*store_out = &the_store.base;
	return 0;
}

static void own_close(struct ts_store *store)
{
	for (unsigned i = 0; store && i < NR_KEYS; i++)
		free(the_store.frames[i].data);
}

static struct own_frame *frame_of(uint64_t key)
{
	CHECK(key < NR_KEYS);
	return &the_store.frames[key];
}

static int own_put(struct ts_store *store, struct ts_put *items, unsigned nr_items)
{
	(void)store;
	for (unsigned i = 0; i < nr_items; i++) {
		struct own_frame *frame = frame_of(items[i].key);
		free(frame->data);
		frame->data = malloc(items[i].len_bytes);
		CHECK(frame->data != NULL);
		memcpy(frame->data, items[i].data, items[i].len_bytes);
		frame->len_bytes = items[i].len_bytes;
		items[i].status = 0;
	}
	return 0;
}

static int own_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys)
{
	(void)store;
	(void)keys;
	(void)nr_keys;
	return 0;  /* they are overwritten when their keys come again */
}

static int own_reader_open(struct ts_store *store, struct ts_reader **reader_out)
{
	*reader_out = calloc(1, sizeof(**reader_out));
	CHECK(*reader_out != NULL);
	(*reader_out)->store = store;
	return 0;
}

static void own_reader_close(struct ts_reader *reader)
{
	free(reader);
}

static int own_get(struct ts_reader *reader, struct ts_get *request)
{
	struct own_frame *frame = frame_of(request->key);

	(void)reader;
	memcpy(request->buf, frame->data, frame->len_bytes);
	request->off_bytes = 0;
	request->len_bytes = frame->len_bytes;
	request->status = 0;
	return 0;
}

static int own_stat(struct ts_store *store, struct ts_store_stat *stat)
{
	(void)store;
	stat->capacity_bytes = LEN * 2;
	return 0;
}

static const struct ts_store_ops *own_ops(void)
{
	struct ts_store_ops *ops = IN(ts_store_ops);

	ops->name = "own";
	ops->flags = TS_STORE_BLOCKING_GET;
	ops->open = own_open;
	ops->close = own_close;
	ops->put = own_put;
	ops->del = own_del;
	ops->reader_open = own_reader_open;
	ops->reader_close = own_reader_close;
	ops->get = own_get;
	ops->stat = own_stat;
	return ops;
}

/* ---- What such a program does ----------------------------------------------------------- */

static uint64_t *guest;

static uint64_t word_at(uint64_t i)
{
	return i % 8 ? i / 512 : i * UINT64_C(0x9e3779b97f4a7c15);
}

static void check_guest(void)
{
	for (uint64_t i = 0; i < LEN / 8; i++)
		CHECK_EQ(guest[i], word_at(i));
}

static struct ts_engine *open_engine(const char *store)
{
	struct ts_engine_options *options = IN(ts_engine_options);
	struct ts_tier_options *tier = IN(ts_tier_options);
	struct ts_engine *engine;

	options->nr_fault_threads = 2;
	tier->name = "mine";
	tier->store = store;
	tier->store_ops = strcmp(store, "own") == 0 ? own_ops() : NULL;
	tier->size_bytes = LEN * 2;
	tier->codec = TS_CODEC_LZ4;
	tier->wrap = "stats,fault";
	CHECK_EQ(ts_engine_open(options, &engine), 0);
	CHECK_EQ(ts_engine_add_tier(engine, tier), 0);
	CHECK_EQ(ts_engine_start(engine), 0);
	return engine;
}

static struct ts_region *attach(struct ts_engine *engine)
{
	struct ts_region_options *options = IN(ts_region_options);
	struct ts_region *region;

	guest = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(guest != MAP_FAILED);
	for (uint64_t i = 0; i < LEN / 8; i++)
		guest[i] = word_at(i);
	options->addr = guest;
	options->len_bytes = LEN;
	options->memory = TS_MEMORY_ANON;
	CHECK_EQ(ts_region_attach(engine, options, &region), 0);
	return region;
}

static void evict_all(struct ts_region *region)
{
	struct ts_evict_options *options = IN(ts_evict_options);
	struct ts_evict_result *result = OUT(ts_evict_result);

	options->bytes_max = LEN;
	options->no_probation = 1;
	CHECK_EQ(ts_region_evict(region, options, result), 0);
	CHECK_EQ(result->size, sizeof(*result));
	CHECK(result->nr_evicted >= NR_MOST);
	CHECK_EQ(result->nr_failed, 0);
}

/* Pages that came back are left alone for two scans. */
static void scan_thrice(struct ts_region *region)
{
	struct ts_scan_result *scan = OUT(ts_scan_result);

	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(ts_region_deactivate(region), 0);
		CHECK_EQ(ts_region_scan(region, scan), 0);
		CHECK_EQ(scan->size, sizeof(*scan));
		CHECK(scan->nr_resident >= NR_MOST);
	}
}

static void use_all(const char *store)
{
	struct ts_engine *engine = open_engine(store);
	struct ts_region *region = attach(engine);
	struct ts_cycle_options *cycle = IN(ts_cycle_options);
	struct ts_stats *stats = OUT(ts_stats);

	evict_all(region);
	CHECK_EQ(ts_stats_get(engine, NULL, stats), 0);
	CHECK(stats->size == sizeof(*stats) && stats->version == TS_STATS_VERSION);
	CHECK(stats->nr_away + stats->nr_filled + stats->nr_zero >= NR_MOST);
	CHECK_EQ(stats->nr_tiers, 1);
	CHECK(strcmp(stats->tiers[0].name, "mine") == 0);
	CHECK_EQ(stats->stages[TS_STAGE_PUT].count > 0, 1);
	check_guest();
	CHECK_EQ(ts_stats_get(engine, region, stats), 0);
	CHECK(stats->nr_faults > 0 && stats->stages[TS_STAGE_FAULT].count > 0);
	scan_thrice(region);
	evict_all(region);
	CHECK_EQ(ts_region_prefetch(region, 0, LEN / 2), 0);
	cycle->interval_ms = 10;
	CHECK_EQ(ts_cycle_start(engine, cycle), 0);
	check_guest();
	CHECK_EQ(ts_cycle_stop(engine), 0);
	CHECK_EQ(ts_region_detach(region), 0);
	check_guest();
	ts_engine_close(engine);
	CHECK_EQ(munmap(guest, LEN), 0);
}

static void built_in_store(void)
{
	CHECK(strcmp(ts_version(), "0.") > 0);
	use_all("ram");
}

static void store_of_its_own(void)
{
	use_all("own");
}

/* The forwarder and its wrappers, which a store's author calls in tests. */
static void store_functions(void)
{
	struct ts_store_config *config = IN(ts_store_config);
	struct ts_store_stat *stat = OUT(ts_store_stat);
	struct ts_store_wrap_stat *counts = OUT(ts_store_wrap_stat);
	struct ts_store_fault *fault = IN(ts_store_fault);
	struct ts_store *store;
	struct ts_put put = { .key = 3, .data = "frame", .len_bytes = 5 };

	config->name = "mine";
	config->size_bytes = 1 << 20;
	config->frame_max_bytes = PAGE;
	config->key_max = 100;
	config->batch_max = config->reader_max = config->depth_max = 4;
	CHECK_EQ(ts_store_open("ram", NULL, "stats,fault", config, &store), 0);
	CHECK_EQ(ts_store_put(store, &put, 1), 0);
	CHECK_EQ(ts_store_stat_get(store, stat), 0);
	CHECK(stat->size == sizeof(*stat) && stat->nr_frames == 1);
	CHECK_EQ(ts_store_wrap_stats(store, counts), 0);
	CHECK(counts->size == sizeof(*counts) && counts->nr_puts == 1);
	fault->put_share = 1;
	CHECK_EQ(ts_store_fault_set(store, fault), 0);
	ts_store_put(store, &put, 1);
	CHECK(put.status < 0);
	ts_store_close(store);
}

static void probe_host(void)
{
	struct ts_probe *probe = OUT(ts_probe);

	CHECK_EQ(ts_probe(probe), 0);
	CHECK_EQ(probe->size, sizeof(*probe));
	CHECK(probe->kernel_release[0] >= '0' && probe->kernel_release[0] <= '9');
}

/* ---- Sizes that no release has had, yet ------------------------------------------------- */

/* What is longer than anything that the library knows is zero at its end. */
static void newer_program(void)
{
	const size_t more = 1024;
	struct ts_stats *stats = edge(sizeof(*stats) + more, 0x5a);
	struct ts_probe *probe = edge(sizeof(*probe) + more, 0x5a);
	struct ts_evict_result *result = edge(sizeof(*result) + more, 0x5a);
	struct ts_evict_options *options = edge(sizeof(*options) + more, 0);
	struct ts_engine *engine = open_engine("ram");
	struct ts_region *region = attach(engine);

	CHECK_EQ(ts_probe(probe), 0);
	CHECK_EQ(((char *)probe)[sizeof(*probe) + more - 1], 0);
	CHECK_EQ(ts_region_evict(region, options, result), 0);
	CHECK_EQ(((char *)result)[sizeof(*result) + more - 1], 0);
	CHECK_EQ(result->size, sizeof(*result) + more);
	CHECK_EQ(ts_stats_get(engine, region, stats), 0);
	CHECK_EQ(((char *)stats)[sizeof(*stats) + more - 1], 0);
	ts_engine_close(engine);
	CHECK_EQ(munmap(guest, LEN), 0);
}

/* Nothing but its size: results are cut off there, options mean their defaults. */
static void oldest_program(void)
{
	struct ts_engine *engine = open_engine("ram");
	struct ts_region *region = attach(engine);

	CHECK_EQ(ts_stats_get(engine, region, edge(8, 0)), 0);
	CHECK_EQ(ts_region_scan(region, edge(16, 0x5a)), 0);
	CHECK_EQ(ts_region_evict(region, edge(8, 0), edge(8, 0)), 0);
	CHECK_EQ(ts_cycle_start(engine, edge(8, 0)), 0);
	CHECK_EQ(ts_cycle_stop(engine), 0);
	CHECK_EQ(ts_probe(edge(24, 0)), 0);
	ts_engine_close(engine);
	CHECK_EQ(munmap(guest, LEN), 0);
}

/* A size that was forgotten is an error that says so, and not a struct of no length. */
static void forgotten_size(void)
{
	struct ts_engine *engine = open_engine("ram");
	struct ts_region *region = attach(engine);
	static struct ts_stats stats;
	struct ts_scan_result scan = { .size = 0 };
	struct ts_evict_options options = { .size = 0 };
	struct ts_evict_result result = { .size = sizeof(result) };
	struct ts_region_options memory = { .size = 0, .addr = guest, .len_bytes = LEN };
	struct ts_region *other;

	CHECK_EQ(ts_stats_get(engine, NULL, &stats), TS_EVERSION);
	CHECK(strstr(ts_last_error(), "ts_stats.size is 0") != NULL);
	CHECK_EQ(ts_region_scan(region, &scan), TS_EVERSION);
	CHECK_EQ(ts_region_evict(region, &options, &result), TS_EVERSION);
	CHECK_EQ(ts_region_attach(engine, &memory, &other), TS_EVERSION);
	stats.size = SIZE_MAX;
	CHECK_EQ(ts_stats_get(engine, NULL, &stats), TS_EVERSION);
	ts_engine_close(engine);
	CHECK_EQ(munmap(guest, LEN), 0);
}

CHECK_MAIN({ "built_in_store", built_in_store }, { "store_of_its_own", store_of_its_own },
	   { "store_functions", store_functions }, { "probe_host", probe_host },
	   { "newer_program", newer_program }, { "oldest_program", oldest_program },
	   { "forgotten_size", forgotten_size })
