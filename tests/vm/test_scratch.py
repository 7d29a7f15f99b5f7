# SPDX-License-Identifier: Apache-2.0
"""What killed runs leave is removed by the next one, and what others still use is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.apt import cache_dir
from tests.vm.scratch import scratch

HOLDER = """
from tests.vm.scratch import scratch
with scratch() as folder:
    (folder / "image").write_text("large")
    print(folder, flush=True)
    input()
"""
ROOT = Path(__file__).parents[2]


def test_folders_of_killed_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with scratch() as ours:
            assert (theirs / "image").exists()
            assert ours.parent == theirs.parent == cache_dir()
        assert not ours.exists()
        process.kill()
    assert (theirs / "image").exists()
    with scratch() as ours:
        assert not theirs.exists()
        assert ours.is_dir()
