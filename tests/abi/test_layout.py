# SPDX-License-Identifier: Apache-2.0
"""The headers of the first release against today's, member by member.

Old programs keep running as long as what they were compiled with still holds: every function, with
the same types; every constant, with the same value; every member, at the same place.  Structs may
grow at their end, and there not even into what was padding, because a caller need not have zeroed
that.  native/tests/abi/old_program.c is such a program.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

HEADERS = ("tierstore.h", "store.h")

# The library writes these and never reads them.
RESULTS = {"ts_probe", "ts_scan_result", "ts_evict_result", "ts_stats", "ts_store_stat"}

Struct = dict[str, tuple[int, int, str]]


def read(folder: Path) -> FFI:
    """What a folder's headers declare."""
    ffi = FFI()
    for header in HEADERS:
        command = ["cc", "-E", "-P", "-x", "c", "-DTS_CDEF", "-DTS_API=", str(folder / header)]
        ffi.cdef(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return ffi


@pytest.fixture(scope="module")
def old(root_dir: Path) -> FFI:
    """The first release."""
    return read(root_dir / "native" / "tests" / "abi" / "0.1" / "tierstore")


@pytest.fixture(scope="module")
def new(root_dir: Path) -> FFI:
    """Today."""
    return read(root_dir / "native" / "include" / "tierstore")


def declarations(ffi: FFI) -> dict[str, Any]:
    """Everything by what it is and its name, as cffi's parser keeps it."""
    found: dict[str, Any] = ffi._parser._declarations  # type: ignore[attr-defined]
    return {name: kind for name, (kind, _) in found.items()}


def structs(ffi: FFI) -> list[str]:
    """Names of the structs that have members."""
    names = [name.split()[1] for name in declarations(ffi) if name.startswith("struct ")]
    return [name for name in names if ffi.typeof(f"struct {name}").fields]


def members(ffi: FFI, name: str) -> Struct:
    """Offset, size and type of each member."""
    fields = ffi.typeof(f"struct {name}").fields or []
    return {m: (f.offset, ffi.sizeof(f.type), plain(f.type.cname)) for m, f in fields}


def plain(type_name: str) -> str:
    """A type's name, whatever number cffi gave to what has none."""
    return re.sub(r"\$\w+", "$", type_name)


def functions(ffi: FFI) -> dict[str, str]:
    """Signatures."""
    found = {}
    for name, kind in declarations(ffi).items():
        if name.startswith("function "):
            found[name.split()[1]] = plain(kind._get_c_name())
    return found


def constants(ffi: FFI) -> dict[str, int]:
    """The values of all enumerators."""
    found: dict[str, int] = ffi._parser._int_constants  # type: ignore[attr-defined]
    return dict(found)


def test_the_first_release_is_there(old: FFI) -> None:
    """Guards against comparisons of nothing."""
    assert {"ts_stats", "ts_region_options", "ts_store_ops"} <= set(structs(old))
    assert "ts_engine_open" in functions(old)
    assert constants(old)["TS_EFULL"] == -10001


def test_members_stay_where_they_are(old: FFI, new: FFI) -> None:
    """The same offset, size and type; what is new begins after the old end."""
    for name in structs(old):
        before, after = members(old, name), members(new, name)
        assert {m: after.get(m) for m in before} == before, name
        is_in = name not in RESULTS
        end = ffi_size(old, name) if is_in else max(o + size for o, size, _ in before.values())
        added = {m: place for m, place in after.items() if m not in before and m != "unused"}
        assert all(offset >= end for offset, _, _ in added.values()), (name, end, added)


def ffi_size(ffi: FFI, name: str) -> int:
    """sizeof a struct."""
    return int(ffi.sizeof(f"struct {name}"))


def test_structs_without_a_size_do_not_grow(old: FFI, new: FFI) -> None:
    """They are allocated by callers, in arrays, or lie inside of others."""
    for name in structs(old):
        if "size" not in members(old, name):
            assert ffi_size(new, name) == ffi_size(old, name), name


def test_functions_keep_their_types(old: FFI, new: FFI) -> None:
    """No function is gone, none takes or gives anything else."""
    today = functions(new)
    assert {name: today.get(name) for name in functions(old)} == functions(old)


def test_constants_keep_their_values(old: FFI, new: FFI) -> None:
    """Those that bound arrays in structs, too."""
    today = constants(new)
    assert {name: today.get(name) for name in constants(old)} == constants(old)
