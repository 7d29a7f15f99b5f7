# SPDX-License-Identifier: Apache-2.0
"""Memory of another process: what ``Engine.adopt`` is told of it, and what it can do with it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

from tierstore._native import ffi, lib
from tierstore.config import RegionConfig
from tierstore.errors import ConfigError, RegionError, Status
from tierstore.memory import GuestMemory

__all__ = ["Ability", "Mode", "RemoteMemory", "RemoteRange"]


class Mode(enum.IntFlag):
    """How the other process registered its memory with its userfaultfd."""

    MISSING = 1
    WP = 2
    WP_ASYNC = 4
    RWP = 8
    RWP_ASYNC = 16


class Ability(enum.IntFlag):
    """What can be done with a region."""

    SERVE = 1
    TRACK = 2
    EVICT = 4


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteRange:
    """Registered memory of another process.

    ``address`` is that process's own; ``backing_fd`` the memfd behind it (-1: private anonymous
    memory), ``backing_offset`` where in it (anonymous: in the image) ``address`` lies.
    """

    address: int
    length_bytes: int
    backing_fd: int = -1
    backing_offset: int = 0


class RemoteMemory(GuestMemory):
    """The memory behind an adopted region.  It has no address here: ``buffer`` raises."""

    __slots__ = ("ranges",)

    def __init__(self, ranges: Sequence[RemoteRange]) -> None:
        kind = "memfd" if ranges and ranges[0].backing_fd >= 0 else "anon"
        super().__init__(0, sum(r.length_bytes for r in ranges), kind)  # type: ignore[arg-type]
        self.ranges = tuple(ranges)

    @property
    def is_remote(self) -> bool:
        """True: nothing here may be touched through an address."""
        return True

    @property
    def buffer(self) -> memoryview:
        """Raises: the bytes are another process's."""
        raise RegionError("the memory is another process's", status=Status.ESTATE)

    def resident_bytes(self) -> int:
        """Raises: ask the region's statistics."""
        raise RegionError("the memory is another process's", status=Status.ESTATE)

    def add(self, added: RemoteRange) -> None:
        """Called by ``Region.add_range``."""
        self.ranges = (*self.ranges, added)
        self.length_bytes += added.length_bytes


def tracker_of(modes: Mode, abilities: Ability) -> str:
    """The name of the tracker that such a registration gets."""
    if Ability.TRACK not in abilities:
        return "none"
    if Mode.RWP in modes:
        return "rwp"
    # What was agreed on with the kernel may be WP_ASYNC, whatever was said; that can't evict.
    return "wp-sync" if Ability.EVICT in abilities else "wp"


def range_struct(added: RemoteRange, out: Any = None) -> Any:
    """The C struct, in `out` if given."""
    if out is None:
        out = ffi.new("struct ts_remote_range *")
    out.size = ffi.sizeof("struct ts_remote_range")
    try:
        out.addr = added.address
        out.len_bytes = added.length_bytes
        out.backing_offset = added.backing_offset
        out.backing_fd = added.backing_fd
    except OverflowError as error:
        raise ConfigError(f"{added}: {error}") from None
    return out


def adopt_options(
    name: str,
    config: RegionConfig,
    uffd: int,
    ranges: Sequence[RemoteRange],
    *,
    modes: Mode,
    pagemap_fd: int,
    length_max: int,
    image: str | None,
    is_persistent: bool,
    identity: bytes,
    share_weight: float,
) -> tuple[Any, list[Any]]:
    """The C struct, and what must live as long as the call that gets it."""
    if len(identity) > 32:
        raise ConfigError(f"an identity has at most 32 bytes, this one {len(identity)}")
    name_c = ffi.new("char[]", name.encode())
    ranges_c = ffi.new("struct ts_remote_range[]", max(len(ranges), 1))
    image_c = ffi.new("char[]", image.encode()) if image is not None else ffi.NULL
    for i, each in enumerate(ranges):
        range_struct(each, ranges_c[i])
    options = ffi.new("struct ts_adopt_options *")
    options.size = ffi.sizeof("struct ts_adopt_options")
    options.name = name_c
    options.uffd = uffd
    options.pagemap_fd = pagemap_fd
    options.modes = int(modes)
    options.nr_ranges = len(ranges)
    options.ranges = ranges_c
    options.len_max_bytes = length_max
    options.restore = getattr(lib, f"TS_RESTORE_{config.restore.upper()}")
    options.guard_scans = max(config.guard_scans, 1)
    options.image = image_c
    options.is_persistent = is_persistent
    # In thousandths: only proportions count.
    options.share_weight = max(int(share_weight * 1000), 1) if share_weight > 0 else 0
    ffi.memmove(options.identity, identity, len(identity))
    return options, [name_c, ranges_c, image_c]
