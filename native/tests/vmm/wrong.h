/* SPDX-License-Identifier: Apache-2.0
 *
 * wrong.h — what the double can say wrongly (--wrong NAME), and the regions it says it about.
 *
 * Lies about regions     unregistered unmapped overlap wrap unaligned empty-region no-regions
 *                        many-regions negative fraction text missing-key huge-offset
 *                        other-offset
 * Lies beside them       version mode pid no-mode type
 * Bad bytes              truncated huge-length zero-length duplicate nested garbage long
 * Bad descriptors        no-fd null-fd two-fds many-fds
 */
#ifndef TS_TESTS_VMM_WRONG_H
#define TS_TESTS_VMM_WRONG_H

#include <stdio.h>

#include "handoff.h"

/* Whether NAME is one of them. */
bool wrong_is_known(const char *name);
bool wrong_is(const struct handoff *handoff, const char *name);

/* One region as both protocols need it; numbers are text, so that they can be wrong. */
struct wrong_region {
	char addr[40], len[40];
	uint64_t offset_bytes, guest_addr;
};

/* The regions of the first message: the ranges, or what the lie makes of them.  *list_out is the
 * caller's to free.  Returns their number. */
unsigned wrong_regions(const struct handoff *handoff, const struct ram *ram,
		       struct wrong_region **list_out);
/* A body that replaces the right one: true if there is such. */
bool wrong_body(const struct handoff *handoff, FILE *body);

#endif
