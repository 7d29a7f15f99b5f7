# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about a VMM's memory: mappings, their files, how they are registered.

A VMM's message claims; ``/proc`` knows.  Two things are decided by it alone, for a wrong claim
would lose memory or give away somebody else's:

* Only memory that the VMM itself maps shared and writable may be punched out of its file.
* How a range is registered (``VmFlags``), and what the userfaultfd can (``fdinfo``).
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from tierstore.manager.protocol import MessageError, Piece

__all__ = [
    "Mapping",
    "features_of",
    "is_userfaultfd",
    "mappings",
    "open_backing",
    "registered_modes",
    "within",
]

FEATURE_WP_ASYNC = 1 << 15
FEATURE_RWP_ASYNC = 1 << 18

_FIRST_LINE = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][sp]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)\s*(.*)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    """One line of ``/proc/PID/maps`` with the flags of ``smaps``."""

    start: int
    end: int
    access: str
    offset: int
    device: int
    inode: int
    path: str
    flags: frozenset[str]

    @property
    def is_shared(self) -> bool:
        """Shared and writable: its pages are the file's."""
        return self.access[1] == "w" and self.access[3] == "s" and self.inode != 0


def mappings(pid: int, low: int, high: int) -> list[Mapping]:
    """The mappings of a process that lie in [low, high), at least in part.

    Raises ``OSError`` where the process has gone or may not be looked at.
    """
    found: list[Mapping] = []
    head: re.Match[str] | None = None
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            first = line[0]
            if first.isdigit() or "a" <= first <= "f":
                head = _FIRST_LINE.match(line)
                if head and int(head[1], 16) >= high:
                    break
            elif head and line.startswith("VmFlags:") and int(head[2], 16) > low:
                found.append(_mapping(head, line.split()[1:]))
    return found


def _mapping(head: re.Match[str], flags: Sequence[str]) -> Mapping:
    start, end, access, offset, major, minor, inode, path = head.groups()
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        access=access,
        offset=int(offset, 16),
        device=os.makedev(int(major, 16), int(minor, 16)),
        inode=int(inode),
        path=path.strip(),
        flags=frozenset(flags),
    )


def within(piece: Piece, all_mappings: Sequence[Mapping]) -> list[tuple[Mapping, Piece]]:
    """The mappings that make a piece up, each with its part of it.  Raises ``MessageError``."""
    parts: list[tuple[Mapping, Piece]] = []
    at = piece.addr
    for mapping in all_mappings:
        if mapping.end <= at or mapping.start >= piece.end:
            continue
        if mapping.start > at:
            break
        end = min(mapping.end, piece.end)
        parts.append((mapping, Piece(at, end - at, piece.offset + at - piece.addr)))
        at = end
    if at < piece.end:
        raise MessageError(f"nothing is mapped at {at:#x} of its region {piece}")
    return parts


def is_userfaultfd(fd: int) -> bool:
    """Whether this descriptor is one."""
    return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[userfaultfd]"


def features_of(uffd: int) -> int:
    """The features that were agreed on with the kernel; 0 if none were, or it does not say."""
    text = Path(f"/proc/self/fdinfo/{uffd}").read_text(encoding="utf-8")
    match = re.search(r"^API:\s+[0-9a-f]+:([0-9a-f]+):", text, re.M)
    return int(match[1], 16) if match else 0


_FLAG_MODES = {"um": "MISSING", "uw": "WP", "ur": "RWP"}


def registered_modes(parts: Sequence[Mapping], features: int) -> frozenset[str]:
    """How all of these are registered: what holds for every one of them."""
    modes = set(_FLAG_MODES.values())
    for mapping in parts:
        modes &= {mode for flag, mode in _FLAG_MODES.items() if flag in mapping.flags}
    # What the kernel would let through by itself anywhere, it lets through.
    if features & FEATURE_WP_ASYNC and any("uw" in m.flags for m in parts):
        modes.add("WP_ASYNC")
    if features & FEATURE_RWP_ASYNC and any("ur" in m.flags for m in parts):
        modes.add("RWP_ASYNC")
    return frozenset(modes)


def _opens(path: Path, mapping: Mapping) -> int | None:
    """A descriptor for the file, if it is that of the mapping, in memory, and ours to write."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if not is_backing(fd, mapping):
        os.close(fd)
        return None
    return fd


def is_backing(fd: int, mapping: Mapping) -> bool:
    """Whether the descriptor is the mapping's file."""
    status = os.fstat(fd)
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_ino == mapping.inode
        and status.st_dev == mapping.device
    )


def open_backing(pid: int, mapping: Mapping, passed: Sequence[int]) -> int | None:
    """A descriptor of one's own for what a shared mapping maps; ``None``: there is no way.

    Looks at the descriptors that the VMM passed, then in the process, by mapping (which wants
    CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE) and by descriptor.
    """
    for fd in passed:
        if is_backing(fd, mapping) and _is_writable(fd):
            return os.dup(fd)
    place = Path(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")
    found = _opens(place, mapping)
    if found is not None:
        return found
    try:
        candidates = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    for candidate in candidates:
        try:
            status = candidate.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (mapping.device, mapping.inode):
            found = _opens(candidate, mapping)
            if found is not None:
                return found
    return None


def _is_writable(fd: int) -> bool:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8")
    match = re.search(r"^flags:\s+([0-7]+)", text, re.M)
    return bool(match) and int(match[1], 8) & os.O_ACCMODE == os.O_RDWR if match else False
