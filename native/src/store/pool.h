/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.h — frames in RAM with little waste, and RAM given back as soon as it is not needed.
 *
 *     index                        a size class: slots of the same size, always dense
 *     key -> slot, length          +--------+--------+--------+--------+ - - - - - - -
 *        one u64 a key             | frame 0| frame 1| frame 2| frame 3| never touched
 *                                  +--------+--------+--------+--------+ - - - - - - -
 *
 * There are about 600 classes, 1/64 apart, each an array of address space that is used from its
 * beginning only.  Deleting a frame moves the class's last frame into the hole, so there are
 * no holes, and nothing to compact, and the pages behind the last frame go back to the kernel.
 * The cost of a frame: 8 bytes of index, 4 bytes of owner (to find the index entry of the frame
 * that moves), rounding to its class (0.8 % on average), and half a page a class.
 *
 * Threads: all functions may be called concurrently, but for create and destroy.
 */
#ifndef TS_STORE_POOL_H
#define TS_STORE_POOL_H

#include <stddef.h>
#include <stdint.h>

struct ts_pool;

struct ts_pool_options {
	const char *name;         /* for messages */
	uint64_t size_bytes;      /* never exceeded, by anything */
	uint64_t key_max;         /* below 2^32 */
	uint32_t frame_max_bytes; /* below 2^20 - 4 */
};

struct ts_pool_stat {
	uint64_t capacity_bytes;
	uint64_t nr_frames, frame_bytes;
	uint64_t used_bytes;      /* all RAM */
	uint64_t index_bytes;     /* of that: for the index */
	uint64_t written_bytes, moved_bytes, discarded_bytes; /* totals */
};

/* Returns 0; TS_ECONFIG, TS_ELIMIT or -ENOMEM with a text. */
int ts_pool_create(const struct ts_pool_options *options, struct ts_pool **pool_out);
void ts_pool_destroy(struct ts_pool *pool);

/* Stores a copy; replaces what the key held, atomically.  TS_EFULL or -ENOMEM: nothing changed. */
int ts_pool_put(struct ts_pool *pool, uint64_t key, const void *data, uint32_t len_bytes);

/* Copies the frame to buf, which has room for frame_max_bytes.  TS_ENOTFOUND.  Takes no lock and
 * waits for nothing; it copies again if the frame was moved meanwhile. */
int ts_pool_get(struct ts_pool *pool, uint64_t key, void *buf, uint32_t *len_bytes_out);

/* A get of this key may follow. */
void ts_pool_expect(const struct ts_pool *pool, uint64_t key);

/* An unknown key is no error. */
void ts_pool_del(struct ts_pool *pool, uint64_t key);

/* Gives back the few pages that classes keep so as not to ask the kernel at every step. */
void ts_pool_trim(struct ts_pool *pool);

void ts_pool_stat_get(struct ts_pool *pool, struct ts_pool_stat *stat);

#endif
