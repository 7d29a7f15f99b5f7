# SPDX-License-Identifier: Apache-2.0
"""The proposal's loop, step by step, in C and in Python: what examples show works here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tierstore.probe import probe

TIMEOUT_S = 60
ROUNDS = 3


def run(command: list[str | Path], memory: str) -> list[tuple[int, ...]]:
    """The numbers of each round: resident, touched, cold, left."""
    if probe().tracker_for(memory) is None:
        pytest.skip(f"this kernel can't serve {memory} memory")
    done = subprocess.run([*command, memory], capture_output=True, text=True, timeout=TIMEOUT_S,
                          cwd=ROOT, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    *rounds, last = done.stdout.splitlines()
    assert last.endswith(" 0 pages wrong")
    return [tuple(map(int, re.findall(r"\d+", line.partition(":")[2]))) for line in rounds]


def check(rounds: list[tuple[int, ...]]) -> None:
    """Most of the guest is cold, is found to be so at once, and leaves."""
    assert len(rounds) == ROUNDS
    resident, touched, cold, left = rounds[0]
    assert resident == touched + cold
    assert touched < resident // 4
    assert left > cold // 2
    assert rounds[1][0] < resident // 2


@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_c(build_dir: Path, memory: str) -> None:
    check(run([build_dir / "native/examples/seed_workflow"], memory))


@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_python(memory: str) -> None:
    check(run([sys.executable, "-P", ROOT / "examples/seed_workflow.py"], memory))


@pytest.mark.parametrize("words", [[], ["disk"]])
def test_usage(build_dir: Path, words: list[str]) -> None:
    """Without sense on the command line both say how they are used."""
    for command in ([build_dir / "native/examples/seed_workflow"],
                    [sys.executable, "-P", ROOT / "examples/seed_workflow.py"]):  # fmt: skip
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "anon|memfd" in done.stderr
