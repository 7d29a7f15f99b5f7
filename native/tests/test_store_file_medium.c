/* SPDX-License-Identifier: Apache-2.0
 * test_store_file_medium.c — the store "file" on media other than a roomy file system: a tmpfs
 * that runs out of space, and a block device.  Needs root; what it mounts is seen by this process
 * alone and goes with it. */
#include <linux/loop.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "file_rig.h"

static void *buf;
static struct ts_reader *reader;

static struct ts_store *begin(const char *path, uint64_t size_bytes)
{
	struct ts_store *store = rig_open(path, size_bytes, "");

	buf = buf ? buf : rig_buffer(RIG_BUF_BYTES);
	CHECK_EQ(ts_store_reader_open(store, &reader), 0);
	return store;
}

static void end(struct ts_store *store)
{
	ts_store_reader_close(reader);
	ts_store_close(store);
}

/* A tmpfs of its own; false if this user may not. */
static bool mount_small(const char *path, const char *options)
{
	static bool is_private;

	if (geteuid() != 0)
		return false;
	if (!is_private && (unshare(CLONE_NEWNS) ||
			    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
		return false;
	is_private = true;
	CHECK_EQ(mkdir(path, 0700), 0);
	return mount("none", path, "tmpfs", 0, options) == 0;
}

/* Puts until the medium is full; returns how many frames it took.  All before are intact. */
static uint64_t fill(struct ts_store *store, uint64_t key, uint32_t len_bytes, int error)
{
	int ret;

	while ((ret = rig_put(store, key, 1, len_bytes)) == 0)
		CHECK(++key < 2000);
	CHECK_EQ(ret, error);
	for (uint64_t i = 0; i < key; i++)
		rig_expect(reader, buf, i, 1, len_bytes);
	return key;
}

static void a_full_file_system(void)
{
	char folder[300], path[320];

	snprintf(folder, sizeof(folder), "%s", rig_path("small"));
	if (!mount_small(folder, "size=6m"))
		SKIP("mounting a tmpfs needs root");
	snprintf(path, sizeof(path), "%s/store", folder);
	struct ts_store *store = begin(path, 32 * RIG_MIB);
	uint64_t nr = fill(store, 0, 40000, -ENOSPC);
	CHECK(nr > 100);
	CHECK_EQ(rig_stat(store).nr_frames, nr);
	CHECK(rig_stat(store).nr_errors > 0);
	struct ts_get request;
	CHECK_EQ(rig_get(reader, &request, nr, buf), TS_ENOTFOUND);
	/* What is deleted and given back can be had again. */
	for (unsigned turn = 0; turn < 3; turn++) {
		for (uint64_t key = nr / 4; key < nr; key++)
			CHECK_EQ(rig_del(store, key), 0);
		for (unsigned i = 0; ts_store_maintain(store) == 1; i++)
			CHECK(i < 100);
		CHECK(fill(store, nr / 4, 40000, -ENOSPC) > nr / 2);
	}
	end(store);
	CHECK_EQ(access(path, F_OK), -1);
	/* The kernel lets go of the ring, and that of the file, in its own time. */
	CHECK_EQ(umount2(folder, MNT_DETACH), 0);
}

static char loop_path[64];

/* A block device over a file of this size; a descriptor, with which it goes, or negative where
 * there is none to be had. */
static int loop_attach(const char *path, uint64_t size_bytes)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int fd = -1;

	if (control < 0)
		return -1;
	rig_write_file(path, "", 0, 0);
	CHECK_EQ(truncate(path, (off_t)size_bytes), 0);
	int backing = open(path, O_RDWR | O_CLOEXEC);
	CHECK(backing >= 0);
	config.fd = (uint32_t)backing;
	/* Somebody else may take the free one first. */
	for (unsigned i = 0; i < 10 && fd < 0; i++) {
		snprintf(loop_path, sizeof(loop_path), "/dev/loop%d",
			 ioctl(control, LOOP_CTL_GET_FREE));
		fd = open(loop_path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config)) {
			close(fd);
			fd = -1;
		}
	}
	close(backing);
	close(control);
	return fd;
}

static void expect_refused(int error, const char *word)
{
	struct ts_store *store;

	CHECK_EQ(rig_try_open(loop_path, 24 * RIG_MIB, "", &store), error);
	CHECK(strstr(ts_last_error(), loop_path) != NULL);
	CHECK(strstr(ts_last_error(), word) != NULL);
}

static void device_is_checked(void)
{
	struct ts_store *store;

	CHECK_EQ(rig_try_open(loop_path, 64 * RIG_MIB, "", &store), TS_ECONFIG);
	CHECK(strstr(ts_last_error(), "bytes") != NULL);
	/* Where a partition table has its copy; where a file system has its superblock. */
	rig_write_file(loop_path, "EFI PART", 8, 32 * RIG_MIB - 512);
	expect_refused(TS_EWRONGFILE, "untouched");
	rig_write_file(loop_path, "\0\0\0\0\0\0\0\0", 8, 32 * RIG_MIB - 512);
	rig_write_file(loop_path, "ext4?", 5, 1024);
	expect_refused(TS_EWRONGFILE, "init=1");
	rig_write_file(loop_path, "\0\0\0\0\0", 5, 1024);
}

static void a_block_device(void)
{
	char backing[300];

	snprintf(backing, sizeof(backing), "%s", rig_path("backing"));
	int fd = loop_attach(backing, 32 * RIG_MIB);
	if (fd < 0)
		SKIP("a loop device needs root");
	device_is_checked();
	struct ts_store *store = begin(loop_path, 24 * RIG_MIB);
	expect_refused(TS_ELOCKED, "in use");
	uint64_t nr = fill(store, 0, 30000, TS_EFULL);
	CHECK(nr * 30000 > 16 * RIG_MIB);
	uint64_t full_bytes = rig_disk_bytes(backing);
	for (uint64_t key = 0; key < nr; key += 2)
		CHECK_EQ(rig_del(store, key), 0);
	for (uint64_t key = 0; key < nr; key += 4)
		CHECK_EQ(rig_put(store, key, 2, 30000), 0);
	for (uint64_t key = 0; key < nr; key++)
		if (key % 2)
			rig_expect(reader, buf, key, 1, 30000);
		else if (key % 4 == 0)
			rig_expect(reader, buf, key, 2, 30000);
	for (uint64_t key = 0; key < nr; key++)
		CHECK_EQ(rig_del(store, key), 0);
	for (unsigned i = 0; ts_store_maintain(store) == 1; i++)
		CHECK(i < 100);
	CHECK(rig_stat(store).discarded_bytes > 0);
	CHECK(rig_disk_bytes(backing) < full_bytes / 2);
	end(store);
	/* A device is never removed; and it is known again. */
	CHECK_EQ(access(loop_path, F_OK), 0);
	store = begin(loop_path, 24 * RIG_MIB);
	CHECK_EQ(rig_stat(store).nr_frames, 0);
	end(store);
	close(fd);
}

CHECK_MAIN({ "a_full_file_system", a_full_file_system }, { "a_block_device", a_block_device })
