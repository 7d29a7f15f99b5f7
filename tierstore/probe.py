# SPDX-License-Identifier: Apache-2.0
"""What this kernel offers, what tierstore will use of it, and what a fallback cannot see."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import Any

from tierstore._native import ffi, lib
from tierstore.errors import HostError, check_error

__all__ = ["Probe", "probe"]

_FLAGS = (
    "uffd_dev", "has_missing_shmem", "has_wp", "has_wp_shmem", "has_wp_async",
    "has_wp_unpopulated", "has_move", "has_poison", "has_sigbus", "has_thread_id",
    "has_event_remove", "has_event_unmap", "has_event_remap", "has_minor_shmem",
    "has_pagemap_scan", "has_rwp", "has_rwp_shmem", "has_rwp_hugetlb", "has_io_uring",
    "has_thp_anon", "has_thp_shmem",
)  # fmt: skip

FEATURES = {
    "has_missing_shmem": "faults on memfd pages can be served",
    "has_wp": "write protection of anonymous memory",
    "has_wp_shmem": "write protection of memfd memory: guards evictions",
    "has_wp_async": "writes are noticed without a message each",
    "has_wp_unpopulated": "never-touched pages can be protected, too",
    "has_move": "pages are taken out of a guest without a copy (UFFDIO_MOVE)",
    "has_poison": "a page that is lost stops its reader (UFFDIO_POISON)",
    "has_sigbus": "faults can be served in the faulting thread",
    "has_thread_id": "messages name the faulting thread",
    "has_event_remove": "balloons (MADV_DONTNEED, MADV_REMOVE) are seen",
    "has_event_unmap": "munmap is seen",
    "has_event_remap": "mremap is seen",
    "has_minor_shmem": "minor faults of memfd memory",
    "has_pagemap_scan": "which pages were touched is read in bulk (PAGEMAP_SCAN)",
    "has_rwp": "reads and writes of anonymous memory are noticed (RWP)",
    "has_rwp_shmem": "the same of memfd memory; evictions in short sync windows",
    "has_rwp_hugetlb": "the same of memfds of 2 MiB pages (hugetlbfs), which need it",
    "has_io_uring": "the store \"file\" reads and writes at depth",
    "has_thp_anon": "huge pages can occur in anonymous memory",
    "has_thp_shmem": "huge pages can occur in memfd memory",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """The kernel's answers.  Nothing was left open by asking."""

    kernel_release: str
    uffd_features: int
    uffd_error: int
    """0, or the negative errno for which no userfaultfd can be had."""
    io_uring_error: int
    flags: dict[str, bool]

    def tracker_for(self, memory: str) -> str | None:
        """The tracker that ``auto`` means for ``"anon"`` or ``"memfd"``; ``None``: none works."""
        if self.uffd_error or not self.flags["has_pagemap_scan"]:
            return None
        if memory == "anon" and self.flags["has_rwp"] and self.flags["has_move"]:
            return "rwp"
        if memory == "memfd":
            if self.flags["has_rwp_shmem"]:
                return "rwp"
            usable = self.flags["has_missing_shmem"] and self.flags["has_wp_shmem"]
            return "zap" if usable else None
        return "wp" if self.flags["has_wp_async"] and self.flags["has_move"] else None

    @property
    def blind_spots(self) -> list[str]:
        """What the fallbacks in use cannot see, and what is not available, for a person."""
        spots = []
        if self.uffd_error:
            spots.append(f"no userfaultfd: {os.strerror(-self.uffd_error)}. {self.remedy}")
            return spots
        if self.tracker_for("anon") == "wp":
            spots.append(
                "anonymous memory: reads are not seen, only writes. A page that is only read looks "
                "cold; it passes a probation before it leaves, in which any touch brings it back."
            )
        if self.tracker_for("anon") is None:
            spots.append("anonymous memory can't be served: needs Linux 6.8 (MOVE, async WP).")
        if self.tracker_for("memfd") is None:
            spots.append("memfd memory can't be served: needs Linux 6.7 (PAGEMAP_SCAN, WP shmem).")
        else:
            spots.append(
                "memfd: touches through other mappings (vhost-user) and PUNCH_HOLE by a balloon "
                "are not seen; call discard() after the latter."
            )
        if not self.flags["has_poison"]:
            spots.append("a lost page can't be poisoned: the engine stops the process instead.")
        if not self.flags["has_io_uring"]:
            reason = os.strerror(-self.io_uring_error) if self.io_uring_error else "not there"
            spots.append(
                f'no io_uring ({reason}): the store "file" can\'t be used; '
                f"see sysctl kernel.io_uring_disabled."
            )
        return spots

    @property
    def remedy(self) -> str:
        """What to do about a missing userfaultfd, or ``""``."""
        if self.uffd_error == -errno.EPERM:
            return (
                "Run as root, give CAP_SYS_PTRACE, open /dev/userfaultfd to your user, or set "
                "sysctl vm.unprivileged_userfaultfd=1."
            )
        if self.uffd_error in (-errno.ENOSYS, -errno.ENOENT):
            return "The kernel was built without CONFIG_USERFAULTFD."
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = dataclasses.asdict(self)
        data["uffd_features"] = hex(self.uffd_features)
        data["trackers"] = {memory: self.tracker_for(memory) for memory in ("anon", "memfd")}
        data["blind_spots"] = self.blind_spots
        return data


def probe() -> Probe:
    """Ask the kernel.  Raises ``HostError`` only if asking itself is impossible."""
    answer = ffi.new("struct ts_probe *")
    answer.size = ffi.sizeof("struct ts_probe")
    check_error(lib.ts_probe(answer), "probe", default=HostError)
    return Probe(
        kernel_release=bytes(ffi.string(answer.kernel_release)).decode("ascii", "replace"),
        uffd_features=answer.uffd_features,
        uffd_error=answer.uffd_error,
        io_uring_error=answer.io_uring_error,
        flags={name: bool(getattr(answer, name)) for name in _FLAGS},
    )
