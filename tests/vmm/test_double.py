# SPDX-License-Identifier: Apache-2.0
"""vmm_double itself: it speaks as the real VMMs do, sees every wrong byte, and errs as it says.

The manager here is the one of handler.py: a socket, and zeros or a file for every fault.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.double import VANISHED, Double, write_snapshot
from tests.vmm.handler import PAGE, Handler

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the manager listens."""
    return tmp_path / "socket"


@pytest.fixture
def handler(path: Path) -> Iterator[Handler]:
    """A manager that has no file: it answers with zeros."""
    with Handler(path) as handler:
        yield handler


def cloud(path: Path, *more: str) -> Double:
    """A guest of Cloud Hypervisor's that starts empty, so that zeros are right."""
    return Double(
        *("--protocol", "cloud-hypervisor", "--socket", path, "--contents", "empty", *more)
    )


def test_firecracker_restores_every_byte(path: Path, tmp_path: Path) -> None:
    """One bare array, one descriptor, silence; pages of the file, or zeros by balloon."""
    file = tmp_path / "memory"
    write_snapshot(file, "--ranges", "4M,2M")
    guest = ["--ranges", "4M,2M", "--contents", f"file:{file}"]
    with (
        Handler(path, file) as handler,
        Double("--protocol", "firecracker", "--socket", path, *guest) as vmm,
    ):
        handler.take(framed=False)
        vmm.expect("handoff", result="ready")
        assert len(handler.fds) == 1
        assert [(r["size"], r["offset"]) for r in handler.message] == [
            (4 * MIB, 0),
            (2 * MIB, 4 * MIB),
        ]
        assert all(r["page_size"] == r["page_size_kib"] == PAGE for r in handler.message)
        handler.serve()
        vmm.ask("run")
        vmm.until("writes", 20)
        vmm.ask("balloon 900 50", error=0)
        vmm.ask("verify", pages=6 * MIB // PAGE, mismatches=0)
        start = handler.message[0]["base_host_virt_addr"] + 900 * PAGE
        assert handler.removed == [(start, start + 50 * PAGE)]
        assert handler.nr_faults >= 6 * MIB // PAGE
        assert vmm.quit() == 0


def test_cloud_hypervisor_waits_for_the_byte(path: Path, handler: Handler) -> None:
    """A frame with the descriptor; vCPUs run on what the manager gives, also after a balloon."""
    more = ["--mode", "MISSING|WP", "--memfds", "--vcpus", "2"]
    with cloud(path, "--ranges", "2M,1M", *more) as vmm:
        handler.take(framed=True)
        first = handler.message
        assert (first["type"], first["version"], first["mode"]) == ("handoff", 0, "MISSING|WP")
        assert first["vmm_pid"] == vmm.pid
        assert [r["size"] for r in first["regions"]] == [2 * MIB, 1 * MIB]
        assert len(handler.fds) == 3
        handler.serve()
        handler.answer()
        vmm.expect("handoff", result="ready")
        vmm.ask("run")
        vmm.until("writes", 50)
        vmm.ask("balloon 10 100", error=0)
        vmm.ask("verify random", pages=3 * MIB // PAGE, mismatches=0)
        vmm.ask("pause")
        assert vmm.stats()["resident"] == 3 * MIB
        assert vmm.quit() == 0


def test_boot_fails_without_the_byte(path: Path, handler: Handler) -> None:
    """Two seconds, and the VM does not start."""
    with cloud(path, "--patience", "2000") as vmm:
        handler.take(framed=True)
        vmm.expect("handoff", result="timeout")
        assert vmm.wait() == 3


def test_a_range_is_added(path: Path, handler: Handler) -> None:
    """Hot-add: registered already, announced without a descriptor, answered by a byte."""
    with cloud(path, "--ranges", "1M") as vmm:
        handler.take(framed=True)
        handler.serve()
        handler.answer()
        vmm.expect("handoff", result="ready")
        vmm.tell("hotadd 1M")
        told = handler.frame()
        handler.answer()
        vmm.expect("hotadd", result="ready")
        ranges = vmm.ask("ranges")["ranges"]
        assert told["type"] == "add_region"
        assert told["region"]["host_virt_addr"] == ranges[1]["addr"]
        vmm.ask("verify", pages=2 * MIB // PAGE, mismatches=0)


def test_the_next_manager_gets_the_same(path: Path, tmp_path: Path) -> None:
    """The guest waits while no manager is there, and goes on with the next one."""
    with (
        Handler(path) as first,
        Handler(tmp_path / "second") as second,
        cloud(path, "--ranges", "1M") as vmm,
    ):
        first.take(framed=True)
        first.answer()
        vmm.expect("handoff", result="ready")
        vmm.ask("resume", result="refused")
        said = first.message
        first.stop()
        vmm.tell("verify")
        vmm.until("job_blocked_us", 1000)
        vmm.tell(f"resume {tmp_path / 'second'}")
        second.take(framed=True)
        assert second.message == said
        second.serve()
        second.answer()
        vmm.expect("resume", result="ready")
        vmm.expect("verify", pages=MIB // PAGE, mismatches=0)


def test_wrong_bytes_are_seen(path: Path, handler: Handler) -> None:
    """A page that was filled and comes back as zeros, after a punch that the guest didn't make."""
    with Double("--protocol", "cloud-hypervisor", "--socket", path, "--ranges", "1M") as vmm:
        handler.take(framed=True)
        handler.serve()
        handler.answer()
        vmm.expect("handoff", result="ready")
        vmm.ask("verify", mismatches=0)
        with open_backing(vmm, handler) as backing:
            punch(backing, MIB)
        assert vmm.ask("verify")["mismatches"] > 100
        assert any(event["event"] == "mismatch" for event in vmm.events)
        assert vmm.quit() == 1


def test_lost_pages_are_told_from_wrong_ones(path: Path, handler: Handler) -> None:
    """Poison raises SIGBUS, which is counted and not taken for a mismatch."""
    with cloud(path, "--ranges", "1M") as vmm:
        handler.take(framed=True)
        handler.poisoned = {handler.regions()[0][0] + 3 * PAGE}
        handler.serve()
        handler.answer()
        vmm.expect("handoff", result="ready")
        vmm.ask("verify", mismatches=0, poisoned=1)
        vmm.ask("verify", mismatches=0, poisoned=1)


@pytest.mark.parametrize("step", ["connect", "message", "handoff", "ready"])
def test_it_vanishes_where_it_was_told_to(path: Path, handler: Handler, step: str) -> None:
    """Also in the middle of a message."""
    with cloud(path, "--vanish", step) as vmm:
        raw = handler.take(framed=True)
        whole = len(raw) > 4 and len(raw) == 4 + struct.unpack("<I", raw[:4])[0]
        assert whole == (step in {"handoff", "ready"})
        if step == "ready":
            handler.answer()
        assert vmm.wait() == VANISHED


# What distinguishes each misbehaviour that leaves something to look at.
LIES: dict[str, Any] = {
    "no-fd": lambda h, raw: h.fds == [],
    "two-fds": lambda h, raw: len(h.fds) == 2,
    "many-fds": lambda h, raw: len(h.fds) == 33,
    "truncated": lambda h, raw: h.message is None,
    "garbage": lambda h, raw: h.message is None and len(raw) == 3000 + 4,
    "nested": lambda h, raw: raw[4:] == b"[" * 200_000,
    "huge-length": lambda h, raw: raw[:4] == b"\xfe\xff\xff\xff",
    "version": lambda h, raw: h.message["version"] == 99,
    "no-regions": lambda h, raw: h.message["regions"] == [],
    "many-regions": lambda h, raw: len(h.message["regions"]) == 50_000,
    "overlap": lambda h, raw: h.message["regions"][0] == h.message["regions"][1],
    "wrap": lambda h, raw: sum(h.regions()[0][:2]) > 1 << 63,
    "negative": lambda h, raw: h.message["regions"][0]["size"] == -4096,
    "fraction": lambda h, raw: h.message["regions"][0]["size"] == 4096.5,
    "missing-key": lambda h, raw: "size" not in h.message["regions"][0],
}


@pytest.mark.parametrize("lie", LIES)
def test_it_lies_as_told(path: Path, handler: Handler, lie: str) -> None:
    """What arrives is what the option says; a manager that hangs up ends the hand-over."""
    with cloud(path, "--wrong", lie, "--ranges", "1M") as vmm:
        if lie in {"huge-length", "nested", "truncated", "garbage"}:
            handler.accept()
            raw = read_until(handler, lambda raw: LIES[lie](handler, raw))
        else:
            raw = handler.take(framed=True)
        assert LIES[lie](handler, raw)
        handler.link.close()
        assert vmm.wait() == 3


def test_slow_messages_arrive(path: Path, handler: Handler) -> None:
    """Byte by byte, with the descriptor late."""
    with cloud(path, "--slow", "1", "--fd-late", "--ranges", "1M") as vmm:
        handler.take(framed=True)
        assert len(handler.fds) == 1
        handler.answer()
        vmm.expect("handoff", result="ready")


def read_until(handler: Handler, is_right: Callable[[bytes], bool]) -> bytes:
    """What comes until it is right, or the other side is gone."""
    raw = b""
    while not is_right(raw) or not raw:
        data = handler.link.recv(1 << 16)
        if not data:
            break
        raw += data
    return raw


def open_backing(vmm: Double, handler: Handler) -> Any:
    """The guest's memfd, as a manager opens it."""
    addr, length, _ = handler.regions()[0]
    return Path(f"/proc/{vmm.pid}/map_files/{addr:x}-{addr + length:x}").open("r+b")


def punch(backing: Any, length: int) -> None:
    """Takes all pages away."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    assert call(backing.fileno(), 3, 0, length) == 0
