# SPDX-License-Identifier: Apache-2.0
"""native/examples/kvm_vmm.c: a KVM guest lives in a quarter of its RAM, and every byte is right.

Short sizes; README.md says how to run it with half a GiB.  `--sparse` because the KVM of a
development machine may be one that emulates such guests.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SIZE = 32 * MIB

pytestmark = pytest.mark.skipif(
    not Path("/dev/kvm").exists() or platform.machine() != "x86_64",
    reason="no /dev/kvm, or not x86-64, which the example's guest is made for",
)


def command(build_dir: Path, *options: str) -> list[str]:
    """kvm_vmm with these options."""
    return [str(build_dir / "native" / "examples" / "kvm_vmm"), *options]


def run(build_dir: Path, *options: str) -> dict[str, Any]:
    """Its summary; it must end well."""
    done = subprocess.run(
        command(build_dir, *options), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.mark.parametrize(("memory", "vcpus"), [("anon", "1"), ("anon", "2"), ("memfd", "2")])
def test_guest_in_a_quarter(build_dir: Path, tmp_path: Path, memory: str, vcpus: str) -> None:
    """It shrinks to its budget while it works, leaves as a whole, and comes back by faults."""
    summary = run(
        build_dir,
        *("--size", "32", "--seconds", "2", "--sparse", "--memory", memory, "--vcpus", vcpus),
        *("--cold", str(tmp_path / "cold")),
    )
    assert summary["pages_wrong"] == 0
    assert summary["resident_least_bytes"] < SIZE * 0.5
    assert summary["resident_evicted_bytes"] == 0
    assert summary["faults"] > 2 * SIZE // 65536  # neighbours come along, up to a frame of them
    assert summary["pages_touched"] > 3 * SIZE // 4096


def test_every_byte_by_the_guest(build_dir: Path) -> None:
    """Without --sparse the guest writes and compares all of it."""
    summary = run(build_dir, "--size", "1", "--seconds", "1")
    assert summary["pages_wrong"] == 0
    assert summary["resident_evicted_bytes"] == 0


def test_wrong_bytes_end_in_1(build_dir: Path) -> None:
    """A number that the guest did not write is found by the guest."""
    options = ["--size", "32", "--seconds", "3", "--sparse"]
    with subprocess.Popen(
        command(build_dir, *options), stdout=subprocess.PIPE, text=True
    ) as process:
        start = attached_ram(process.pid)
        with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as memory:
            for page in range(0, SIZE // 4096, 8):
                memory.seek(start + page * 4096 + 256)
                memory.write(b"tampered")
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert json.loads(output)["pages_wrong"] > 0


def attached_ram(pid: int) -> int:
    """Where the guest's RAM is, as soon as a userfaultfd is registered on it."""
    mapping = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:([^\n]*)", re.M | re.S)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for start, end, flags in mapping.findall(Path(f"/proc/{pid}/smaps").read_text()):
            if int(end, 16) - int(start, 16) == SIZE and {"um", "uw", "ur"} & set(flags.split()):
                return int(start, 16)
        time.sleep(0.02)
    raise AssertionError("the RAM was never attached")
