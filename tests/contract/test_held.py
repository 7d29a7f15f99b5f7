# SPDX-License-Identifier: Apache-2.0
"""Frames that belong to an engine's state folder: a store in Python leaves them alone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")

from tierstore.errors import StoreWrongFile
from tierstore.stores import _file_format as fmt
from tierstore.stores._lmdb_folder import boot_id
from tierstore.stores.registry import find_store

SIZE = 8 << 20


def test_file_that_is_held_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store_class = find_store("python-file")
    store_class(name="t", path=str(path), size_bytes=SIZE, options={"keep": "1"}).close()
    block = path.read_bytes()[: fmt.BLOCK]
    held = fmt.Super.parse(block, str(path))
    assert held is not None
    held.flags = fmt.held_flags()
    with path.open("r+b") as file:
        file.write(held.to_block())
    before = path.read_bytes()
    for options in ({}, {"keep": "1"}):
        with pytest.raises(StoreWrongFile, match="state folder"):
            store_class(name="t", path=str(path), size_bytes=SIZE, options=options)
    assert path.read_bytes() == before


def test_folder_that_is_held_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store_class = find_store("python-lmdb")
    store_class(name="t", path=str(path), size_bytes=SIZE, options={"keep": "1"}).close()
    (path / "tierstore-lmdb").write_bytes(b"tierstore-lmdb 1 held " + boot_id() + b"\n")
    before = (path / "data.mdb").read_bytes()
    for options in ({}, {"keep": "1"}):
        with pytest.raises(StoreWrongFile, match="state folder"):
            store_class(name="t", path=str(path), size_bytes=SIZE, options=options)
    assert (path / "data.mdb").read_bytes() == before
