/* SPDX-License-Identifier: Apache-2.0
 *
 * handed.h — descriptors that another process made: what they are, and how to use them without
 * trusting that process.
 *
 * The open file is shared with whoever handed it over: it may change the flags, register and
 * unregister as it likes, and die at any moment.
 */
#ifndef TS_OS_HANDED_H
#define TS_OS_HANDED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* UFFD_FEATURE_* that were agreed on when the userfaultfd was opened.  0; -EBADF: no open
 * descriptor; -EINVAL: not a userfaultfd, or one without UFFDIO_API. */
int ts_handed_features(int uffd, uint64_t *features_out);

/* Are these two one and the same open file?  False, too, if the kernel does not tell. */
bool ts_handed_is_same(int fd, int other_fd);

/* Makes it non-blocking: poll(2) answers POLLERR otherwise.  0 or -errno. */
int ts_handed_unblock(int uffd);

/* Is a userfaultfd of its process registered at this page?  Changes nothing.  0: yes; -ENOENT;
 * -ESRCH: the process is gone; -EINVAL: not memory of a kind or at a place that could be. */
int ts_handed_probe(int uffd, uint64_t addr);

/* read(2) that does not block even if somebody has made it blocking again. */
ssize_t ts_handed_read(int uffd, void *buf, size_t len_bytes);

enum ts_handed_backing {
	TS_BACKING_FULL,       /* can be read, and holes punched */
	TS_BACKING_READ_ONLY,  /* sealed, or opened for reading only */
	TS_BACKING_NONE,       /* no memfd */
	TS_BACKING_HUGE,       /* of huge pages */
	TS_BACKING_SHORT,      /* ends before end_bytes */
	TS_BACKING_CLOSED,     /* no open descriptor */
};
enum ts_handed_backing ts_handed_backing(int fd, uint64_t end_bytes);

/* Is this the page table of a process? */
bool ts_handed_is_pagemap(int fd);

#endif
