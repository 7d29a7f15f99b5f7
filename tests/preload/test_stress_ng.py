# SPDX-License-Identifier: Apache-2.0
"""stress-ng's own methods on memory, with its own check of every byte.

Its workers are forked processes that map memory and map it anew all the time; each gets an engine
of its own.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.preload.support import install, tierstore_command, write_config

pytestmark = pytest.mark.timeout(300)


def _run(folder: Path, *arguments: str) -> str:
    install("stress-ng")
    config = write_config(folder, interval="100ms", budget="5%", warm="8MiB")
    words = tierstore_command("run", "-v", "--config", config, "--region", "size>=8MiB", "--")
    words += ["stress-ng", *arguments, "--verify", "--metrics-brief", "--temp-path", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "fail" not in re.sub(r"failed: 0", "", said), said
    return said


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_vm_methods(tmp_path: Path) -> None:
    """Kept mapped, so that memory lives long enough to leave."""
    said = _run(tmp_path, "--vm", "2", "--vm-bytes", "64M", "--vm-keep", "--vm-hang", "1",
                "--timeout", "8")  # fmt: skip
    left = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) pages left", said)]
    assert len(left) >= 2
    assert sum(left) > 1000


@pytest.mark.parametrize(
    "stressor",
    [
        ("--mremap", "2", "--mremap-bytes", "32M"),
        ("--mmap", "2", "--mmap-bytes", "32M"),
        ("--fork", "2", "--vm", "1", "--vm-bytes", "32M"),
    ],
    ids=lambda words: words[0].strip("-"),
)
def test_others(tmp_path: Path, stressor: tuple[str, ...]) -> None:
    _run(tmp_path, *stressor, "--timeout", "2")
