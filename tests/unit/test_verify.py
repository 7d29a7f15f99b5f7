# SPDX-License-Identifier: Apache-2.0
"""Offline verification: clean stores, every kind of damage, and errors that say what to do."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tierstore.abc import Store
from tierstore.errors import StoreError, StoreLocked, StoreVersion, StoreWrongFile
from tierstore.offline import VerifyProgress, VerifyReport, frames, verify
from tierstore.stores.file import FileStore
from tierstore.stores.lmdb import LmdbStore

SIZE = 32 << 20
STORES: dict[str, Callable[..., Store]] = {"file": FileStore, "lmdb": LmdbStore}

SOURCE = b"".join(
    path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
)
PAGES = [SOURCE[i : i + 4096] for i in range(0, 2 << 20, 4096)]


@pytest.fixture(scope="module")
def dictionary() -> bytes:
    """A real ZDICT dictionary."""
    return zstandard.train_dictionary(32 * 1024, [*PAGES]).as_bytes()


@pytest.fixture(params=sorted(STORES))
def kind(request: pytest.FixtureRequest) -> str:
    """Each store in turn."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "store"


def opened(kind: str, path: Path) -> Store:
    """A store that keeps its frames."""
    return STORES[kind](name="t", size_bytes=SIZE, path=str(path), options={"keep": "1"})


def fill(store: Store, dictionary: bytes, changed: dict[int, bytes] | None = None) -> None:
    """64 frames of four kinds, and their dictionary; ``changed`` replaces some by key."""
    items = {frames.KEY_DICT + 2: frames.encode_dictionary(2, dictionary)}
    for key in range(64):
        codec = (frames.RAW, frames.LZ4, frames.ZSTD, frames.ZSTD)[key % 4]
        items[key] = frames.encode(
            PAGES[key] + PAGES[key + 1],
            codec=codec,
            region=5,
            base_page=2 * key,
            dictionary=(2, dictionary) if key % 4 == 3 else None,
        )
    items |= changed or {}
    for key, frame in items.items():
        assert store.put([(key, frame)]) == [None]


def verified(kind: str, path: Path, fill_: Callable[[Store], None]) -> VerifyReport:
    """Fills a store, closes it, and verifies it."""
    with opened(kind, path) as store:
        fill_(store)
    return verify(path)


def test_a_clean_store(kind: str, path: Path, dictionary: bytes) -> None:
    """Everything is counted, by codec; progress ends at the total; JSON takes it."""
    seen: list[VerifyProgress] = []
    with opened(kind, path) as store:
        fill(store, dictionary)
    report = verify(path, progress=seen.append)
    assert report.is_ok
    assert report.bad == []
    assert (report.store, report.path) == (kind, str(path))
    assert (report.nr_frames, report.nr_pages, report.nr_dictionaries) == (65, 128, 1)
    assert report.raw_bytes == 128 * 4096
    assert sum(count.stored_bytes for count in report.codecs.values()) == report.stored_bytes
    assert {name: count.nr_frames for name, count in report.codecs.items()} == {
        "raw": 16,
        "lz4": 16,
        "zstd": 32,
        "dictionary": 1,
    }
    assert report.codecs["raw"].stored_bytes == 16 * (8192 + frames.HEAD_BYTES)
    assert (seen[-1].nr_frames, seen[-1].total, seen[-1].nr_bad) == (65, 65, 0)
    assert json.loads(json.dumps(report.to_json()))["is_ok"] is True
    # Verification changed nothing: it can be had again.
    assert verify(path).nr_frames == 65


def test_an_empty_store(kind: str, path: Path) -> None:
    """Nothing to complain about."""
    report = verified(kind, path, lambda store: None)
    assert report.is_ok
    assert report.nr_frames == 0


def test_bad_frames_are_named(kind: str, path: Path, dictionary: bytes) -> None:
    """By key, region, page and reason; the good ones still count."""
    good = frames.encode(PAGES[0], codec=frames.ZSTD, region=9, base_page=77, page_bits=1 << 3)
    flipped = good[:60] + bytes([good[60] ^ 0xFF]) + good[61:]
    newer = good[:4] + b"\x02" + good[5:]
    changed = {
        3: flipped,
        4: newer,
        10: b"not a frame at all, but stored under a frame's key",
        11: frames.encode_dictionary(7, dictionary),
        12: frames.encode(PAGES[0], codec=frames.ZSTD, dictionary=(9, dictionary), region=1),
        frames.KEY_DICT + 3: good,
    }
    report = verified(kind, path, lambda store: fill(store, dictionary, changed))
    bad = {frame.key: frame for frame in report.bad}
    assert set(bad) == set(changed)
    assert report.nr_bad == 6
    assert not report.is_ok
    assert (bad[3].region, bad[3].page, bad[3].nr_pages) == (9, 80, 1)
    assert "version 2" in bad[4].reason
    assert (bad[10].region, bad[10].page) == (None, None)
    assert "magic" in bad[10].reason
    assert f"key {frames.KEY_DICT + 7}" in bad[11].reason
    assert "needs dictionary 9" in bad[12].reason
    assert (bad[12].region, bad[12].page) == (1, 0)
    assert "dictionary's key" in bad[frames.KEY_DICT + 3].reason
    assert report.nr_frames - report.nr_bad == 60


