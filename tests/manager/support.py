# SPDX-License-Identifier: Apache-2.0
"""Processes for tests of the manager: ``tierstore serve``, and VMMs that obey."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.conftest import BUILD_DIR, ROOT

DOUBLE = BUILD_DIR / "native" / "tests" / "vmm" / "vmm_double"
MIB = 1 << 20
WAIT_S = 60.0
"""Longer than anything takes but what hangs; the handshake of who never ends a message as well."""

CONFIG = """
[manager]
handshake_timeout = "15s"

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
    """A manager as a process, its log in a file; code: what it does before it begins."""

    def __init__(
        self, folder: Path, *options: str, config: str = CONFIG, wait: bool = True, code: str = ""
    ):
        self.folder = folder
        self.socket = folder / "vmm.sock"
        self.log_path = folder / f"log{len(list(folder.glob('log*')))}"
        config_path = folder / "manager.toml"
        config_path.write_text(config, encoding="utf-8")
        arguments = ["serve", "--listen", str(self.socket), "--config", str(config_path)]
        program = ["-c", code + "\nfrom tierstore.cli import main; main()"] if code else []
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(program or ["-m", "tierstore"]), *arguments, *options],
                stderr=log,
                stdout=log,
                env=self.environment,
                cwd=ROOT,
            )
        if wait:
            control = folder / "tierstore" / f"{self.process.pid}.sock"
            until(lambda: control.exists() or self.process.poll() is not None, "it to start")
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

    def __exit__(self, _type: object, exc: object, _traceback: object) -> None:
        if exc is not None:
            print(self.log)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Vmm:
    """A VMM that obeys: native/tests/vmm/double.c, whose every page says what it must hold."""

    def __init__(self, socket: Path, *options: str, vmm: str = "cloud-hypervisor", mib: int = 8):
        arguments = ["--protocol", vmm, "--socket", str(socket), *options]
        if "--patience" not in options:
            # Not the two seconds of a real one, which a busy machine may need once in a while.
            arguments += ["--patience", str(int(WAIT_S * 1000))]
        if "--ranges" not in options:
            arguments += ["--ranges", f"{mib}M"]
        self.process = subprocess.Popen(
            [str(DOUBLE), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self.process.pid
        self._said = b""

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; fails the test where none comes."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        due_s = time.monotonic() + WAIT_S
        while True:
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                event: dict[str, Any] = json.loads(line)
                if event["event"] == name:
                    return event
                assert event["event"] != "error", event
            ready, _, _ = select.select([fd], [], [], due_s - time.monotonic())
            assert ready, f"no {name}: the VMM hangs"
            more = os.read(fd, 65536)
            assert more, f"no {name}: the VMM ended, {self.process.wait(timeout=WAIT_S)}"
            self._said += more

    def handed_over(self, result: str = "ready") -> Self:
        """Asserts how the hand-over went; Firecracker's is always ready."""
        event = self.event("handoff")
        assert event["result"] == result, event
        return self

    def say(self, line: str) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line: str, event: str = "") -> dict[str, Any]:
        """Have it do something, and wait until it has."""
        self.say(line)
        return self.event(event or line.partition(" ")[0])

    def verify(self) -> None:
        """The guest reads every page, and every byte is right."""
        answer = self.ask("verify")
        assert (answer["mismatches"], answer["poisoned"]) == (0, 0), answer

    def resident_bytes(self) -> int:
        """What the kernel holds of its memory."""
        resident: int = self.ask("stats")["resident"]
        return resident

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A manager for all tests of a file that leave it as it was."""
    with Serve(tmp_path_factory.mktemp("manager")) as manager:
        yield manager


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A running manager."""
    with Serve(tmp_path) as manager:
        yield manager
        print(manager.log)  # pytest shows it if the test failed
