/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h — what `tierstore run` and the shim inside of the program say to each other.
 *
 * A stream socket, three connections a process: the controller's requests, a watcher's (statistics,
 * which must not wait for an eviction), and the engine's log.  The shim connects and says hello on
 * each; then it is the controller that asks.  A message is a head and len_bytes of payload.  Both
 * ends come from one build and compare struct sizes in the hello, so structs cross as they are.
 */
#ifndef TSP_WIRE_H
#define TSP_WIRE_H

#ifndef TS_CDEF
#include <stdint.h>

#include <tierstore/tierstore.h>
#endif

enum { TSP_WIRE_VERSION = 1, TSP_TIER_MAX = 8, TSP_PAYLOAD_MAX = 33554432 };

enum tsp_channel { TSP_CONTROL = 0, TSP_WATCH = 1, TSP_LOG = 2 };

enum tsp_type {
	TSP_HELLO = 1,      /* shim: struct tsp_hello */
	TSP_CONFIG = 2,     /* controller: struct tsp_config; rc < 0: refused */
	TSP_READY = 3,      /* shim, the engine is open; rc < 0: is not, payload says why */
	TSP_LINE = 4,       /* shim: a log line, rc is its level */
	/* Requests; the answer has the same type. rc < 0: failed, the payload is a text. */
	TSP_LIST = 10,      /* answer: struct tsp_region each */
	TSP_DEACTIVATE = 11,
	TSP_SCAN = 12,      /* answer: struct ts_scan_result */
	TSP_EVICT = 13,     /* struct ts_evict_options; answer: struct ts_evict_result */
	TSP_STATS = 14,     /* region 0: the engine; answer: struct ts_stats */
	TSP_SAMPLE = 15,    /* struct tsp_sample; answer: rc pages */
	TSP_DICTIONARY = 16,/* region: the tier's number; payload: the dictionary */
};

struct tsp_head {
	uint32_t type;
	int32_t rc;
	uint32_t region;
	uint32_t len_bytes;
};

struct tsp_hello {
	uint32_t version, channel;
	uint32_t pid;
	uint32_t stats_bytes, config_bytes;
	char program[16];
};

struct tsp_tier {
	char name[32], store[32];
	char options[256], wrap[128], path[1024];
	uint64_t size_bytes;
	uint32_t codec;
	int32_t level;
	uint32_t range_bytes, demote_after_ms;
	uint8_t demote_above_pct, admit_ratio_pct, no_keep;
};

struct tsp_config {
	uint32_t nr_fault_threads, placement;
	uint64_t fault_cpus;
	uint32_t spin_us, nr_evict_threads;
	uint64_t staging_bytes;
	uint32_t settle_ms;       /* an area is attached when it is this old */
	uint32_t tracker, restore, nr_shards, probation_ms, guard_scans, collapse;
	uint32_t nr_tiers;
	struct tsp_tier tiers[8];
};

struct tsp_region {
	uint32_t id, memory;
	uint64_t addr, len_bytes;
	char name[32];
};

struct tsp_sample {
	uint32_t age_min, nr_max;
};

#endif
