/* SPDX-License-Identifier: Apache-2.0
 * test_store_resume.c — what a store has acknowledged outlives its process: a child that puts,
 * deletes and collects garbage with several threads is killed at a random moment, and another
 * process takes over what is there. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "file_rig.h"
#include "storekit.h"

enum {
	NR_KEYS = 600,
	NR_WRITERS = 2,
	BATCH = 16,
	LEN_MAX = 9000,
	SIZE_MIB = 12,
	ROUNDS = 8,
};

/* What the writers know, in memory that the parent shares. */
struct known {
	_Atomic uint32_t version;     /* acknowledged; 0: not there */
	_Atomic uint32_t is_pending;  /* a call on this key has not returned */
};

static struct known *known;
static _Atomic uint64_t *nr_acknowledged;
static const char *kind;

static uint32_t len_of(uint64_t key, uint32_t version)
{
	return 100 + (uint32_t)((key * 2654435761u + version * 40503u) % LEN_MAX);
}

static struct ts_store *open_store(int is_resume)
{
	static char path[300], state_path[300];
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;

	snprintf(path, sizeof(path), "%s", rig_path(kind));
	snprintf(state_path, sizeof(state_path), "%s", rig_path("state"));
	config.path = path;
	config.state_path = state_path;
	config.is_resume = (uint8_t)is_resume;
	config.size_bytes = (uint64_t)SIZE_MIB << 20;
	config.key_max = NR_KEYS + 100000;
	int rc = ts_store_open(kind, NULL, "verify,stats", &config, &store);
	if (rc)
		fprintf(stderr, "%s\n", ts_last_error());
	CHECK_EQ(rc, 0);
	return store;
}

/* ---- The child --------------------------------------------------------------------------- */

struct writer {
	struct ts_store *store;
	unsigned number, seed;
	char *data;
};

static void put_some(struct writer *writer)
{
	struct ts_put items[BATCH];
	uint32_t versions[BATCH];
	unsigned first = (unsigned)rand_r(&writer->seed) % (NR_KEYS / NR_WRITERS - BATCH);

	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t key = (first + i) * NR_WRITERS + writer->number;
		char *data = writer->data + (size_t)i * (LEN_MAX + 100);
		versions[i] = (uint32_t)rand_r(&writer->seed) | 1;
		items[i] = (struct ts_put){ .key = key, .data = data,
					    .len_bytes = len_of(key, versions[i]) };
		content_fill(data, items[i].len_bytes, key, versions[i]);
		atomic_store(&known[key].is_pending, 1);
	}
	CHECK_EQ(ts_store_put(writer->store, items, BATCH), 0);
	for (unsigned i = 0; i < BATCH; i++) {
		CHECK(items[i].status == 0 || items[i].status == TS_EFULL);
		if (items[i].status == 0)
			atomic_store(&known[items[i].key].version, versions[i]);
		atomic_store(&known[items[i].key].is_pending, 0);
		atomic_fetch_add(nr_acknowledged, 1);
	}
}

static void delete_some(struct writer *writer)
{
	uint64_t keys[BATCH];

	for (unsigned i = 0; i < BATCH; i++) {
		keys[i] = (uint64_t)((unsigned)rand_r(&writer->seed) % (NR_KEYS / NR_WRITERS)) *
				  NR_WRITERS + writer->number;
		atomic_store(&known[keys[i]].is_pending, 1);
	}
	CHECK_EQ(ts_store_del(writer->store, keys, BATCH), 0);
	for (unsigned i = 0; i < BATCH; i++) {
		atomic_store(&known[keys[i]].version, 0);
		atomic_store(&known[keys[i]].is_pending, 0);
	}
}

static void *write_on(void *arg)
{
	struct writer *writer = arg;

	for (;;) {
		put_some(writer);
		if (rand_r(&writer->seed) % 2)
			delete_some(writer);
	}
	return NULL;
}

static void work(int is_resume, unsigned seed)
{
	static struct writer writers[NR_WRITERS];
	struct ts_store *store = open_store(is_resume);
	pthread_t thread;

	for (unsigned i = 0; i < NR_WRITERS; i++) {
		writers[i] = (struct writer){ store, i, seed + i,
					      malloc((size_t)BATCH * (LEN_MAX + 100)) };
		CHECK_EQ(pthread_create(&thread, NULL, write_on, &writers[i]), 0);
	}
	for (;;)
		if (ts_store_maintain(store) == 0)
			usleep(200);
}

/* ---- The parent -------------------------------------------------------------------------- */

