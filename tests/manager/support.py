# SPDX-License-Identifier: Apache-2.0
"""Processes for tests of the manager: ``tierstore serve``, and VMMs that obey (vmm.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.conftest import ROOT

VMM = ROOT / "tests" / "manager" / "vmm.py"
MIB = 1 << 20
WAIT_S = 60.0
"""Longer than anything takes but what hangs."""

CONFIG = """
[engine]
interval = "100ms"

[[tier]]
name = "warm"
store = "ram"
size = "64MiB"
codec = "zstd"

[[vm]]
budget = "10%"
min_age = "100ms"
"""


def until(condition: Callable[[], Any], what: str) -> Any:
    """Polls until it is true; its value."""
    due_s = time.monotonic() + WAIT_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > due_s:
            pytest.fail(f"waited {WAIT_S:g} s for {what}")
        time.sleep(0.02)


class Serve:
    """A manager as a process, its log in a file."""

    def __init__(self, folder: Path, *options: str, config: str = CONFIG, wait: bool = True):
        self.folder = folder
        self.socket = folder / "vmm.sock"
        self.log_path = folder / f"log{len(list(folder.glob('log*')))}"
        config_path = folder / "manager.toml"
        config_path.write_text(config, encoding="utf-8")
        arguments = ["serve", "--listen", str(self.socket), "--config", str(config_path)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tierstore", *arguments, *options],
                stderr=log,
                stdout=log,
                env=self.environment,
                cwd=ROOT,
            )
        if wait:
            until(lambda: "listening on" in self.log or self.process.poll() is not None, "it")
            assert self.process.poll() is None, self.log

    @property
    def environment(self) -> dict[str, str]:
        """A runtime folder of the test's own."""
        return os.environ | {"XDG_RUNTIME_DIR": str(self.folder)}

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The program, as a user would run it beside this manager."""
        return subprocess.run(
            [sys.executable, "-m", "tierstore", *arguments],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=self.environment,
            cwd=ROOT,
            check=False,
        )

    def stat(self) -> dict[str, Any]:
        """``tierstore stat --json``."""
        done = self.run("stat", "--json", "--pid", str(self.process.pid))
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def vm(self, pid: int) -> dict[str, Any] | None:
        """What it says of one VM."""
        return next((vm for vm in self.stat()["vms"] if vm["pid"] == pid), None)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            print(self.log)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Vmm:
    """A VMM that obeys."""

    def __init__(self, socket: Path, *options: str, vmm: str = "cloud-hypervisor",
                 mib: int = 4, seed: int | None = 1, user: int | None = None):  # fmt: skip
        arguments = ["--socket", str(socket), "--vmm", vmm, *options]
        if "--size" not in options:
            arguments += ["--size", str(mib * MIB)]
        if seed is not None:
            arguments += ["--seed", str(seed)]
        self.seed = seed
        self.nr_pages = mib * 256
        self.process = subprocess.Popen(
            [sys.executable, str(VMM), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=user,
        )
        self.pid = self.process.pid

    def answer(self) -> dict[str, Any]:
        """The next line; fails the test where none comes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
        assert ready, "the VMM hangs"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "gone"}')
        return answer

    def is_handed_over(self) -> Self:
        """Asserts that the manager took it."""
        answer = self.answer()
        assert "error" not in answer, answer
        return self

    def order(self, verb: str, **details: Any) -> dict[str, Any]:
        """Have it do something, and wait until it has."""
        self.start(verb, **details)
        return self.answer()

    def start(self, verb: str, **details: Any) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": verb} | details) + "\n")
        self.process.stdin.flush()

    def check(self, low: int = 0, high: int | None = None, seed: int | None = None) -> None:
        """All these pages are what was written."""
        high = self.nr_pages if high is None else high
        seed = self.seed if seed is None else seed
        assert self.order("check", low=low, high=high, seed=seed) == {"wrong": 0}

    def held_bytes(self) -> int:
        """What the kernel holds of its memory."""
        held: int = self.order("held")["bytes"]
        return held

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A running manager."""
    with Serve(tmp_path) as manager:
        yield manager
