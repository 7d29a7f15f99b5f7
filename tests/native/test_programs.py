# SPDX-License-Identifier: Apache-2.0
"""Runs the C tests that meson knows, so that one summary counts them and names what was skipped.

A C test says "passed" by exit code 0, "skipped" by 77 (the reason is its last line), and "failed"
by anything else.  A reason that names a kernel ("Linux 6.8") does not excuse on that kernel or a
later one.  `meson test` runs the same programs; the sanitizer builds use that.  Those that ask the
kernel alone have a folder of their own (tests/kernel).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

import pytest

from tests.conftest import BUILD_DIR, kernel_version

SKIPPED = 77


def known_tests() -> list[dict[str, Any]]:
    """What meson has written down about the tests of the build; empty without a build."""
    path = BUILD_DIR / "meson-info" / "intro-tests.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return [program for program in found if "tierstore:kernel" not in program["suite"]]


def has_that_kernel(said: str) -> bool:
    """Whether a skip in it asks for a kernel that we have."""
    reasons = re.findall(r"^(?:SKIP|skipped).*Linux (\d+)\.(\d+)", said, re.M)
    return any(kernel_version() >= (int(major), int(minor)) for major, minor in reasons)


def test_skip_with_the_kernel_is_no_skip() -> None:
    """What claims to lack this kernel or an older one has found something else."""
    major, minor = kernel_version()
    assert has_that_kernel(f"ok   a\nSKIP b: needs Linux {major}.{minor}")
    assert has_that_kernel("skipped: Linux 6.1 or later")
    assert not has_that_kernel(f"SKIP b: needs Linux {major}.{minor + 1}\nskipped: not root")


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
    assert not has_that_kernel(done.stdout), done.stdout
    if done.returncode == SKIPPED:
        pytest.skip(lines[-1])
    assert done.returncode == 0, "\n".join(["exit code " + str(done.returncode), *lines[-60:]])
