# SPDX-License-Identifier: Apache-2.0
"""Firecracker's VMs, restored from a snapshot in the tiers: served, loaded ahead, let go of."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.manager.support import CONFIG, DOUBLE, Serve, Vmm, until

Start = Callable[..., Serve]
MIB = 1 << 20
RANGES = "8M,4M"


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a manager with a state folder and a file as its tier; ``[vm]`` as given."""

    def begin(*options: str, vm: str = "") -> Serve:
        store = f'store = "file"\npath = "{tmp_path / "cold"}"'
        config = CONFIG.replace('store = "ram"', store) + '[[vm]]\nrecord_for = "1s"\n'
        config += f"[[vm]]\n{vm}" if vm else ""
        return Serve(tmp_path, "--state", str(tmp_path / "state"), *options, config=config)

    return begin


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot's memory file."""
    path = tmp_path / "snapshot.mem"
    subprocess.run(
        [str(DOUBLE), "--ranges", RANGES, "--write-snapshot", str(path)], check=True, timeout=60
    )
    assert path.stat().st_size == 12 * MIB
    return path


def imported(manager: Serve, path: Path, name: str = "base") -> dict[str, object]:
    """``tierstore import``, beside a running manager or without one."""
    done = manager.run("import", str(path), "--name", name, "--json",
                       "--config", str(manager.folder / "manager.toml"),
                       "--state", str(manager.folder / "state"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def restored(manager: Serve, path: Path, *options: str) -> Vmm:
    """A VM that expects the snapshot's memory."""
    return Vmm(manager.socket, "--ranges", RANGES, "--contents", f"file:{path}", *options,
               vmm="firecracker")  # fmt: skip


def test_a_snapshot_is_served_and_loaded_and_let_go(start: Start, snapshot: Path) -> None:
    with start("--snapshot", "base") as manager:
        answer = imported(manager, snapshot)
        assert answer["length_bytes"] == 12 * MIB
        with restored(manager, snapshot).handed_over() as vmm:
            vmm.verify()
            until(lambda: manager.vm(vmm.pid) is None, "the VM to be let go of")
            assert "all of its snapshot's memory is there" in manager.log
            manager.end(signal.SIGKILL)
            # Nobody is needed any more.
            vmm.verify()


def test_what_the_first_restore_wanted_comes_first_in_the_second(
    start: Start, snapshot: Path
) -> None:
    with start("--snapshot", "base") as manager:
        imported(manager, snapshot)
        with restored(manager, snapshot, "--vcpus", "1").handed_over() as vmm:
            vmm.ask("run", "running")
            until(lambda: "recorded a working set" in manager.log, "the record")
            vmm.ask("pause", "paused")
        assert (manager.folder / "state" / "base.ws").stat().st_size > 8
        with restored(manager, snapshot).handed_over() as vmm:
            until(lambda: "recorded pages are in" in manager.log, "the replay")
            vmm.verify()


def test_two_vms_of_one_image_are_their_own(start: Start, snapshot: Path) -> None:
    with (
        start("--snapshot", "base", vm='when_restored = "keep"\n') as manager,
    ):
        imported(manager, snapshot)
        with (
            restored(manager, snapshot, "--vcpus", "1").handed_over() as one,
            restored(manager, snapshot, "--vcpus", "1", "--seed", "9").handed_over() as two,
        ):
            for vmm in (one, two):
                vmm.ask("run", "running")
            one.ask("pause", "paused")
            one.kill()
            two.ask("pause", "paused")
            two.verify()
            report = manager.vm(two.pid)
            assert report is not None and report["snapshot"] == "base"


def test_what_the_balloon_took_is_zero(start: Start, snapshot: Path) -> None:
    with start("--snapshot", "base", vm='record_for = "10min"\n') as manager:
        imported(manager, snapshot)
        with restored(manager, snapshot).handed_over() as vmm:
            assert vmm.ask("balloon 100 500")["error"] == 0
            vmm.verify()
            assert vmm.ask("balloon 1000 64")["error"] == 0
            vmm.verify()


def test_an_import_without_a_manager(start: Start, snapshot: Path) -> None:
    with start() as manager:
        assert manager.end() == 0
        imported(manager, snapshot, "early")
    with (
        start("--snapshot", "early") as manager,
        restored(manager, snapshot).handed_over() as vmm,
    ):
        vmm.verify()
        assert "no snapshot" not in manager.log


def test_a_vm_that_is_larger_than_its_image_is_refused(start: Start, snapshot: Path) -> None:
    with start("--snapshot", "base") as manager:
        imported(manager, snapshot)
        with Vmm(manager.socket, "--ranges", "16M", "--contents", "empty",
                 vmm="firecracker").handed_over():  # fmt: skip
            until(lambda: ": refused: " in manager.log, "the refusal")
        assert manager.stat()["vms"] == []


def test_an_image_that_is_not_there_is_named(start: Start, snapshot: Path) -> None:
    with start("--snapshot", "nothing") as manager:
        assert "no snapshot nothing is in the tiers" in manager.log
        with restored(manager, snapshot).handed_over():
            until(lambda: ": refused: " in manager.log, "the refusal")
        assert "nothing" in manager.log.partition(": refused: ")[2]


def test_imports_that_cant_be_done(start: Start, snapshot: Path) -> None:
    with start() as manager:
        config = str(manager.folder / "manager.toml")
        state = str(manager.folder / "state")
        for arguments, said in (
            ([str(snapshot) + ".no", "--name", "x", "--state", state], "can't be read"),
            ([str(snapshot), "--name", "x"], "--state"),
        ):
            done = manager.run("import", *arguments, "--config", config)
            assert done.returncode in (2, 4), done
            assert said in done.stderr and "Traceback" not in done.stderr
        imported(manager, snapshot)
        done = manager.run("import", str(snapshot), "--name", "base", "--config", config,
                           "--state", state)  # fmt: skip
        assert done.returncode != 0 and "base" in done.stderr
