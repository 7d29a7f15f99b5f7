# SPDX-License-Identifier: Apache-2.0
"""Runs the C tests that meson knows, so that one summary counts them and names what was skipped.

A C test says "passed" by exit code 0, "skipped" by 77 (the reason is its last line), and "failed"
by anything else.  `meson test` runs the same programs; the sanitizer builds use that.  Those that
ask the kernel alone have a folder of their own (tests/kernel).
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.conftest import BUILD_DIR

SKIPPED = 77


def known_tests() -> list[dict[str, Any]]:
    """What meson has written down about the tests of the build; empty without a build."""
    path = BUILD_DIR / "meson-info" / "intro-tests.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return [program for program in found if "tierstore:kernel" not in program["suite"]]


@pytest.mark.usefixtures("build_dir")
def test_there_are_programs() -> None:
    """Guards against the loop below running over nothing."""
    assert known_tests(), "meson knows no C test"


@pytest.mark.parametrize("program", known_tests(), ids=lambda program: program["name"])
def test_program(program: dict[str, Any]) -> None:
    """One C test."""
    done = subprocess.run(
        program["cmd"],
        env={**os.environ, **program["env"]},
        cwd=program["workdir"] or BUILD_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=program["timeout"],
        check=False,
    )
    lines = done.stdout.strip().splitlines() or ["(no output)"]
    if done.returncode == SKIPPED:
        pytest.skip(lines[-1])
    assert done.returncode == 0, "\n".join(["exit code " + str(done.returncode), *lines[-60:]])