def test_a_damaged_dictionary(kind: str, path: Path, dictionary: bytes) -> None:
    """It is reported itself, and so is every frame that needs it."""
    frame = bytearray(frames.encode_dictionary(2, dictionary))
    frame[1000] ^= 1
    changed = {frames.KEY_DICT + 2: bytes(frame)}
    report = verified(kind, path, lambda store: fill(store, dictionary, changed))
    assert report.nr_bad == 17
    reasons = {frame.key: frame.reason for frame in report.bad}
    assert "checksum" in reasons[frames.KEY_DICT + 2]
    assert "missing or damaged" in reasons[3]


def test_the_list_of_bad_frames_is_bounded(kind: str, path: Path, dictionary: bytes) -> None:
    """The count is not."""
    with opened(kind, path) as store:
        fill(store, dictionary, dict.fromkeys(range(20), b"bad"))
    report = verify(path, bad_max=5)
    assert (len(report.bad), report.nr_bad) == (5, 20)


def test_damage_on_the_medium(kind: str, path: Path, dictionary: bytes) -> None:
    """Bytes of a raw frame change behind the store's back."""
    with opened(kind, path) as store:
        fill(store, dictionary)
    file = path / "data.mdb" if kind == "lmdb" else path
    data = bytearray(file.read_bytes())
    at = data.index(PAGES[8][100:400])
    data[at + 5] ^= 0x10
    file.write_bytes(data)
    report = verify(path)
    assert report.nr_bad >= 1
    assert any((bad.key, bad.region, bad.page) == (8, 5, 16) for bad in report.bad)


def test_after_a_crash(kind: str, path: Path, dictionary: bytes) -> None:
    """A copy of a store in use is what a crash leaves behind."""
    crashed = path.with_name("crashed")
    with opened(kind, path) as store:
        fill(store, dictionary)
        store.delete([1, 2, 3])
        (shutil.copytree if kind == "lmdb" else shutil.copy)(path, crashed)
    report = verify(crashed)
    assert report.is_ok
    assert report.may_hold_deleted == (kind == "file")
    assert report.nr_frames == 62 or (kind == "file" and report.nr_frames == 65)
    assert not verify(path).may_hold_deleted


def test_a_cut_off_medium(kind: str, path: Path, dictionary: bytes) -> None:
    """Half of it is gone: a verdict or an error, never the death of this process."""
    with opened(kind, path) as store:
        fill(store, dictionary)
    file = path / "data.mdb" if kind == "lmdb" else path
    at = file.read_bytes().index(PAGES[8][:1000])
    os.truncate(file, at // 4096 * 4096)
    try:
        report = verify(path)
    except StoreError as error:
        assert str(path) in str(error)
    else:
        assert not report.is_ok


def test_in_use(kind: str, path: Path) -> None:
    """The engine's lock holds; the text says what to do."""
    with opened(kind, path), pytest.raises(StoreLocked, match="close the engine first"):
        verify(path)


def test_nothing_there(path: Path) -> None:
    """With the likely reason."""
    with pytest.raises(StoreError, match="keep=1"):
        verify(path)


def test_foreign_paths(path: Path) -> None:
    """A file, a folder and a pipe that are not ours."""
    path.write_bytes(b"something else\n" * 10000)
    with pytest.raises(StoreWrongFile):
        verify(path)
    path.unlink()
    path.mkdir()
    (path / "letter").write_text("dear")
    with pytest.raises(StoreWrongFile):
        verify(path)
    os.mkfifo(path.with_name("pipe"))
    with pytest.raises(StoreWrongFile, match="neither"):
        verify(path.with_name("pipe"))


@pytest.fixture
def newer(kind: str, path: Path) -> Iterator[Path]:
    """A store of version 2."""
    with opened(kind, path):
        pass
    if kind == "lmdb":
        marker = path / "tierstore-lmdb"
        marker.write_text(marker.read_text().replace(" 1 ", " 2 "))
    else:
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, 8, 2)
        path.write_bytes(data)
    yield path


def test_another_version(newer: Path) -> None:
    """Told apart from damage."""
    with pytest.raises(StoreVersion):
        verify(newer)
