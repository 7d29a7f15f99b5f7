# SPDX-License-Identifier: Apache-2.0
"""The linters, as tests: what they say is part of the one summary."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

RUFF = ["ruff", "check", "--output-format=concise", "."]


@pytest.mark.parametrize("command", [RUFF, ["mypy"]], ids=lambda c: c[0])
def test_linter(command: list[str]) -> None:
    """No complaints; the settings are in pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
