/* SPDX-License-Identifier: Apache-2.0
 * core.c — small services of the engine for both ways (engine.h). */
#include <stdarg.h>
#include <string.h>

#include "core/engine.h"
#include "os/sys.h"

void ts_log(struct ts_engine *engine, int level, const char *format, ...)
{
	char text[512];
	va_list args;

	if (!engine->options.log)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	engine->options.log(engine->options.log_user, level, text);
}

struct ts_stages *ts_stages_create(struct ts_engine *engine)
{
	struct ts_stages *stages = atomic_load(&engine->stages);

	/* In-thread regions come and go, and with them who counts. */
	for (; stages; stages = stages->next) {
		bool is_free = true;
		if (atomic_compare_exchange_strong(&stages->is_free, &is_free, false))
			return stages;
	}
	stages = calloc(1, sizeof(*stages));
	if (!stages)
		return NULL;
	stages->next = atomic_load(&engine->stages);
	while (!atomic_compare_exchange_weak(&engine->stages, &stages->next, stages))
		;
	return stages;
}

void ts_stages_release(struct ts_stages *stages)
{
	if (stages)
		atomic_store(&stages->is_free, true);
}

struct ts_region *ts_engine_enter_slot(struct ts_engine *engine, unsigned slot)
{
	TS_SCOPED_LOCK(&engine->regions_lock);
	struct ts_region *region = engine->regions[slot];
	return region && ts_region_enter(region) ? region : NULL;
}

struct ts_region *ts_engine_enter_region(struct ts_engine *engine, uint32_t region_id)
{
	TS_SCOPED_LOCK(&engine->regions_lock);
	for (unsigned i = 0; i < TS_REGION_MAX; i++) {
		struct ts_region *region = engine->regions[i];
		if (region && region->id == region_id)
			return ts_region_enter(region) ? region : NULL;
	}
	return NULL;
}