static int note_key(void *user, uint64_t key)
{
	unsigned char *is_listed = user;

	CHECK(key < NR_KEYS);
	CHECK_EQ(is_listed[key], 0);
	is_listed[key] = 1;
	return 0;
}

/* Everything that was acknowledged is there, and nothing that was deleted. */
static void look(void)
{
	unsigned char is_listed[NR_KEYS] = { 0 };
	struct ts_store *store = open_store(1);
	struct kit_reader reader;

	kit_reader_open(store, &reader);
	CHECK_EQ(ts_store_list(store, note_key, is_listed), 0);
	for (uint64_t key = 0; key < NR_KEYS; key++) {
		uint32_t version = atomic_load(&known[key].version);

		if (atomic_load(&known[key].is_pending)) {
			/* As the engine does with what no page's word names. */
			CHECK_EQ(ts_store_del(store, &key, 1), 0);
			atomic_store(&known[key].version, 0);
			atomic_store(&known[key].is_pending, 0);
			CHECK_EQ(kit_get(&reader, key), TS_ENOTFOUND);
			continue;
		}
		CHECK_EQ(is_listed[key], version != 0);
		if (version)
			kit_expect(&reader, key, version, len_of(key, version));
		else
			CHECK_EQ(kit_get(&reader, key), TS_ENOTFOUND);
	}
	kit_reader_close(&reader);
	ts_store_close(store);
}

static void test_killed_at_random(void)
{
	unsigned seed = 20260401;

	known = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(known != MAP_FAILED);
	nr_acknowledged = (void *)(known + NR_KEYS);
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t before = atomic_load(nr_acknowledged);
		uint64_t wanted = before + 200 + (unsigned)rand_r(&seed) % 1200;
		pid_t child = fork();

		if (child == 0)
			work(round > 0, seed + round);
		while (atomic_load(nr_acknowledged) < wanted) {
			CHECK_EQ(waitpid(child, NULL, WNOHANG), 0);
			usleep(100);
		}
		CHECK_EQ(kill(child, SIGKILL), 0);
		CHECK_EQ(waitpid(child, NULL, 0), child);
		look();
		look();  /* closing in order leaves it in place, too */
	}
}

/* Without its state folder the store gives nothing away, and nobody takes its room unasked. */
static void test_held(void)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;
	char path[300], other[300];

	snprintf(path, sizeof(path), "%s", rig_path(kind));
	snprintf(other, sizeof(other), "%s", rig_path("other"));
	config.path = path;
	config.size_bytes = (uint64_t)SIZE_MIB << 20;
	config.key_max = NR_KEYS + 100000;
	CHECK_EQ(ts_store_open(kind, NULL, "", &config, &store), TS_EWRONGFILE);
	CHECK(strstr(ts_last_error(), "state folder") != NULL);
	config.state_path = other;
	CHECK_EQ(ts_store_open(kind, NULL, "", &config, &store), TS_EWRONGFILE);
	look();
	config.options = "keep=1";
	CHECK_EQ(ts_store_open(kind, NULL, "", &config, &store), TS_ECONFIG);
}

/* A state folder does not take a store for its own that isn't. */
static void test_foreign(void)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;
	char path[300], state_path[300];

	snprintf(path, sizeof(path), "%s", rig_path("fresh"));
	snprintf(state_path, sizeof(state_path), "%s", rig_path("state"));
	config.path = path;
	config.state_path = state_path;
	config.is_resume = 1;
	config.size_bytes = (uint64_t)SIZE_MIB << 20;
	config.key_max = NR_KEYS + 100000;
	CHECK_EQ(ts_store_open(kind, NULL, "", &config, &store), TS_ESTATE);
	CHECK(strstr(ts_last_error(), "state folder") != NULL);
	look();
}

static void test_ram_refuses(void)
{
	struct ts_store_config config = kit_config();
	struct ts_store *store = NULL;

	config.state_path = rig_path("ram");
	CHECK_EQ(ts_store_open("ram", NULL, "", &config, &store), TS_EUNSUPPORTED);
	CHECK(strstr(ts_last_error(), "tmpfs") != NULL);
}

int main(void)
{
	static const char *const kinds[] = { "file", "lmdb" };

	rig_path("");  /* made by the parent, not by each child */
	for (unsigned i = 0; i < 2; i++) {
		kind = kinds[i];
		test_killed_at_random();
		test_held();
		test_foreign();
		remove(rig_path("state.index"));
	}
	test_ram_refuses();
	return 0;
}
