/* SPDX-License-Identifier: Apache-2.0
 *
 * With UFFD_FEATURE_EVENT_FORK, fork() does not return before its event has been read, and the
 * event carries a new descriptor that serves the child's copy of the memory.  A range with
 * MADV_DONTFORK is not there in the child at all (SIGSEGV), so it needs no event.
 */
#include "kern_thread.h"

struct child_plan {
	const char *page;
};

/* The child reads a page, and says what it saw in its exit status. */
static long fork_reader(void *arg)
{
	const struct child_plan *plan = arg;
	pid_t child = fork();
	if (child == 0) {
		int signo = kern_read_signal(plan->page);
		_exit(signo ? signo : *(volatile const unsigned char *)plan->page);
	}
	return child;
}

static int exit_status(long child)
{
	int status = -1;
	CHECK_EQ(waitpid((pid_t)child, &status, 0), child);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void child_is_served(void)
{
	int uffd = kern_uffd(UFFD_FEATURE_EVENT_FORK);
	char *page = kern_anon(1), source[KERN_PAGE];
	struct child_plan plan = {page};
	struct kern_thread forker;
	kern_fill(source, 1, 's');
	CHECK_EQ(kern_register(uffd, page, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	kern_start(&forker, fork_reader, &plan);
	struct uffd_msg msg = kern_read_msg(uffd);
	CHECK_EQ(msg.event, UFFD_EVENT_FORK);
	int child_fd = (int)msg.arg.fork.ufd;
	kern_expect_fault(child_fd, page, 0);
	CHECK_EQ(kern_copy(child_fd, page, source, KERN_PAGE), 0);
	CHECK_EQ(exit_status(kern_join(&forker)), 's');
	CHECK(!kern_is_present(page)); /* the parent's page is its own */
	CHECK(!kern_has_msg(uffd));
	CHECK_EQ(close(child_fd), 0);
	CHECK_EQ(close(uffd), 0);
}

static void no_feature(void)
{
	int uffd = kern_uffd(0);
	char *page = kern_anon(2);
	struct child_plan plan = {page}, absent = {page + KERN_PAGE};
	CHECK_EQ(kern_register(uffd, page, 2 * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(madvise(page + KERN_PAGE, KERN_PAGE, MADV_DONTFORK), 0);
	/* Not registered in the child: it reads zeros where the parent would be served. */
	CHECK_EQ(exit_status(fork_reader(&plan)), 0);
	CHECK_EQ(exit_status(fork_reader(&absent)), SIGSEGV);
	CHECK(!kern_has_msg(uffd));
}

int main(void)
{
	child_is_served();
	no_feature();
	return 0;
}
