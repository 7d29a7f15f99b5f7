/* SPDX-License-Identifier: Apache-2.0
 *
 * adopt_maps.c — does another process map what it says that it maps?  (adopt.h)
 *
 * Pages are read and punched by descriptor and offset.  With a wrong offset those would be the
 * guest's other pages, or another guest's, and nothing else would notice.  The process's own list
 * of mappings knows better; whose it is, is known from its pagemap.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/adopt.h"

struct line {
	uint64_t start, end, offset, inode;
	unsigned major, minor;
	char perms[8];
};

static bool parse(const char *text, struct line *line)
{
	return sscanf(text, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64, &line->start,
		      &line->end, line->perms, &line->offset, &line->major, &line->minor,
		      &line->inode) == 7;
}

/* The list of the process whose page table this is; NULL: can't be had. */
static FILE *open_maps(int pagemap_fd)
{
	char link[40], path[64];
	int pid, end = 0;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", pagemap_fd);
	ssize_t len = readlink(link, path, sizeof(path) - 1);
	if (len <= 0)
		return NULL;
	path[len] = 0;
	if (sscanf(path, "/proc/%d/pagemap%n", &pid, &end) != 1 || end != len)
		return NULL;
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	return fopen(path, "re");
}

static int check_line(const struct ts_remote_range *range, const struct line *line,
		      const struct stat *backing, const char *name)
{
	uint64_t at = TS_MAX(range->addr, line->start);
	uint64_t said = range->backing_offset + (at - range->addr);
	uint64_t known = line->offset + (at - line->start);

	if (line->inode != backing->st_ino ||
	    makedev(line->major, line->minor) != backing->st_dev || line->perms[3] != 's')
		return ts_fail(TS_EBACKING, "%s: its process does not map the file behind "
			       "backing_fd %d at 0x%" PRIx64 "; hand over the memfd of that memory",
			       name, range->backing_fd, at);
	if (said != known)
		return ts_fail(TS_EBACKING, "%s: backing_offset says that 0x%" PRIx64 " lies at "
			       "0x%" PRIx64 " of its memfd, and its process maps it from 0x%"
			       PRIx64, name, at, said, known);
	return 0;
}

int ts_adopt_check_mapping(const struct ts_remote_range *range, int pagemap_fd, const char *name)
{
	struct stat backing;
	struct line line;
	char text[512];
	int rc = 0;

	if (range->backing_fd < 0 || pagemap_fd < 0)
		return 0;
	if (fstat(range->backing_fd, &backing))
		return ts_fail(-errno, "%s: backing_fd %d: %m", name, range->backing_fd);
	FILE *maps = open_maps(pagemap_fd);
	/* Who may not look has to believe. */
	while (maps && !rc && fgets(text, sizeof(text), maps))
		if (parse(text, &line) && line.end > range->addr &&
		    line.start < range->addr + range->len_bytes)
			rc = check_line(range, &line, &backing, name);
	if (maps)
		fclose(maps);
	return rc;
}
