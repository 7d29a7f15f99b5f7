# SPDX-License-Identifier: Apache-2.0
"""The ABI: what headers declare, what the symbol map lists and what the library exports agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

FIRST_NODE = "TIERSTORE_0.1"


def declared(*headers: Path) -> set[str]:
    """Functions that the headers mark with TS_API."""
    text = "".join(header.read_text() for header in headers)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return set(re.findall(r"\bTS_API\b[^;(]*?\b(ts_\w+)\(", text))


def mapped(path: Path) -> dict[str, str]:
    """Names that a version script makes global, each with its node."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    found = {}
    for node, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", text, flags=re.S):
        found |= dict.fromkeys(re.findall(r"\b(ts_\w+);", body), node)
    return found


def frozen(root: Path) -> set[str]:
    """Functions of the first release."""
    return declared(*(root / "native" / "tests" / "abi" / "0.1" / "tierstore").glob("*.h"))


def exported(library: Path) -> dict[str, str]:
    """The dynamic symbols that a shared library defines, each with its version node."""
    output = subprocess.run(
        ["nm", "-D", "--defined-only", "--with-symbol-versions", str(library)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    found = {}
    for line in output.splitlines():
        _, kind, symbol = line.split()
        name, _, node = symbol.partition("@@")
        if kind != "A":
            found[name] = node
    return found


def test_map_is_the_headers(root_dir: Path) -> None:
    """tierstore.map lists the public headers' functions, no more and no less."""
    include = root_dir / "native" / "include" / "tierstore"
    public = declared(*include.glob("*.h"))
    assert "ts_engine_open" in public
    assert set(mapped(root_dir / "native" / "tierstore.map")) == public


def test_first_release_keeps_its_versions(root_dir: Path) -> None:
    """An old program asks for its functions by name and version; none is gone or has moved."""
    versions = mapped(root_dir / "native" / "tierstore.map")
    assert "ts_engine_open" in frozen(root_dir)
    assert {versions.get(name) for name in frozen(root_dir)} == {FIRST_NODE}


def test_hook_map_is_the_hook_header(root_dir: Path) -> None:
    """The same for what hook builds add."""
    hooks = declared(root_dir / "native" / "src" / "util" / "hook.h")
    assert set(mapped(root_dir / "native" / "tierstore-hooks.map")) == hooks


def test_library_exports_the_map(root_dir: Path, build_dir: Path) -> None:
    """Every function exists, under our version node, and nothing else gets out."""
    native = root_dir / "native"
    expected = mapped(native / "tierstore.map") | mapped(native / "tierstore-hooks.map")
    assert set(expected.values()) >= {FIRST_NODE, "TIERSTORE_HOOKS"}
    assert exported(build_dir / "native" / "libtierstore.so") == expected


def test_library_names_its_interface(build_dir: Path) -> None:
    """The name that programs are linked against holds the major version; the file, the whole."""
    command = ["readelf", "-d", str(build_dir / "native" / "libtierstore.so")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (name,) = re.findall(r"SONAME.*\[(.*)\]", output)
    assert name == "libtierstore.so.0"


def test_old_program_asks_for_versions(build_dir: Path) -> None:
    """What was linked against the library needs its symbols at their versions."""
    program = build_dir / "native" / "tests" / "abi" / "abi_old_program"
    command = ["nm", "-D", "--undefined-only", "--with-symbol-versions", str(program)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    asked = re.findall(r"\b(ts_\w+)@([\w.]+)", output)
    assert len(asked) > 15
    assert {version for _, version in asked} == {FIRST_NODE}


def test_extension_exports_its_init_alone(build_dir: Path) -> None:
    """The core inside the extension can't clash with a libtierstore.so in the same process."""
    found = exported(build_dir / "tierstore" / "_native" / "_core.abi3.so")
    assert {name for name in found if not name.startswith("_cffi")} == {"PyInit__core"}
