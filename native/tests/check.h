/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h — all that a C test of this project needs: checks that say what they saw, tests by name,
 * and a loud way to skip.
 *
 *     static void page_comes_back(void) { CHECK(x != NULL); CHECK_EQ(get(), 0); }
 *     CHECK_MAIN({ "page_comes_back", page_comes_back }, ...)
 *
 * A failed check ends the process with status 1.  SKIP("reason") ends the test; if every test of
 * a program skipped, its status is 77, which meson shows as skipped.  `program name` runs one
 * test.
 */
#ifndef TS_TESTS_CHECK_H
#define TS_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_test {
	const char *name;
	void (*run)(void);
};

static const char *check_skipped; /* why, if the running test skipped */

#define CHECK(cond)                                                                           \
	do {                                                                                  \
		if (!(cond)) {                                                                \
			fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #cond); \
			exit(1);                                                              \
		}                                                                             \
	} while (0)

/* Integers; both sides are evaluated once and shown. */
#define CHECK_EQ(got, want)                                                                   \
	do {                                                                                  \
		long long got_ = (long long)(got), want_ = (long long)(want);                 \
		if (got_ != want_) {                                                          \
			fprintf(stderr, "%s:%d: %s is %lld, expected %lld\n", __FILE__, __LINE__, \
				#got, got_, want_);                                           \
			exit(1);                                                              \
		}                                                                             \
	} while (0)

#define SKIP(reason)                     \
	do {                             \
		check_skipped = (reason); \
		return;                  \
	} while (0)

/* How often to do what is done many times: less on an emulated machine (./dev kernel). */
static inline unsigned check_rounds(unsigned nr_rounds)
{
	return getenv("TIERSTORE_IN_VM") ? nr_rounds / 16 : nr_rounds;
}

static inline int check_run(int argc, char **argv, const struct check_test *tests, size_t nr_tests)
{
	size_t nr_run = 0, nr_skipped = 0;

	for (size_t i = 0; i < nr_tests; i++) {
		if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
			continue;
		check_skipped = NULL;
		tests[i].run();
		nr_run++;
		nr_skipped += check_skipped != NULL;
		printf("%s %s%s%s\n", check_skipped ? "SKIP" : "ok  ", tests[i].name,
		       check_skipped ? ": " : "", check_skipped ? check_skipped : "");
		fflush(stdout);
	}
	if (nr_run == 0) {
		fprintf(stderr, "no test of that name\n");
		return 1;
	}
	return nr_skipped == nr_run ? 77 : 0;
}

#define CHECK_MAIN(...)                                                        \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		static const struct check_test tests[] = { __VA_ARGS__ };      \
		return check_run(argc, argv, tests, sizeof(tests) / sizeof(tests[0])); \
	}

#endif
