# SPDX-License-Identifier: Apache-2.0
"""Each store in Python reads what its C twin wrote, and the other way round."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")

from tierstore.abc import Store
from tierstore.errors import ConfigError, StoreLocked, StoreVersion, StoreWrongFile
from tierstore.stores.registry import find_store
from tierstore.testing._contract_base import make_frame, random_len

SIZE_BYTES = 32 << 20
FRAMES_MAX = 150


def open_kept(kind: str, path: Path, **options: str) -> Store:
    return find_store(kind)(
        name="tier", path=str(path), size_bytes=SIZE_BYTES, options={"keep": "1"} | options
    )


def write_some(store: Store, seed: int, model: dict[int, bytes]) -> None:
    """Puts, overwrites and deletes; all of them fit."""
    rng = random.Random(seed)
    for version in range(30):
        keys = rng.sample(range(FRAMES_MAX), 10)
        items = [(k, make_frame(k, seed + version, random_len(rng, 200_000))) for k in keys]
        assert store.put(items) == [None] * len(items)
        model |= dict(items)
        gone = rng.sample(range(FRAMES_MAX), 3)
        store.delete(gone)
        for key in gone:
            model.pop(key, None)


@pytest.mark.parametrize("twins", [("lmdb", "python-lmdb"), ("file", "python-file")], ids=str)
@pytest.mark.parametrize("first", [0, 1], ids=["C writes first", "Python writes first"])
def test_twins_read_and_continue_each_other(
    tmp_path: Path, twins: tuple[str, str], first: int
) -> None:
    """Back and forth: each finds what the other left, changes it, and hands it on."""
    model: dict[int, bytes] = {}
    for turn in range(4):
        with open_kept(twins[(first + turn) % 2], tmp_path / "store") as store:
            assert dict(store.scan()) == model
            assert store.stat().nr_frames == len(model)
            write_some(store, turn * 1000, model)


def test_a_kept_lmdb_store_can_be_looked_at(tmp_path: Path) -> None:
    """readonly=1 changes nothing, and nobody writes meanwhile."""
    model: dict[int, bytes] = {}
    path = tmp_path / "store"
    with open_kept("lmdb", path) as store:
        write_some(store, 1, model)
    before = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "lock.mdb"}
    with open_kept("python-lmdb", path, readonly="1") as store:
        assert dict(store.scan()) == model
        with pytest.raises(StoreLocked):
            open_kept("lmdb", path)
    after = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "lock.mdb"}
    assert before == after


def test_readonly_needs_a_store_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(StoreWrongFile):
        open_kept("python-lmdb", tmp_path, readonly="1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["lmdb", "python-lmdb"])
def test_other_lmdb_folders_are_refused_in_the_same_words(tmp_path: Path, kind: str) -> None:
    """Both twins know whose a folder is, and what version."""
    marker = tmp_path / "tierstore-lmdb"
    (tmp_path / "data.mdb").write_bytes(b"x")
    with pytest.raises(StoreWrongFile, match="empty folder"):
        open_kept(kind, tmp_path)
    marker.write_text("something else\n")
    with pytest.raises(StoreWrongFile, match="not the marker"):
        open_kept(kind, tmp_path)
    marker.write_text("tierstore-lmdb 7 kept\n")
    with pytest.raises(StoreVersion, match="version 7"):
        open_kept(kind, tmp_path)
    marker.write_text("tierstore-lmdb 1 kept\n")
    with pytest.raises(StoreWrongFile):
        open_kept(kind, tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == b"x"
    assert marker.read_text() == "tierstore-lmdb 1 kept\n", "a failed open leaves it as it was"


@pytest.mark.parametrize("kind", ["lmdb", "python-lmdb"])
def test_lmdb_options_are_checked(tmp_path: Path, kind: str) -> None:
    for options in ({"keep": "yes"}, {"nope": "1"}):
        with pytest.raises(ConfigError):
            find_store(kind)(
                name="t", path=str(tmp_path / "s"), size_bytes=SIZE_BYTES, options=options
            )
    with pytest.raises(ConfigError, match="path"):
        find_store(kind)(name="t", size_bytes=SIZE_BYTES)
    with pytest.raises(ConfigError, match="the least is"):
        find_store(kind)(name="t", path=str(tmp_path / "s"), size_bytes=1000)
    assert list(tmp_path.iterdir()) == []
