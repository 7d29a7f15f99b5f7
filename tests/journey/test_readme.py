# SPDX-License-Identifier: Apache-2.0
"""What README.md shows works: programs run, the configuration loads, tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from tests.conftest import ROOT
from tierstore.cli import exits
from tierstore.cli.app import app
from tierstore.config import Config
from tierstore.manager.config import ServeConfig
from tierstore.probe import probe
from tierstore.stores.registry import _BUILTIN

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "native" / "examples" / "minimal.c"


def block(language: str) -> str:
    """The one block of that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)
    assert len(found) == 1, f"{len(found)} blocks of {language}"
    return found[0]


def first_cells(header: str) -> list[str]:
    """The first column of the table that begins with this header cell, in text."""
    pattern = rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)"
    table = re.search(pattern, README, flags=re.M)
    assert table, f"no table with {header}"
    return [row.split("|")[1].strip() for row in table[1].splitlines()]


def needs(memory: str) -> None:
    """Skip where the kernel can't serve such memory; README says which can."""
    if probe().tracker_for(memory) is None:
        pytest.skip(f"this kernel can't serve {memory} memory")


def test_c_program_is_the_example() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.partition("*/\n")[2] == block("c")


def test_c_program_runs(build_dir: Path, tmp_path: Path) -> None:
    """Compiled as a stranger would: public headers, the shared library, all warnings."""
    needs("anon")
    source, program = tmp_path / "main.c", tmp_path / "main"
    source.write_text(block("c"), encoding="utf-8")
    library = build_dir / "native"
    warnings = ["-std=gnu17", "-Wall", "-Wextra", "-Werror"]
    paths = [f"-I{ROOT / 'native/include'}", f"-L{library}", f"-Wl,-rpath,{library}"]
    command = ["gcc", *warnings, str(source), *paths, "-ltierstore", "-o", str(program)]
    subprocess.run(command, check=True, timeout=60)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '16384 pages evicted; the guest reads "guest 33554432"\n'


def test_python_program_runs() -> None:
    needs("memfd")
    done = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    away, back = (int(line.split()[0]) for line in done.stdout.splitlines())
    assert away > 0
    assert back > 0


def test_configuration_loads() -> None:
    config = Config.from_text(block("toml"), source="README.md")
    assert [tier.name for tier in config.tier] == ["warm", "cold"]
    assert Config.from_text(config.to_toml()) == config


def test_examples_load() -> None:
    paths = sorted((ROOT / "examples").glob("*.toml"))
    assert paths
    for path in paths:
        assert ServeConfig.load(path).tier


def test_commands_are_complete() -> None:
    """The table of commands names each one with all its options."""
    commands = typer.main.get_group(app).commands
    rows = {name: row for name in commands for row in README.splitlines()
            if row.startswith(f"| `tierstore {name}")}  # fmt: skip
    assert set(rows) == set(commands)
    assert len(first_cells("command")) == len(commands)
    for name, command in commands.items():
        options = {opt for param in command.params for opt in param.opts if opt[:2] == "--"}
        missing = {opt for opt in options - {"--json"} if opt not in rows[name]}
        assert not missing, f"{name}: {missing}"


def test_exit_codes_are_complete() -> None:
    listed = {int(code) for cell in first_cells("exit code") for code in cell.split(",")}
    codes = {exits.OK, exits.WRONG_BYTES, exits.USAGE, exits.HOST, exits.STORE, exits.BUG}
    assert listed == codes | {exits.SIGNALS + 2, exits.SIGNALS + 15}


def test_stores_are_complete() -> None:
    named = set(re.findall(r"`([a-z-]+)`", "".join(first_cells("store"))))
    assert named == set(_BUILTIN)


def test_wrappers_are_complete() -> None:
    registry = (ROOT / "native/src/store/registry.c").read_text(encoding="utf-8")
    names = re.search(r'wrap_names\[\] = "([^"]+)"', registry)
    assert names
    assert [cell.strip("`") for cell in first_cells("wrapper")] == names[1].split(", ")
