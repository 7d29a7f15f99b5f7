/* SPDX-License-Identifier: Apache-2.0
 *
 * request.c — what the controller may ask of a session.
 *
 * A request is read whole, carried out, answered.  An eviction goes in steps, so that a fork that
 * wants the session to end does not wait for all of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

enum { EVICT_STEP_BYTES = 16 << 20, SAMPLE_MAX = 8192, TEXT_MAX = 512 };

struct request {
	struct tsp_session *session;
	int fd;
	struct tsp_head head;
	const void *payload;
	struct tsp_slot *slot;  /* held, for those that are about a region */
};

static int answer(struct request *request, int rc, const void *payload, size_t len_bytes)
{
	enum tsp_type type = (enum tsp_type)request->head.type;

	if (rc < 0) {
		payload = ts_last_error();
		if (!*(const char *)payload)
			payload = ts_strerror(rc);
		len_bytes = strnlen(payload, TEXT_MAX);
	}
	return tsp_send(request->fd, type, rc, payload, len_bytes);
}

static int list(struct request *request)
{
	struct tsp_session *session = request->session;
	struct tsp_region found[TSP_REGION_MAX];
	unsigned nr = 0;

	pthread_rwlock_rdlock(&session->regions_lock);
	for (unsigned i = 0; i < TSP_REGION_MAX; i++) {
		const struct tsp_slot *slot = &session->slots[i];
		if (!slot->region)
			continue;
		found[nr] = (struct tsp_region){ slot->id, slot->memory, slot->addr,
						 slot->len_bytes, "" };
		memcpy(found[nr].name, slot->name, sizeof(slot->name));
		nr++;
	}
	pthread_rwlock_unlock(&session->regions_lock);
	return answer(request, 0, found, nr * sizeof(found[0]));
}

static void add_result(struct ts_evict_result *sum, const struct ts_evict_result *step)
{
	sum->nr_claimed += step->nr_claimed;
	sum->nr_evicted += step->nr_evicted;
	sum->nr_filled += step->nr_filled;
	sum->nr_reused += step->nr_reused;
	sum->nr_probation += step->nr_probation;
	sum->nr_cancelled += step->nr_cancelled;
	sum->nr_failed += step->nr_failed;
}

static int evict(struct request *request)
{
	struct ts_evict_result sum = { .size = sizeof(sum) };
	struct ts_evict_options options;
	int rc = 0;

	if (request->head.len_bytes != sizeof(options))
		return answer(request, -EINVAL, NULL, 0);
	memcpy(&options, request->payload, sizeof(options));
	uint64_t left_bytes = options.bytes_max;
	while (left_bytes >= 4096 && !rc && !atomic_load(&request->session->is_ending) &&
	       !atomic_load(request->session->host->is_pausing)) {
		struct ts_evict_result step = { .size = sizeof(step) };
		options.bytes_max = left_bytes < EVICT_STEP_BYTES ? left_bytes : EVICT_STEP_BYTES;
		rc = ts_region_evict(request->slot->region, &options, &step);
		add_result(&sum, &step);
		left_bytes -= options.bytes_max;
		/* There was not even a half of what was asked for: that was all. */
		if (step.nr_claimed * 4096 < options.bytes_max / 2)
			break;
	}
	return answer(request, rc, &sum, sizeof(sum));
}

static int sample(struct request *request)
{
	struct tsp_sample wish;

	if (request->head.len_bytes != sizeof(wish))
		return answer(request, -EINVAL, NULL, 0);
	memcpy(&wish, request->payload, sizeof(wish));
	if (wish.nr_max > SAMPLE_MAX)
		wish.nr_max = SAMPLE_MAX;
	char *pages = malloc((size_t)wish.nr_max * 4096 + 1);
	int64_t nr = pages ? ts_region_sample(request->slot->region, wish.age_min, pages,
					      wish.nr_max) : -ENOMEM;
	int rc = answer(request, (int)nr, pages, nr > 0 ? (size_t)nr * 4096 : 0);
	free(pages);
	return rc;
}

static int statistics(struct request *request)
{
	struct ts_stats *stats = malloc(sizeof(*stats));
	int rc = -ENOMEM;

	if (stats) {
		stats->size = sizeof(*stats);
		rc = ts_stats_get(request->session->engine,
				  request->slot ? request->slot->region : NULL, stats);
	}
	rc = answer(request, rc, stats, sizeof(*stats));
	free(stats);
	return rc;
}

static int scan(struct request *request)
{
	struct ts_scan_result result = { .size = sizeof(result) };
	int rc = ts_region_scan(request->slot->region, &result);

	return answer(request, rc, &result, sizeof(result));
}

static int dictionary(struct request *request)
{
	int rc = ts_tier_set_dictionary(request->session->engine, request->head.region,
					request->payload, request->head.len_bytes);

	return answer(request, rc, NULL, 0);
}

static int serve_region(struct request *request)
{
	switch (request->head.type) {
	case TSP_DEACTIVATE:
		return answer(request, ts_region_deactivate(request->slot->region), NULL, 0);
	case TSP_SCAN:
		return scan(request);
	case TSP_EVICT:
		return evict(request);
	case TSP_SAMPLE:
		return sample(request);
	case TSP_STATS:
		return statistics(request);
	default:
		return -EPROTO;
	}
}

static int serve(struct request *request)
{
	struct tsp_session *session = request->session;
	int rc;

	(void)ts_set_error(0, "");
	if (request->head.type == TSP_LIST)
		return list(request);
	if (request->head.type == TSP_DICTIONARY)
		return dictionary(request);
	if (request->head.type == TSP_STATS && !request->head.region)
		return statistics(request);
	pthread_rwlock_rdlock(&session->regions_lock);
	for (unsigned i = 0; i < TSP_REGION_MAX && !request->slot; i++)
		if (session->slots[i].region && session->slots[i].id == request->head.region)
			request->slot = &session->slots[i];
	if (request->slot)
		rc = serve_region(request);
	else
		rc = answer(request, ts_set_error(TS_ESTATE, "the region was detached"), NULL, 0);
	pthread_rwlock_unlock(&session->regions_lock);
	return rc;
}

void tsp_answer(struct tsp_session *session, int fd)
{
	int rc = 0;

	while (!rc) {
		struct request request = { .session = session, .fd = fd };
		if (tsp_recv(fd, &request.head, sizeof(request.head)) ||
		    request.head.len_bytes > TSP_PAYLOAD_MAX)
			return;
		char *payload = malloc(request.head.len_bytes + 1);
		if (!payload)
			return;
		rc = tsp_recv(fd, payload, request.head.len_bytes);
		request.payload = payload;
		if (!rc)
			rc = serve(&request);
		free(payload);
	}
}
