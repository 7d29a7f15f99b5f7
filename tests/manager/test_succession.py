# SPDX-License-Identifier: Apache-2.0
"""Managers come and go, and VMs stay: what was evicted under one is served by the next."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.manager.support import CONFIG, MIB, Serve, Vmm, until
from tests.manager.test_vms import evicted, stored_pages
from tests.vmm.double import write_snapshot
from tierstore.training import train_dictionary

Start = Callable[[], Serve]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a manager with a state folder and a file as its tier; the same ones each time."""
    store = f'store = "file"\npath = "{tmp_path / "cold"}"'
    config = CONFIG.replace('store = "ram"', store)
    return lambda: Serve(tmp_path, "--state", str(tmp_path / "state"), config=config)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_vm_outlives_its_manager(number: int, start: Start) -> None:
    with start() as first, Vmm(first.socket, mib=16).handed_over() as vmm:
        evicted(first, vmm)
        code = first.end(number)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert vmm.resident_bytes() < 10 * MIB
        # The guest goes on, and waits where it must.
        vmm.say("verify")
        with start() as second:
            until(lambda: second.vm(vmm.pid), "the VM to be taken back")
            answer = vmm.event("verify")
            assert (answer["mismatches"], answer["poisoned"]) == (0, 0)
            # Its connection comes later: the VMM asks its operator.
            vmm.ask("disconnect")
            assert vmm.ask("resume")["result"] == "ready"
            assert evicted(second, vmm)["is_connected"]
            vmm.verify()


def train(folder: Path, name: str, pages: slice) -> Path:
    """A dictionary of the guest's own pages; not the same for others of them."""
    write_snapshot(folder / "ram", "--ranges", "16M", "--seed", "1")
    data = (folder / "ram").read_bytes()
    samples = [data[at : at + 4096] for at in range(0, len(data), 4096)][pages]
    training = train_dictionary(samples, level=3, gain_min=-1e9)
    assert training.dictionary is not None, training.reason
    path = folder / name
    path.write_bytes(training.dictionary)
    return path


def test_dictionaries_outlive_the_manager_that_used_them(tmp_path: Path) -> None:
    """Frames name their dictionary; the next manager may be given another one."""

    def serve_with(dictionary: Path) -> Serve:
        tier = f'store = "file"\npath = "{tmp_path / "cold"}"\ndictionary = "{dictionary}"'
        config = CONFIG.replace('store = "ram"', tier)
        return Serve(tmp_path, "--state", str(tmp_path / "state"), config=config)

    def used(manager: Serve) -> int:
        return int(manager.stat()["engines"][0]["tiers"][0]["dict_id"])

    one = train(tmp_path, "one.dict", slice(0, 2000))
    other = train(tmp_path, "other.dict", slice(2000, 4000))
    assert one.read_bytes() != other.read_bytes()
    with serve_with(one) as first, Vmm(first.socket, "--seed", "1", mib=16).handed_over() as vmm:
        evicted(first, vmm)
        ids = {used(first)}
        first.end(signal.SIGKILL)
        with serve_with(other) as second:
            until(lambda: second.vm(vmm.pid), "the VM to be taken back")
            # Frames of the dead manager's are read, and others come.
            vmm.verify()
            evicted(second, vmm)
            ids.add(used(second))
            second.end(signal.SIGKILL)
        with serve_with(one) as third:
            until(lambda: third.vm(vmm.pid), "the VM to be taken back")
            vmm.verify()
    assert 0 not in ids and len(ids) == 2


GATE = """
import pathlib, time
from tierstore.manager.vm import Vm

def start(self, *arguments, real=Vm.start):
    while not pathlib.Path({gate!r}).exists():
        time.sleep(0.01)
    real(self, *arguments)

Vm.start = start
"""
"""The manager takes VMs over when this file exists."""


def test_a_message_waits_while_its_vm_is_taken_back(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with start() as first, Vmm(first.socket, mib=8).handed_over() as vmm:
        evicted(first, vmm)
        first.end(signal.SIGKILL)
        config = (tmp_path / "manager.toml").read_text(encoding="utf-8")
        options = ["--state", str(tmp_path / "state")]
        with Serve(tmp_path, *options, config=config, code=GATE.format(gate=str(gate))) as second:
            vmm.say("resume")
            until(lambda: "is being taken back" in second.log, "the message to be there")
            gate.touch()
            assert vmm.event("resume")["result"] == "ready"
            assert evicted(second, vmm)["is_connected"]
            vmm.verify()


def test_memory_that_was_plugged_in_is_in_its_place(start: Start) -> None:
    """The VMM tells its regions in the order of guest addresses, the engine in that of arrival."""
    with start() as first, Vmm(first.socket, "--ranges", "8M,2M").handed_over() as vmm:
        assert vmm.ask(f"hotadd {4 * MIB}")["result"] == "ready"
        evicted(first, vmm)
        first.end(signal.SIGKILL)
        # Nobody to be taken back by: it is up to the VMM's own message.
        (first.folder / "state" / "vms.json").unlink()
        with start() as second:
            assert second.stat()["vms"] == []
            vmm.ask("disconnect")
            assert vmm.ask("resume")["result"] == "ready"
            vmm.verify()
            report = second.vm(vmm.pid)
            assert report is not None and report["region_bytes"] == 14 * MIB
            # Once more, now that it is not the first who has plugged memory in.
            assert vmm.ask(f"hotadd {2 * MIB}")["result"] == "ready"
            evicted(second, vmm)
            second.end(signal.SIGKILL)
        with start() as third:
            until(lambda: third.vm(vmm.pid), "the VM to be taken back")
            vmm.verify()


def test_a_vm_whose_state_is_lost_is_refused(start: Start) -> None:
    """Zeros in place of what was evicted would be the end of it without a word."""
    with start() as first, Vmm(first.socket, mib=8).handed_over() as vmm:
        evicted(first, vmm)
        first.end(signal.SIGKILL)
        shutil.rmtree(first.folder / "state")
        (first.folder / "cold").unlink()
        with start() as second:
            vmm.ask("disconnect")
            assert vmm.ask("resume")["result"] == "closed"
            assert "refused" in second.log
            assert second.stat()["vms"] == []


def test_a_vm_that_ended_meanwhile_is_forgotten(start: Start) -> None:
    with start() as first:
        with Vmm(first.socket, mib=8).handed_over() as vmm:
            evicted(first, vmm)
            first.end(signal.SIGKILL)
        with start() as second:
            until(lambda: "has ended since the last manager did" in second.log, "the line")
            assert second.stat()["vms"] == []
            until(lambda: stored_pages(second) == 0, "its frames to be freed")
            with Vmm(second.socket, mib=8).handed_over() as other:
                evicted(second, other)
                other.verify()


def test_two_managers_dont_share_a_state_folder(start: Start, tmp_path: Path) -> None:
    with start() as first:
        config = first.folder / "manager.toml"
        done = first.run("serve", "--listen", str(tmp_path / "other.sock"), "--config", str(config),
                         "--state", str(tmp_path / "state"))  # fmt: skip
        assert done.returncode == 4, done.stderr
        assert first.process.poll() is None
