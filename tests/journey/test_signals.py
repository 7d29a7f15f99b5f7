# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM at any moment of the demo: a clean end, memory compared, nothing left."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EVERY_LINE = """
import signal, sys
from tierstore.demo.run import Stop

nth = count = 1
while count >= nth:
    stop, count = Stop(), 0
    signal.signal(signal.SIGUSR1, lambda *_: stop.set("SIGUSR1"))

    def trace(frame, event, argument):
        global count
        count += 1
        if count == nth:
            signal.raise_signal(signal.SIGUSR1)
        return trace

    sys.settrace(trace)
    stop.wait(0)
    sys.settrace(None)
    assert stop.is_set == (count >= nth)
    nth += 1
print(nth)
"""


def test_at_any_line_of_the_wait() -> None:
    """The handler runs on the thread that waits, and must not wait for it."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_LINE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and int(done.stdout) > 3, done.stderr


MOMENTS = [(signum, seed) for seed in range(4) for signum in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(("number", "seed"), MOMENTS)
def test_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, seed: int
) -> None:
    """Preparing, running, restoring, comparing: drawn, not chosen."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "work"
    folder.mkdir()
    memory = ("anon", "memfd")[seed % 2]
    base = [sys.executable, "-m", "tierstore", "demo", "--size", "64MiB", "--seconds", "2"]
    command = [*base, "--memory", memory, "--folder", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not any(folder.iterdir()):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        # No synchronisation: the moment is what is tested.
        time.sleep(random.Random(f"{seed}{number}").uniform(0, 4))
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    # It may have been over before: all said, and the interpreter on its way out.
    is_over = "mismatches 0" in output
    assert process.returncode in (0, 128 + number) or (is_over and process.returncode == -number)
    assert "Traceback" not in errors
    assert is_over or process.returncode != 0
    assert list(folder.iterdir()) == []
