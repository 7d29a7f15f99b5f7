# SPDX-License-Identifier: Apache-2.0
"""A VMM that registers for read-write protection: reads are seen, too, and its memory leaves.

Linux 7.3.  On an older machine: ``./dev kernel 7.3 pytest tests/manager/test_rwp.py``, and the
ladder of kernels runs it.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import kernel_version
from tests.manager.support import CONFIG, MIB, Serve, Vmm, until
from tierstore.control import Client

VMM = ["--mode", "MISSING|RWP|RWP_ASYNC", "--vcpus", "2", "--rate", "300", "--writes", "50"]


def report(manager: Serve) -> dict[str, Any]:
    """Of the only VM; in this process, for a program takes its time where all is emulated."""
    with Client(manager.process.pid) as client:
        vms = client.vms()
    return vms[0] if vms else {}


def evicts(manager: Serve) -> dict[str, Any]:
    """Pages leave, while the guest is at work."""

    def look() -> dict[str, Any] | None:
        found = report(manager)
        return found if found.get("evicted", 0) > 1000 and found["away_bytes"] else None

    found: dict[str, Any] = until(look, "memory to leave")
    assert found["abilities"] == ["serve", "track", "evict"], manager.log
    assert (found["tracker"], found["memory"]) == ("rwp", "memfd")
    return found


@pytest.mark.skipif(kernel_version() < (7, 3), reason="RWP needs Linux 7.3")
@pytest.mark.timeout(600)
def test_a_vm_under_rwp_outlives_its_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    config = CONFIG.replace('store = "ram"', f'store = "file"\npath = "{tmp_path / "cold"}"')
    state = str(tmp_path / "state")
    with (
        Serve(tmp_path, "--state", state, config=config) as first,
        Vmm(first.socket, *VMM, mib=16).handed_over() as vmm,
    ):
        vmm.ask("run", "running")
        found = [evicts(first)]
        assert vmm.resident_bytes() < 16 * MIB
        vmm.verify()
        first.end(signal.SIGKILL)
        with Serve(tmp_path, "--state", state, config=config) as second:
            until(lambda: report(second), "the VM to be taken back")
            found.append(evicts(second))
            vmm.ask("pause", "paused")
            vmm.verify()
            with Client(second.process.pid) as client:
                client.ask("release", vm=str(vmm.pid))
            until(lambda: not report(second), "the VM to be released")
        # Nobody is needed any more.
        vmm.verify()
        assert vmm.resident_bytes() == 16 * MIB
        stats = vmm.ask("stats")
        print([f"evicted {each['evicted']}, faults {each['faults']}" for each in found], stats)
        assert vmm.ask("quit")["mismatches"] == 0
