/* SPDX-License-Identifier: Apache-2.0
 *
 * mapping.c — /proc/self/smaps, read for the reasons a range can't be served (mapping.h).
 *
 * The kernel would refuse some of these at registration with a bare EINVAL, and accept others that
 * would lose data later: a locked range whose pages can't be moved, a file whose pages come back
 * from the file.
 */
#include "engine/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct mapping {
	uint64_t start, end, offset, inode;
	unsigned major, minor;
	char perms[8];
	char path[128];
	bool has_uffd, is_locked, is_hugetlb, is_io;
};

static bool parse_head(const char *line, struct mapping *mapping)
{
	*mapping = (struct mapping){ 0 };
	return sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64 " %127[^\n]",
		      &mapping->start, &mapping->end, mapping->perms, &mapping->offset,
		      &mapping->major, &mapping->minor, &mapping->inode, mapping->path) >= 7;
}

static void parse_flags(const char *line, struct mapping *mapping)
{
	mapping->has_uffd = strstr(line, " um") || strstr(line, " uw") || strstr(line, " ui") ||
			    strstr(line, " ur");
	mapping->is_locked = strstr(line, " lo") != NULL;
	mapping->is_hugetlb = strstr(line, " ht") != NULL;
	mapping->is_io = strstr(line, " io") || strstr(line, " pf");
}

static int refuse(int error, const char *name, const struct mapping *mapping, const char *why)
{
	return ts_fail(error, "%s: %" PRIx64 "-%" PRIx64 "%s%s: %s", name, mapping->start,
		       mapping->end, mapping->path[0] ? " " : "", mapping->path, why);
}

static int check_common(const struct mapping *mapping, const char *name)
{
	if (mapping->has_uffd)
		return refuse(TS_EREGISTERED, name, mapping,
			      "another userfaultfd is registered here");
	if (mapping->perms[0] != 'r' || mapping->perms[1] != 'w')
		return refuse(TS_EBACKING, name, mapping, "not readable and writable");
	if (mapping->is_locked)
		return refuse(TS_EBACKING, name, mapping, "locked in memory; munlock it first");
	if (mapping->is_io)
		return refuse(TS_EBACKING, name, mapping, "device memory");
	return 0;
}

static int check_anon(const struct mapping *mapping, const char *name)
{
	if (mapping->is_hugetlb)
		return refuse(TS_EBACKING, name, mapping, "hugetlb pages; only those of a memfd "
			      "can be served; or map it with 4 KiB pages (transparent huge pages "
			      "are fine)");
	if (mapping->perms[3] != 'p')
		return refuse(TS_EBACKING, name, mapping,
			      "shared; attach it as memfd memory with its "
			      "descriptor");
	if (mapping->inode)
		return refuse(TS_EBACKING, name, mapping, "private mapping of a file; only memory "
			      "without a file, or a shared memfd, can be served");
	return 0;
}

static int check_memfd(const struct mapping *mapping, const char *name,
		       const struct ts_region_options *options)
{
	struct stat st;
	uint64_t addr = (uintptr_t)options->addr;
	uint64_t expected = options->memfd_offset + (mapping->start > addr ?
						     mapping->start - addr : 0);
	uint64_t actual = mapping->offset + (mapping->start < addr ? addr - mapping->start : 0);

	if (mapping->perms[3] != 's')
		return refuse(TS_EBACKING, name, mapping, "private; a memfd region is mapped "
			      "MAP_SHARED");
	if (fstat(options->memfd, &st))
		return refuse(-errno, name, mapping, "the memfd is no open descriptor");
	if (st.st_ino != mapping->inode || major(st.st_dev) != mapping->major ||
	    minor(st.st_dev) != mapping->minor)
		return refuse(TS_EBACKING, name, mapping,
			      "not a mapping of the memfd that was given");
	if (strncmp(mapping->path, "/memfd:", 7) && strncmp(mapping->path, "/dev/zero", 9))
		return refuse(TS_EBACKING, name, mapping, "a file, not a memfd");
	if (expected != actual)
		return refuse(TS_EBACKING, name, mapping,
			      "memfd_offset is not the offset mapped here");
	return 0;
}

static int check_mapping(const struct mapping *mapping, const char *name,
			 const struct ts_region_options *options)
{
	int rc = check_common(mapping, name);

	if (rc)
		return rc;
	return options->memory == TS_MEMORY_MEMFD ? check_memfd(mapping, name, options) :
	       check_anon(mapping, name);
}

int ts_mapping_check(const struct ts_region_options *options, const char *name,
		     bool *is_hugetlb_out)
{
	uint64_t at = (uintptr_t)options->addr, end = at + options->len_bytes;
	struct mapping mapping = { 0 }, next;
	char line[512];
	int rc = 0;

	*is_hugetlb_out = false;
	/* First, for what we open here might get the same number. */
	if (options->memory == TS_MEMORY_MEMFD && fcntl(options->memfd, F_GETFD) < 0)
		return ts_fail(-errno, "%s: the memfd is no open descriptor", name);
	FILE *smaps = fopen("/proc/self/smaps", "re");

	if (!smaps)
		return ts_fail(-errno, "%s: /proc/self/smaps: %m", name);
	while (!rc && at < end && fgets(line, sizeof(line), smaps)) {
		if (parse_head(line, &next)) {
			mapping = next;
			continue;
		}
		/* VmFlags is the last line of a mapping. */
		if (strncmp(line, "VmFlags:", 8) || mapping.end <= at)
			continue;
		parse_flags(line, &mapping);
		if (mapping.start > at)
			break;
		rc = check_mapping(&mapping, name, options);
		*is_hugetlb_out |= mapping.is_hugetlb;
		at = mapping.end;
	}
	fclose(smaps);
	if (!rc && at < end)
		rc = ts_fail(TS_EBACKING, "%s: nothing is mapped at %" PRIx64, name, at);
	return rc;
}
