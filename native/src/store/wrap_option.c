/* SPDX-License-Identifier: Apache-2.0
 * wrap_option.c — reads "key=value,key=value", with messages for the person who wrote it. */
#include <errno.h>
#include <string.h>

#include "store/wrap.h"

enum { OPTION_MAX = 256 };

int ts_options_parse(const char *owner, const char *options, ts_option_fn option, void *context)
{
	char text[OPTION_MAX];

	while (options && *options) {
		size_t len = strcspn(options, ",");
		if (len >= sizeof(text))
			return ts_fail(TS_ECONFIG, "%s: an option is longer than %d characters",
				       owner, OPTION_MAX - 1);
		memcpy(text, options, len);
		text[len] = '\0';
		options += len + (options[len] == ',');

		char *value = strchr(text, '=');
		if (!value)
			return ts_fail(TS_ECONFIG, "%s: option '%s' is not of the form key=value",
				       owner, text);
		*value++ = '\0';
		int result = option(context, text, value);
		if (result < 0)
			return result;
	}
	return 0;
}

int ts_option_duration_ns(const char *owner, const char *key, const char *value,
			  uint64_t *ns_out)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = { { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 } };
	char *end;
	double number = strtod(value, &end);

	if (end != value && number >= 0 && number < 1e6) {
		for (size_t i = 0; i < TS_ARRAY_LEN(units); i++) {
			if (strcmp(end, units[i].name) == 0) {
				*ns_out = (uint64_t)(number * units[i].ns);
				return 0;
			}
		}
		if (number == 0 && !*end) {
			*ns_out = 0;
			return 0;
		}
	}
	return ts_fail(TS_ECONFIG, "%s: %s=%s is no duration; write 20us, 5ms or 1.5s", owner, key,
		       value);
}

int ts_option_number(const char *owner, const char *key, const char *value, uint64_t max,
		     uint64_t *number_out)
{
	char *end;

	errno = 0;
	unsigned long long number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || number > max)
		return ts_fail(TS_ECONFIG, "%s: %s=%s is no number from 0 to %llu", owner, key,
			       value, (unsigned long long)max);
	*number_out = number;
	return 0;
}

int ts_option_share(const char *owner, const char *key, const char *value, double *share_out)
{
	char *end;
	double share = strtod(value, &end);

	if (end == value || *end || !(share >= 0 && share <= 1))
		return ts_fail(TS_ECONFIG, "%s: %s=%s is no probability from 0 to 1", owner, key,
			       value);
	*share_out = share;
	return 0;
}
