# SPDX-License-Identifier: Apache-2.0
"""The soak in short, so that it runs when it is wanted long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_short_soak(memory: str) -> None:
    program = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(program), "--seconds", "4", "--size", "64MiB"]
    run = subprocess.run(
        [*command, "--memory", memory], capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["mismatches"] == 0
    assert result["evicted_pages"] > 0
    assert all(count > 0 for count in result["served"].values()), result["served"]
    assert not any(count for name, count in result["failures"].items() if name != "full")
