# SPDX-License-Identifier: Apache-2.0
"""The same build on a ladder of real kernels: 7.3 or later, Debian 13's, Debian 12's.

What the probe says on each is written down here: it may neither miss what a kernel can do nor
promise what it can't.  Where it promises something, a short demonstration keeps the promise; a
kernel that serves nothing refuses, and says which kernel would do.

Each rung starts an emulated machine and takes one to three minutes, so these run with --soak.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 900
HOST = 3

# Features that depend on the kernel's settings rather than on its version.
SETTINGS = {"has_thp_anon", "has_thp_shmem", "uffd_dev"}


@dataclass(frozen=True)
class Rung:
    """missing: what the probe must not find; all the rest it must."""

    missing: set[str]
    trackers: dict[str, str | None]
    needed: str = ""
    """What a refusal names."""


LADDER = {
    "7.3": Rung(set(), {"anon": "rwp", "memfd": "zap"}),
    "6.12": Rung({"has_rwp"}, {"anon": "wp", "memfd": "zap"}),
    "6.1": Rung(
        {"has_wp_async", "has_wp_unpopulated", "has_move", "has_poison", "has_pagemap_scan",
         "has_rwp"},
        {"anon": None, "memfd": None},
        needed="6.",
    ),
}  # fmt: skip


def climb(root: Path, version: str) -> dict[str, Any]:
    """What the commands of rung.py said on that kernel."""
    command: list[str | Path] = [root / "dev", "kernel", "--timeout", str(TIMEOUT_S - 60), version]
    done = subprocess.run(
        [*command, "python", "-P", "tests/vm/rung.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-8000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_demo(answer: dict[str, Any], tracker: str | None, needed: str) -> None:
    """It kept every byte; or it refused, and said what it needs."""
    if tracker is None:
        assert answer["status"] == HOST, answer
        assert f"Linux {needed}" in answer["stderr"], answer["stderr"]
        return
    assert answer["status"] == 0, answer["stderr"]
    summary = json.loads(answer["stdout"])
    assert summary["tracker"] == tracker
    assert (summary["mismatches"], summary["bad_pages"]) == (0, 0)
    assert summary["evicted_pages"] > 0


@pytest.mark.soak
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("version", LADDER)
def test_rung(root_dir: Path, version: str) -> None:
    """Probe and demonstrations on one kernel."""
    rung = LADDER[version]
    answers = climb(root_dir, version)
    probe = json.loads(answers["probe"]["stdout"])
    missing = {name for name, has in probe["flags"].items() if not has} - SETTINGS
    assert missing == rung.missing
    assert probe["trackers"] == rung.trackers
    assert answers["probe"]["status"] == (0 if any(rung.trackers.values()) else HOST)
    for memory, tracker in rung.trackers.items():
        check_demo(answers[memory], tracker, rung.needed)
