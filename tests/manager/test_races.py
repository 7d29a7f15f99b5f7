# SPDX-License-Identifier: Apache-2.0
"""Moments that are rare: each is made to happen, with the manager in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.manager.support import CONFIG, MIB, Vmm, until
from tierstore.engine import Engine
from tierstore.manager.config import ServeConfig
from tierstore.manager.manager import Manager
from tierstore.manager.vm import Vm


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager whose loop the test drives."""
    config = ServeConfig.from_text(
        CONFIG.replace("[manager]", f'[manager]\nlisten = "{tmp_path / "vmm.sock"}"')
    )
    with Engine(config) as engine:
        manager = Manager(config, engine)
        yield manager
        manager.close()


def turned(manager: Manager, condition: Any) -> Any:
    """Turns the loop until the condition holds."""

    def look() -> Any:
        manager.loop.step(timeout_s=0.01)
        return condition()

    return until(look, "the condition")


def socket_of(manager: Manager) -> Path:
    """Where it listens."""
    return manager.config.manager.listen[0]


def test_a_vm_that_is_let_go_of_before_its_arrival_is_known(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a small snapshot, which is all there before the hand-over has been answered."""
    start = Vm.start

    def start_and_leave(vm: Vm, *given: Any) -> None:
        start(vm, *given)
        manager._leave(vm, vm.release)
        until(lambda: manager.past(), "the release")

    monkeypatch.setattr(Vm, "start", start_and_leave)
    with Vmm(socket_of(manager)) as vmm:
        turned(manager, lambda: manager.past() and not manager._arriving)
        turned(manager, lambda: not manager.loop._posted)
        assert manager.still_draining() == []
        vmm.handed_over().verify()


def test_who_comes_while_the_manager_ends_is_refused(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    with Vmm(socket_of(manager)) as vmm:
        turned(manager, lambda: manager._reception.connections)
        manager.begin_drain()
        turned(manager, lambda: not manager._reception.connections)
        vmm.handed_over("closed")
    assert "the manager ends" in caplog.text and "a bug of ours" not in caplog.text


def test_a_vm_that_dies_while_it_is_released_was_not_released(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    release = Vm.release

    def wait_and_release(vm: Vm) -> None:
        vm.state = "releasing"
        assert gate.wait(60)
        release(vm)

    monkeypatch.setattr(Vm, "release", wait_and_release)
    with Vmm(socket_of(manager), mib=8) as vmm:
        turned(manager, manager.vms)
        vmm.handed_over()
        assert manager.vms()[0]["region_bytes"] == 8 * MIB
        manager.release(str(vmm.pid))
        vmm.kill()
        turned(manager, lambda: not any(vm.peer.is_alive for vm in manager._vms.values()))
        gate.set()
        turned(manager, lambda: not manager.still_draining())
        # Before it is gone from the list, or whoever waits for its release would take it for that.
        assert {past["state"] for past in manager.past()} == {"ended"}
