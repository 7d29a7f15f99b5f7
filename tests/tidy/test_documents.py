# SPDX-License-Identifier: Apache-2.0
"""The documents say nothing that the tree has left behind: links, names, the edge table, limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = ROOT / "native" / "src"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("tests/**/*.md"), *ROOT.glob("bench/**/*.md")])
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
STATES = ["RESIDENT", "LEAVING", "AWAY", "COMING", "ZERO", "GONE"]
FOLDERS = "native|tests|tierstore|bench|examples"


def read(path: Path) -> str:
    """The file's text."""
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    """For the list of tests."""
    return path.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """The anchors that a forge makes of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose header line begins like this."""
    table = text.partition(f"\n{first}")[2].splitlines()[2:]
    found = []
    for line in table:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    assert found, f"no table {first!r}"
    return found


def test_documents_are_there() -> None:
    """The loops below must not run over nothing."""
    names = {name_of(path) for path in DOCUMENTS}
    assert {"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "FORMAT.md"} <= names
    assert {"tests/README.md", "bench/README.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links(path: Path) -> None:
    """Relative links lead to files, and to headings in them."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(path)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if not file.exists() or (anchor and anchor not in anchors(read(file))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_paths(path: Path) -> None:
    """What is written as a path in the tree is one; a * stands for any name."""
    named = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)`", read(path))
    missing = [name for name in named if not any(ROOT.glob(name.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_functions(path: Path) -> None:
    """`part/file.c:function` names a function that is defined in that file, below native/src."""
    missing = []
    for file, function in re.findall(r"`(\w+/\w+\.[ch]):(\w+)`", read(path)):
        source = SOURCES / file
        definition = re.compile(rf"^\w[^;\n]*\b{function}\([^;]*?\)\n\{{", re.M)
        if not source.exists() or not definition.search(read(source)):
            missing.append(f"{file}:{function}")
    assert not missing


def test_architecture_names_functions() -> None:
    """The loop above must not run over nothing."""
    assert len(re.findall(r"`\w+/\w+\.c:\w+`", read(ARCHITECTURE))) > 40


def test_edges() -> None:
    """The table of legal edges is the one of page/word.h."""
    array = read(SOURCES / "page" / "word.h").partition("ts_word_edges[")[2].partition("};")[0]
    code = {
        state: set(re.findall(r"TS_TO\((\w+)\)", edges))
        for state, edges in re.findall(r"\[TS_(\w+)\] =\s+([^,]+),", array)
    }
    table = {
        row[0]: {to for to, cell in zip(STATES, row[1:], strict=True) if cell == "x"}
        for row in rows(read(ARCHITECTURE), "| | RESIDENT |")
    }
    assert list(table) == STATES
    assert table == code


def limits() -> dict[str, int]:
    """The constants of util/limits.h, by their expressions."""
    text = re.sub(r"/\*.*?\*/", "", read(SOURCES / "util" / "limits.h"), flags=re.S)
    known: dict[str, int] = {}
    for name, expression in re.findall(r"\b(TS_\w+) = ([^,]+),", text):
        assert re.fullmatch(r"[\w\s()+*<-]+", expression), expression
        known[name] = int(eval(expression, {"__builtins__": {}}, known))
    return known


def test_limits() -> None:
    """The table of limits has the values of the code."""
    known = limits()
    table = {row[0].strip("`"): int(row[1]) for row in rows(read(ARCHITECTURE), "| limit |")}
    assert table == {name: known[name] for name in table}


def test_facts() -> None:
    """Kernel facts are shown by programs that are there."""
    named = re.findall(r"`(test_\w+)`", read(ARCHITECTURE))
    programs = {path.stem for path in (ROOT / "native/tests/kernel").glob("test_*.c")}
    assert set(named) <= programs


def test_folders() -> None:
    """The table of folders is the tree's."""
    table = [row[0].strip("`") for row in rows(read(ARCHITECTURE), "| folder |")]
    assert sorted(table) == sorted(path.name for path in SOURCES.iterdir() if path.is_dir())
