# SPDX-License-Identifier: Apache-2.0
"""From a message, its sender and the kernel's own word to what the engine is told.

The message says where the memory is; how it is registered and what backs it is read from the
kernel.  Whatever can't be known is taken for what allows less: a file that can't be opened for
private memory, a pagemap that can't be read for memory that can't be tracked.  Each such step down
leaves a remark that names what the operator would change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Sequence

from tierstore.manager import addresses
from tierstore.manager.addresses import Mapping
from tierstore.manager.bounds import RANGES_MAX
from tierstore.manager.peer import Peer
from tierstore.manager.protocol import Handoff, MessageError, Piece
from tierstore.manager.state import boot_id

__all__ = ["Plan", "Range", "identity", "make_plan", "plan_range"]

_PTRACE = "run the manager as root, with CAP_SYS_PTRACE, or as the VMM's user"


@dataclasses.dataclass(slots=True)
class Range:
    """Memory for the engine; ``fd`` is owned, -1 for private memory."""

    addr: int
    len_bytes: int
    offset: int
    fd: int = -1
    device: int = 0
    inode: int = 0

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclasses.dataclass(slots=True)
class Plan:
    """What the engine is told.  Owns descriptors: ``close`` it once the engine has its own."""

    ranges: list[Range]
    modes: frozenset[str]
    remarks: list[str]
    pagemap_fd: int = -1

    @property
    def len_bytes(self) -> int:
        """All of the VM's memory."""
        return sum(each.len_bytes for each in self.ranges)

    @property
    def is_shared(self) -> bool:
        """Backed by files that can be punched."""
        return all(each.fd >= 0 for each in self.ranges)

    def close(self) -> None:
        """Idempotent."""
        for each in self.ranges:
            each.close()
        if self.pagemap_fd >= 0:
            os.close(self.pagemap_fd)
            self.pagemap_fd = -1


def identity(peer: Peer, ranges: Sequence[Range]) -> bytes:
    """What is the same when this VM is handed over again, and never for another.

    Process, start and boot, and the file behind the first range.  Where the ranges lie is compared
    by the engine: memory may have been plugged in since.
    """
    first = ranges[0]
    text = f"{boot_id()} {peer.pid} {peer.start_time} {first.addr} {first.device} {first.inode}"
    return hashlib.sha256(text.encode()).digest()


def make_plan(handoff: Handoff, peer: Peer, uffd: int, memfds: Sequence[int]) -> Plan:
    """Raises ``MessageError``, or ``ProcessLookupError`` if the process ended meanwhile."""
    if handoff.vmm_pid is not None and handoff.vmm_pid != peer.pid:
        raise MessageError(
            f"it says that it is process {handoff.vmm_pid}, and process {peer.pid} connected: a "
            f"VMM hands over itself, in the manager's PID namespace"
        )
    features = addresses.features_of(uffd)
    if features == 0:
        raise MessageError("its userfaultfd was never set up (UFFDIO_API)")
    plan = Plan([], handoff.modes, [])
    try:
        _fill(plan, handoff, peer, features, memfds)
        # A pid can go round until here, but not while the process behind the pidfd lives.
        if not peer.is_alive:
            raise ProcessLookupError(f"process {peer.pid} has gone")
        return plan
    except BaseException as error:
        plan.close()
        if isinstance(error, OSError) and not peer.is_alive:
            raise ProcessLookupError(f"process {peer.pid} has gone") from None
        raise


def _fill(plan: Plan, handoff: Handoff, peer: Peer, features: int, memfds: Sequence[int]) -> None:
    low = min(piece.addr for piece in handoff.pieces)
    high = max(piece.end for piece in handoff.pieces)
    try:
        known = addresses.mappings(peer.pid, low, high)
    except PermissionError:
        plan.ranges = [Range(p.addr, p.len_bytes, p.offset) for p in handoff.pieces]
        plan.modes = frozenset({"MISSING"}) & handoff.modes
        plan.remarks.append(f"its mappings can't be read, so it is served only: {_PTRACE}")
        _check_modes(plan.modes)
        return
    parts = [part for piece in handoff.pieces for part in addresses.within(piece, known)]
    plan.modes = addresses.registered_modes([mapping for mapping, _ in parts], features)
    _check_modes(plan.modes)
    # Whether holes can be protected, too, is the same to us.  A manager that was killed may have
    # left the userfaultfd synchronous; the engine finds out.
    claimed = handoff.modes - {"WP_UNPOPULATED"}
    if (plan.modes ^ claimed) - {"RWP_ASYNC"}:
        told, found = "|".join(sorted(claimed)), "|".join(sorted(plan.modes))
        plan.remarks.append(f"it says that it registered {told}, and the kernel says {found}")
    backed = _backed(plan, peer, parts, memfds, is_snapshot=handoff.is_snapshot)
    plan.ranges = backed or _bare(handoff.pieces)
    _open_pagemap(plan, peer)


