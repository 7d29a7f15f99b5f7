# SPDX-License-Identifier: Apache-2.0
"""./dev itself: what it says, and that it leaves alone what is done."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}


def dev(root: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """./dev from some other folder, on a machine without locale or settings."""
    return subprocess.run(
        [root / "dev", *words], cwd=cwd, env=BARE, capture_output=True, text=True, check=False
    )


def test_help_lists_what_is_there(root_dir: Path, tmp_path: Path) -> None:
    """Every verb that help lists is implemented, and no other."""
    done = dev(root_dir, "help", cwd=tmp_path)
    assert done.returncode == 0
    listed = set(re.findall(r"^  (\w+) ", done.stdout, re.M)) - {"help"}
    assert {"build", "test", "demo", "lint", "asan", "tsan", "wheel", "shell"} <= listed
    text = (root_dir / "dev").read_text()
    for verb in listed:
        assert f"\nverb_{verb}() {{" in text, verb


@pytest.mark.parametrize("words", [["no-such-verb"], ["verb_build"], ["shell;true"]])
def test_unknown_verb(root_dir: Path, tmp_path: Path, words: list[str]) -> None:
    """Is refused, with the list."""
    done = dev(root_dir, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "usage:" in done.stderr
    assert not done.stdout


def test_shell_hands_on_output_and_status(root_dir: Path, tmp_path: Path) -> None:
    """What is done already is not done again, and stdout holds the command's words alone."""
    code = "import sys, tierstore._native; print('out'); sys.exit(7)"
    for _ in range(2):
        done = dev(root_dir, "shell", "--", "python", "-c", code, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr
    assert "dev:" not in done.stderr
