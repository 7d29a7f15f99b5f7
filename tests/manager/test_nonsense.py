# SPDX-License-Identifier: Apache-2.0
"""VMMs that lie, stutter, or vanish at every step, each a real process: refused, and nothing else.

The lies are those of native/tests/vmm/wrong.h.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.manager.support import Serve, Vmm, shared, until

__all__ = ["shared"]

LIES = [
    *("unregistered", "unmapped", "overlap", "wrap", "unaligned", "empty-region", "no-regions"),
    *("many-regions", "negative", "fraction", "text", "missing-key", "huge-offset", "version"),
    "other-offset",
    *("mode", "pid", "no-mode", "type", "truncated", "huge-length", "zero-length", "duplicate"),
    *("nested", "garbage", "long", "no-fd", "null-fd", "many-fds"),
]
ANYTHING = {"unregistered", "unmapped", "huge-offset", "other-offset", "version", "mode", "pid",
            "no-mode", "type",
            "huge-length", "zero-length", "no-regions"}  # fmt: skip
"""Of no meaning for Firecracker, or waited out: `[]` is too short to tell who speaks."""


def nr_open(manager: Serve) -> int:
    """The manager's descriptors."""
    return len(list(Path(f"/proc/{manager.process.pid}/fd").iterdir()))


def refusals(manager: Serve) -> int:
    """How many it has logged."""
    log = manager.log
    return log.count(": refused: ") + log.count("hung up before")


def test_every_lie_of_cloud_hypervisor_is_refused(shared: Serve) -> None:
    before = nr_open(shared)
    for lie in LIES:
        count = refusals(shared)
        with Vmm(shared.socket, "--wrong", lie, "--patience", "2000") as vmm:
            result = vmm.event("handoff")["result"]
            # The first of two hand-overs may have been answered before the second came.
            expected = ("closed", "timeout", *["ready"] * (lie == "duplicate"))
            assert result in expected, (lie, result)
            until(lambda count=count: refusals(shared) > count, f"the refusal of {lie}")
    assert "Traceback" not in shared.log
    assert "internal error" not in shared.log
    until(lambda: nr_open(shared) <= before, "descriptors to be closed")


def test_another_offset_than_that_of_the_mapping_is_named(shared: Serve) -> None:
    """Pages would be punched out of the file where others lie."""
    for options in (["--memfds"], ["--one-memfd", "--ranges", "4M,2M"]):
        with Vmm(shared.socket, "--wrong", "other-offset", *options) as vmm:
            assert vmm.event("handoff")["result"] == "closed"
            said = (
                rf"vmm_double-{vmm.pid} on \S+: refused: it says that 0x\w+ lies at 0x(\w+) of "
                r"its file, and the kernel says at 0x(\w+)"
            )
            found = until(lambda said=said: re.search(said, shared.log), "the refusal")
            assert int(found[1], 16) == int(found[2], 16) + 4096


def test_every_lie_of_firecracker_is_refused(shared: Serve) -> None:
    before = nr_open(shared)
    for lie in [each for each in LIES if each not in ANYTHING]:
        count = refusals(shared)
        with Vmm(shared.socket, "--wrong", lie, vmm="firecracker") as vmm:
            vmm.event("handoff")
            until(lambda count=count: refusals(shared) > count, f"the refusal of {lie}")
    assert "Traceback" not in shared.log
    until(lambda: nr_open(shared) <= before, "descriptors to be closed")


def test_vmms_that_vanish_leave_nothing(shared: Serve) -> None:
    before = nr_open(shared)
    for vmm_name in ("firecracker", "cloud-hypervisor"):
        for step in ("connect", "message", "handoff", "ready"):
            with Vmm(shared.socket, "--vanish", step, vmm=vmm_name) as vmm:
                assert vmm.process.wait(timeout=60) == 9 or vmm_name == "firecracker"
    until(lambda: nr_open(shared) <= before, "descriptors to be closed")
    until(lambda: shared.stat()["vms"] == [], "the VMs to go")
    assert "Traceback" not in shared.log