def _check_modes(modes: frozenset[str]) -> None:
    if "MISSING" not in modes:
        raise MessageError("its memory is not registered for missing pages: nothing can be served")


def _bare(pieces: Sequence[Piece]) -> list[Range]:
    return [Range(piece.addr, piece.len_bytes, piece.offset) for piece in pieces]


def _check_offset(mapping: Mapping, piece: Piece) -> None:
    """Whoever is wrong about where its memory lies may be wrong about what lies there, too."""
    known = mapping.offset + piece.addr - mapping.start
    if piece.offset != known:
        raise MessageError(
            f"it says that {piece.addr:#x} lies at {piece.offset:#x} of its file, and the kernel "
            f"says at {known:#x}: tell the offset in the memfd that is mapped there"
        )


def _backed(
    plan: Plan,
    peer: Peer,
    parts: Sequence[tuple[Mapping, Piece]],
    memfds: Sequence[int],
    *,
    is_snapshot: bool = False,
) -> list[Range]:
    """The ranges with their files; none if any of them has no file that may be punched.

    ``is_snapshot``: a piece's offset is in the snapshot, and not in the file behind it.
    """
    private = [piece for mapping, piece in parts if not mapping.is_shared]
    if private:
        if len(private) < len(parts):
            plan.remarks.append(f"{private[0]} is private memory, so nothing is evicted")
        return []
    found: list[Range] = []
    for mapping, piece in parts:
        if not is_snapshot:
            _check_offset(mapping, piece)
    for mapping, piece in parts:
        fd = addresses.open_backing(peer.pid, mapping, memfds)
        if fd is None:
            for each in found:
                each.close()
            plan.remarks.append(
                f"the file behind {piece} can't be opened, so nothing is evicted: {_PTRACE}, or "
                f"let the VMM pass its memfds"
            )
            return []
        _append(found, mapping, piece, fd)
    try:
        _check_files(found)
    except MessageError:
        for each in found:
            each.close()
        raise
    return found


def _append(found: list[Range], mapping: Mapping, piece: Piece, fd: int) -> None:
    """Mappings that continue each other in the same file are one range."""
    offset = mapping.offset + piece.addr - mapping.start
    last = found[-1] if found else None
    if (
        last
        and (last.device, last.inode) == (mapping.device, mapping.inode)
        and last.addr + last.len_bytes == piece.addr
        and last.offset + last.len_bytes == offset
    ):
        last.len_bytes += piece.len_bytes
        os.close(fd)
        return
    found.append(Range(piece.addr, piece.len_bytes, offset, fd, mapping.device, mapping.inode))


def _check_files(ranges: Sequence[Range]) -> None:
    if len(ranges) > RANGES_MAX:
        raise MessageError(f"{len(ranges)} separate mappings; at most {RANGES_MAX} would do")
    spans = sorted((r.device, r.inode, r.offset, r.offset + r.len_bytes) for r in ranges)
    for one, other in itertools.pairwise(spans):
        if one[:2] == other[:2] and one[3] > other[2]:
            raise MessageError("two of its regions are the same memory, mapped twice")


def _open_pagemap(plan: Plan, peer: Peer) -> None:
    with contextlib.suppress(OSError):
        plan.pagemap_fd = os.open(f"/proc/{peer.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        return
    plan.remarks.append(f"its pagemap can't be read, so it is served only: {_PTRACE}")


def plan_range(
    piece: Piece, peer: Peer, uffd: int, memfds: Sequence[int], *, is_shared: bool
) -> Range:
    """What is plugged into a VM that is served; like its other memory, or refused."""
    known = addresses.mappings(peer.pid, piece.addr, piece.end)
    parts = addresses.within(piece, known)
    modes = addresses.registered_modes([m for m, _ in parts], addresses.features_of(uffd))
    _check_modes(modes)
    if not is_shared:
        return Range(piece.addr, piece.len_bytes, piece.offset)
    plan = Plan([], modes, [])
    found = _backed(plan, peer, parts, memfds)
    if len(found) != 1:
        for each in found:
            each.close()
        why = plan.remarks[0] if plan.remarks else "it is not one shared mapping of one file"
        raise MessageError(f"the new memory {piece} is not like the rest of it: {why}")
    return found[0]
