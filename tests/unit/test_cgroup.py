# SPDX-License-Identifier: Apache-2.0
"""What control groups leave a process, read from trees like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierstore import _cgroup
from tierstore._cgroup import Room, room_of
from tierstore.demo.ladder import check_room
from tierstore.errors import HostError

MIB = 1 << 20


class Groups:
    """A kernel's folders, made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, *lines: str) -> None:
        """Which groups it is in."""
        (self.folder / "proc" / "self").mkdir(parents=True)
        (self.folder / "proc" / "self" / "cgroup").write_text("".join(f"{x}\n" for x in lines))

    def v2(self, path: str, limit: str, used_mib: int, file_mib: int = 0) -> None:
        """A group of version 2."""
        group = self.folder / "cgroup" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used_mib * MIB}\n")
        (group / "memory.stat").write_text(
            f"anon 1\nactive_file 0\ninactive_file {file_mib * MIB}\n"
        )

    def v1(self, path: str, limit: int, used_mib: int, file_mib: int = 0) -> None:
        """A group of version 1."""
        group = self.folder / "cgroup" / "memory" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{used_mib * MIB}\n")
        (group / "memory.stat").write_text(f"rss 1\ntotal_inactive_file {file_mib * MIB}\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """In place of this machine's."""
    monkeypatch.setattr(_cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(_cgroup, "PROC", tmp_path / "proc")
    return Groups(tmp_path)


def test_the_tightest_group_counts(groups: Groups) -> None:
    groups.process("0::/host/vm")
    groups.v2("host/vm", str(100 * MIB), 50, file_mib=10)
    groups.v2("host", str(90 * MIB), 60)
    assert room_of() == Room(90 * MIB, 30 * MIB)


def test_what_the_kernel_can_take_back_is_free(groups: Groups) -> None:
    groups.process("0::/")
    groups.v2("", str(100 * MIB), 100, file_mib=40)
    assert room_of() == Room(100 * MIB, 40 * MIB)


def test_no_limit(groups: Groups) -> None:
    groups.process("9:cpu:/x", "0::/host")
    groups.v2("host", "max", 50)
    assert room_of() is None


def test_version_1(groups: Groups) -> None:
    groups.process("5:cpu:/", "4:memory:/a/b", "0::/")
    groups.v1("a/b", 200 * MIB, 150, file_mib=5)
    groups.v1("a", 9223372036854771712, 500)
    assert room_of() == Room(200 * MIB, 55 * MIB)


def test_a_process_that_is_gone(groups: Groups) -> None:
    assert room_of(1) is None
    groups.process("what is this")
    assert room_of() is None


def test_a_guest_too_large_for_its_group_is_refused(groups: Groups, tmp_path: Path) -> None:
    groups.process("0::/box")
    groups.v2("box", str(64 * MIB), 30)
    with pytest.raises(HostError, match=r"control group has 34 MiB left of 64 MiB") as caught:
        check_room(tmp_path, 32 * MIB)
    assert "memory.max" in caught.value.hint
    check_room(tmp_path, 16 * MIB)
