# SPDX-License-Identifier: Apache-2.0
"""The demo's configuration: tiers so small that a run of seconds uses all three."""

from __future__ import annotations

import shutil
from pathlib import Path

from tierstore._cgroup import room_of
from tierstore.config import Config
from tierstore.errors import ConfigError, HostError
from tierstore.units import format_size

__all__ = ["check_room", "demo_config", "load_config"]


def _interval_s(seconds: float) -> float:
    """Some twenty cycles a run, none shorter than a quarter of a second."""
    return min(max(seconds / 20, 0.25), 1.0)


def demo_config(folder: Path, region_bytes: int, seconds: float) -> Config:
    """The ladder ram, lmdb, file in ``folder``.

    About half of the region's bytes are away at a time, at a ratio of two or more.  The upper tiers
    take a small part of that each, so that frames reach the file as well.
    """
    base = Config.default(folder, region_bytes=region_bytes)
    interval_s = _interval_s(seconds)
    data = base.to_dict()
    data["engine"]["interval"] = interval_s
    # A page's probation is as long as it takes others to be touched again in this guest.
    data["region"] = {"budget": "25%", "probation": interval_s}
    return Config.from_dict(data, source="demo")


def load_config(path: Path, folder: Path) -> Config:
    """A configuration of the user's; ``{folder}`` in it stands for the demo's folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    return Config.from_text(text.replace("{folder}", str(folder)), source=str(path))


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _check_group(needed_bytes: int) -> None:
    room = room_of()
    if room is not None and needed_bytes > room.free_bytes:
        raise HostError(
            f"the demo needs {format_size(needed_bytes)} of memory, and its control group has "
            f"{format_size(room.free_bytes)} left of {format_size(room.limit_bytes)}",
            hint="choose a smaller --size, or raise the group's limit (memory.max)",
        )


def check_room(folder: Path, region_bytes: int, *, reserved_bytes: int = 0) -> None:
    """Raise ``HostError`` if memory or disk are too small for a guest of that size.

    ``reserved_bytes`` of memory are set aside for it already.
    """
    # A quarter for the engine and its upper tiers; huge pages are no memory of a control group's.
    _check_group(region_bytes // 4 if reserved_bytes else region_bytes * 5 // 4)
    available = _available_bytes() + reserved_bytes
    if region_bytes * 5 // 4 > available:
        raise HostError(
            f"a guest of {format_size(region_bytes)} needs more memory than there is "
            f"({format_size(available)} available)",
            hint="choose a smaller --size",
        )
    free = shutil.disk_usage(folder).free
    if region_bytes * 5 // 2 > free:
        raise HostError(
            f"{folder} has {format_size(free)} left; a guest of {format_size(region_bytes)} "
            f"needs {format_size(region_bytes * 2.5)}",
            hint="choose a smaller --size, or another --folder",
        )
