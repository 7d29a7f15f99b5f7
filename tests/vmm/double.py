# SPDX-License-Identifier: Apache-2.0
"""Drives vmm_double (native/tests/vmm/double.c), the stand-in for VMMs that hand memory over.

    with Double("--protocol", "cloud-hypervisor", "--socket", path) as vmm:
        vmm.expect("handoff", result="ready")
        vmm.tell("run")
        assert vmm.ask("verify")["mismatches"] == 0

Every event that was read is kept in `events`, so that a failure can show what led to it.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import BUILD_DIR

PROGRAM = BUILD_DIR / "native" / "tests" / "vmm" / "vmm_double"
VANISHED = 9

# Commands whose answer is an event of another name.
ANSWERS = {"run": "running", "pause": "paused"}


class Double:
    """One vmm_double process."""

    def __init__(self, *arguments: str | Path) -> None:
        """Starts it; it fills its memory and hands it over at once."""
        self.events: list[dict[str, Any]] = []
        if "--patience" not in arguments:
            # For an answer of ours: a busy machine may need more than a VMM's two seconds.
            arguments += ("--patience", "60000")
        self.process = subprocess.Popen(
            [str(PROGRAM), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        """Of the VMM."""
        return self.process.pid

    def tell(self, command: str) -> None:
        """One command; does not wait for what comes of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def expect(self, event: str, timeout: float = 60, **fields: object) -> dict[str, Any]:
        """The next event of that name; what comes before it is kept in `events`."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event} in {timeout} s after {self.events}") from None
            if line is None:
                raise AssertionError(f"the VMM ended before {event}: {self.events}")
            found: dict[str, Any] = json.loads(line)
            self.events.append(found)
            if found["event"] == event:
                wrong = {key: found.get(key) for key in fields if found.get(key) != fields[key]}
                assert not wrong, f"{event}: {wrong}, expected {fields}"
                return found

    def ask(self, command: str, timeout: float = 60, **fields: object) -> dict[str, Any]:
        """A command and its event."""
        self.tell(command)
        word = command.split()[0]
        return self.expect(ANSWERS.get(word, word), timeout, **fields)

    def stats(self) -> dict[str, Any]:
        """The counts so far; answers while others are blocked."""
        return self.ask("stats", timeout=60)

    def until(self, holds: str, least: int = 1, timeout: float = 60) -> dict[str, Any]:
        """Waits until a number of the statistics has come that far."""
        deadline = time.monotonic() + timeout
        while True:
            stats = self.stats()
            if stats[holds] >= least:
                return stats
            assert time.monotonic() < deadline, f"{holds} stays below {least}: {stats}"
            time.sleep(0.02)

    def wait(self, timeout: float = 60) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def quit(self) -> int:
        """Ends it; 0 unless it saw a wrong byte."""
        self.tell("quit")
        return self.wait()

    def kill(self) -> None:
        """As a host's out-of-memory killer would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Double:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Whatever state it is in, nothing of it stays."""
        self.kill()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue


def write_snapshot(path: Path, *arguments: str) -> None:
    """A Firecracker snapshot's memory file, with the double's pattern in it."""
    subprocess.run([str(PROGRAM), "--write-snapshot", str(path), *arguments], check=True)
