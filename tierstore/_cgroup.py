# SPDX-License-Identifier: Apache-2.0
"""How much more memory the control groups of a process let it have.

Beyond a group's limit the kernel ends processes: whoever is about to fill memory on behalf of a
process looks here first.  Both kinds are known, version 2 (``memory.max``) and version 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Room", "room_of"]

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Of the group that is nearest to its limit."""

    limit_bytes: int
    free_bytes: int
    """What the kernel can take back from files counts as free."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    usage: str
    files: tuple[str, ...]


_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes",
             ("total_active_file", "total_inactive_file"))  # fmt: skip


def _groups_of(pid: int | str) -> Iterator[tuple[Path, _Names]]:
    """The process's group and those above it, as far as they can be seen from here."""
    for line in (PROC / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = ROOT, _V2
        elif "memory" in controllers.split(","):
            top, names = ROOT / "memory", _V1
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group, names
            if group == top:
                break


def _room(group: Path, names: _Names) -> Room | None:
    text = (group / names.limit).read_text(encoding="ascii").strip()
    if text == "max" or int(text) >= 1 << 60:
        return None
    limit = int(text)
    usage = int((group / names.usage).read_text(encoding="ascii"))
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    usage -= sum(int(stat.get(name, 0)) for name in names.files)
    return Room(limit, max(limit - usage, 0))


def room_of(pid: int | str = "self") -> Room | None:
    """The tightest; ``None`` where there is no limit, or none that can be seen."""
    found: list[Room] = []
    with contextlib.suppress(OSError, ValueError):
        for group, names in _groups_of(pid):
            with contextlib.suppress(OSError, ValueError):
                room = _room(group, names)
                if room is not None:
                    found.append(room)
    return min(found, key=lambda room: room.free_bytes, default=None)
