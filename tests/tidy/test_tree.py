# SPDX-License-Identifier: Apache-2.0
"""Applies the rules of rules.py to every file of the checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.conftest import ROOT
from tests.tidy import rules

TEXT_SUFFIXES = {".c", ".h", ".py", ".pyi", ".sh", ".toml", ".map", ".build", ".txt", ".md"}
SKIPPED_FOLDERS = {"__pycache__", "dist"}


def text_files() -> Iterator[tuple[PurePosixPath, Path]]:
    """Every text file, without asking git: a machine that only runs the tests may have none."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if name not in SKIPPED_FOLDERS
            and not name.startswith("build")
            and (not name.startswith(".") or name == ".ci")
        )
        for name in sorted(names):
            path = Path(folder, name)
            relative = PurePosixPath(path.relative_to(ROOT).as_posix())
            if path.suffix in TEXT_SUFFIXES or rules.is_script(relative):
                yield relative, path


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: rules.Rule) -> None:
    """One rule over the whole tree."""
    broken = [
        line for relative, path in text_files() for line in rule(relative, path.read_text("utf-8"))
    ]
    assert not broken, "\n".join(broken)


def test_executable_bits() -> None:
    """Scripts are executable, and nothing else is."""
    broken = [
        line
        for relative, path in text_files()
        for line in rules.executable(relative, path.read_text("utf-8"), os.access(path, os.X_OK))
    ]
    assert not broken, "\n".join(broken)


def test_files_are_found() -> None:
    """The loops above must not run over nothing."""
    found = {relative.as_posix() for relative, _ in text_files()}
    assert {"dev", "meson.build", "native/include/tierstore/store.h", ".ci/run"} <= found


def test_symbols(build_dir: Path) -> None:
    """A program that links the static library meets no name of ours without the prefix."""
    command = ["nm", "-g", "--defined-only", str(build_dir / "native" / "libtierstore.a")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert " T ts_version" in output
    broken = list(rules.symbols(output))
    assert not broken, "\n".join(broken)
