/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt.c — memory of another process comes under the engine's care (tierstore.h). */
#include "core/engine.h"

int ts_region_adopt(struct ts_engine *engine, const struct ts_adopt_options *options,
		    struct ts_region **region_out)
{
	(void)engine;
	(void)region_out;
	return ts_fail(TS_EUNSUPPORTED, "%s: memory of another process is not served yet",
		       options->name ? options->name : "adopt");
}

int ts_region_add_range(struct ts_region *region, const struct ts_remote_range *range)
{
	(void)range;
	return ts_fail(TS_ECONFIG, "%s: not an adopted region", region->name);
}

uint32_t ts_region_abilities(struct ts_region *region)
{
	(void)region;
	return TS_CAN_SERVE | TS_CAN_TRACK | TS_CAN_EVICT;
}

const char *ts_region_limits(struct ts_region *region)
{
	(void)region;
	return "";
}

int ts_region_drop(struct ts_region *region)
{
	return ts_fail(TS_ECONFIG, "%s: not an adopted region: detach it", region->name);
}
