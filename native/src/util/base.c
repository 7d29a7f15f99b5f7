/* SPDX-License-Identifier: Apache-2.0
 * base.c — errors with words, for people; assertion failures. */
#include "util/base.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* The preload shim's copy must not be looked up through tables that lie in the program's heap
 * (preload.h); as an extension of Python it would take room that is short there. */
#ifdef TS_STATIC_TLS
#define TLS_MODEL __attribute__((tls_model("initial-exec")))
#else
#define TLS_MODEL
#endif

static _Thread_local TLS_MODEL char last_error[512];

_Noreturn void ts_assert_failed(const char *cond, const char *file, int line)
{
	fprintf(stderr, "tierstore: %s:%d: assertion failed: %s\n", file, line, cond);
	abort();
}

int ts_fail(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(last_error, sizeof(last_error), format, args);
	va_end(args);
	return error;
}

int ts_set_error(int error, const char *text)
{
	snprintf(last_error, sizeof(last_error), "%s", text);
	return error;
}

const char *ts_last_error(void)
{
	return last_error;
}

static const struct {
	int error;
	const char *text;
} error_texts[] = {
	{ TS_EFULL, "no room left in the store" },
	{ TS_ENOTFOUND, "no such frame" },
	{ TS_ECORRUPT, "contents do not match their checksum or format" },
	{ TS_EWRONGFILE, "the path holds something that is not a tierstore store" },
	{ TS_ELOCKED, "in use by another process" },
	{ TS_EVERSION, "written by or compiled for another version" },
	{ TS_EUNSUPPORTED, "not supported by this kernel or build" },
	{ TS_EOVERLAP, "overlaps an attached region" },
	{ TS_EREGISTERED, "another userfaultfd is registered there" },
	{ TS_EALIGN, "not aligned to the page size" },
	{ TS_EBACKING, "memory of a kind that can't be served" },
	{ TS_ECONFIG, "an option has a value that makes no sense" },
	{ TS_EPERMISSION, "a privilege is missing" },
	{ TS_ELIMIT, "one of the library's own bounds" },
	{ TS_ESTATE, "not possible in this state" },
	{ TS_EBUSY, "some pages could not be moved" },
};

const char *ts_strerror(int error)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(error_texts); i++)
		if (error_texts[i].error == error)
			return error_texts[i].text;
	return error < 0 ? strerror(-error) : "success";
}

const char *ts_version(void)
{
	return TS_VERSION;
}
