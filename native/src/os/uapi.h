/* SPDX-License-Identifier: Apache-2.0
 *
 * uapi.h — what the kernel's headers of the build machine may lack.
 *
 * The library must build on Debian 12 (headers of Linux 6.1) and use, at run time, what the
 * running kernel offers, up to Linux 7.3.  So every constant and struct that came later is
 * declared here behind #ifndef of a macro that arrived with it; with newer headers this file
 * declares nothing.  Include this file instead of <linux/userfaultfd.h> and <linux/fs.h>.
 *
 * "since" is the first kernel that has it.  The static_asserts at the end pin the encodings, so
 * that a header that means something else by the same name breaks the build and not a guest.
 */
#ifndef TS_OS_UAPI_H
#define TS_OS_UAPI_H

#include <assert.h>
#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>

/* ---- Bit numbers in uffdio_api.ioctls and uffdio_register.ioctls ------------------------ */

enum {
	TS_UFFD_NR_REGISTER = 0x00,
	TS_UFFD_NR_UNREGISTER = 0x01,
	TS_UFFD_NR_WAKE = 0x02,
	TS_UFFD_NR_COPY = 0x03,
	TS_UFFD_NR_ZEROPAGE = 0x04,
	TS_UFFD_NR_MOVE = 0x05,
	TS_UFFD_NR_WRITEPROTECT = 0x06,
	TS_UFFD_NR_CONTINUE = 0x07,
	TS_UFFD_NR_POISON = 0x08,
	TS_UFFD_NR_RWPROTECT = 0x09,
	TS_UFFD_NR_SET_MODE = 0x0a,
};

/* ---- userfaultfd(2) --------------------------------------------------------------------- */

#ifndef UFFD_USER_MODE_ONLY /* since 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW /* /dev/userfaultfd, since 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* ---- UFFDIO_API features ---------------------------------------------------------------- */

#ifndef UFFD_FEATURE_EXACT_ADDRESS /* since 5.18 */
#define UFFD_FEATURE_EXACT_ADDRESS (1 << 11)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM /* since 5.19 */
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED /* since 6.4 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON /* since 6.6 */
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC /* since 6.7 */
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE /* since 6.8 */
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
/* Bits 17 and 18 meant something else on kernels with the early patches that were never merged:
 * they prove nothing alone (probe.c asks for registration and for a scan as well). */
#ifndef UFFD_FEATURE_RWP /* since 7.3 */
#define UFFD_FEATURE_RWP (1 << 17)
#endif
#ifndef UFFD_FEATURE_RWP_ASYNC /* since 7.3 */
#define UFFD_FEATURE_RWP_ASYNC (1 << 18)
#endif

/* ---- Registration modes and fault flags ------------------------------------------------- */

#ifndef UFFDIO_REGISTER_MODE_RWP /* since 7.3 */
#define UFFDIO_REGISTER_MODE_RWP ((__u64)1 << 3)
#endif
#ifndef UFFD_PAGEFAULT_FLAG_RWP /* since 7.3 */
#define UFFD_PAGEFAULT_FLAG_RWP (1 << 3)
#endif

/* ---- memfd_create(2) -------------------------------------------------------------------- */

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

/* ---- Ioctls ----------------------------------------------------------------------------- */

#ifndef UFFDIO_MOVE /* since 6.8 */
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move; /* out: bytes moved, or -errno when nothing was */
};
#define UFFDIO_MOVE _IOWR(0xAA, TS_UFFD_NR_MOVE, struct uffdio_move)
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#endif

#ifndef UFFDIO_POISON /* since 6.6 */
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated; /* out: bytes poisoned, or -errno */
};
#define UFFDIO_POISON _IOWR(0xAA, TS_UFFD_NR_POISON, struct uffdio_poison)
#define UFFDIO_POISON_MODE_DONTWAKE ((__u64)1 << 0)
#endif

#ifndef UFFDIO_RWPROTECT /* since 7.3 */
struct uffdio_rwprotect {
	struct uffdio_range range;
	__u64 mode;
};
#define UFFDIO_RWPROTECT _IOWR(0xAA, TS_UFFD_NR_RWPROTECT, struct uffdio_rwprotect)
#define UFFDIO_RWPROTECT_MODE_RWP ((__u64)1 << 0)
#define UFFDIO_RWPROTECT_MODE_DONTWAKE ((__u64)1 << 1) /* legal only when un-protecting */
#endif

#ifndef UFFDIO_SET_MODE /* since 7.3 */
struct uffdio_set_mode {
	__u64 enable;  /* masks of UFFD_FEATURE_* */
	__u64 disable;
};
#define UFFDIO_SET_MODE _IOW(0xAA, TS_UFFD_NR_SET_MODE, struct uffdio_set_mode)
#endif

/* ---- PAGEMAP_SCAN on /proc/<pid>/pagemap, since 6.7 ------------------------------------- */

#ifndef PAGEMAP_SCAN
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};
struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end; /* out: where the walk stopped */
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#define PAGE_IS_HUGE (1 << 6)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)
#endif
#ifndef PAGE_IS_SOFT_DIRTY /* since 6.7.1 */
#define PAGE_IS_SOFT_DIRTY (1 << 7)
#endif
#ifndef PAGE_IS_GUARD /* since 6.15 */
#define PAGE_IS_GUARD (1 << 8)
#endif
#ifndef PAGE_IS_ACCESSED /* since 7.3 */
#define PAGE_IS_ACCESSED (1 << 9)
#endif

/* ---- madvise(2) ------------------------------------------------------------------------- */

#ifndef MADV_POPULATE_READ /* since 5.14 */
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE /* since 5.14 */
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED /* since 5.18 */
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE /* since 6.1 */
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL /* since 6.13 */
#define MADV_GUARD_INSTALL 102
#endif

static_assert(UFFDIO_MOVE == 0xC028AA05, "encoding of UFFDIO_MOVE");
static_assert(UFFDIO_POISON == 0xC020AA08, "encoding of UFFDIO_POISON");
static_assert(UFFDIO_RWPROTECT == 0xC018AA09, "encoding of UFFDIO_RWPROTECT");
static_assert(UFFDIO_SET_MODE == 0x4010AA0A, "encoding of UFFDIO_SET_MODE");
static_assert(PAGEMAP_SCAN == 0xC0606610, "encoding of PAGEMAP_SCAN");

#endif
