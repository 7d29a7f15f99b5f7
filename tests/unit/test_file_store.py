# SPDX-License-Identifier: Apache-2.0
"""The file store's format, and that the C store and its Python twin read what the other wrote."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tierstore.abc import Store
from tierstore.errors import (
    ConfigError,
    StoreCorrupt,
    StoreLocked,
    StoreNotFound,
    StoreVersion,
    StoreWrongFile,
    UsageError,
)
from tierstore.stores import _file_format as fmt
from tierstore.stores.file import FileStore

SIZE = 8 << 20
MIB = 1 << 20


def open_python(path: Path, **options: str) -> FileStore:
    return FileStore(name="python", size_bytes=SIZE, path=str(path), options=options)


def open_native(path: Path, **options: str) -> Store:
    pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")
    from tierstore.stores.native import FileNative

    return FileNative(name="native", size_bytes=SIZE, path=str(path), options=options)


OPENERS = [open_python, open_native]


def frame(key: int, version: int, length: int) -> bytes:
    return random.Random(key * 1000 + version).randbytes(length)


def churn(store: Store, model: dict[int, bytes], seed: int) -> None:
    """Puts, replaces and deletes, several times the capacity's worth of them."""
    rng = random.Random(seed)
    for version in range(150):
        items = [
            (key, frame(key, version, rng.choice([50, 900, 2500, 4080, 4081, 30000])))
            for key in rng.sample(range(200), 20)
        ]
        for (key, data), outcome in zip(items, store.put(items), strict=True):
            assert outcome is None
            model[key] = data
        gone = rng.sample(range(200), 10)
        store.delete(gone)
        for key in gone:
            model.pop(key, None)
        store.maintain()
    assert store.stat().written_bytes > 2 * SIZE


@pytest.mark.parametrize("reader", OPENERS)
@pytest.mark.parametrize("writer", OPENERS)
def test_each_reads_what_the_other_kept(
    tmp_path: Path, writer: Callable[..., Store], reader: Callable[..., Store]
) -> None:
    path, model = tmp_path / "store", dict[int, bytes]()
    for turn in range(2):
        with writer(path, keep="1") as store:
            assert dict(store.scan()) == model
            churn(store, model, turn)
        with reader(path, keep="1") as store:
            assert store.stat().nr_frames == len(model)
            for key in range(200):
                if key in model:
                    assert store.get(key) == model[key]
                else:
                    with pytest.raises(StoreNotFound):
                        store.get(key)
            churn(store, model, turn + 10)
    with open_python(path, readonly="1") as store:
        assert store.is_clean
        assert dict(store.scan()) == model


@pytest.mark.parametrize("writer", OPENERS)
def test_after_a_crash_the_newest_frames_can_be_read(
    tmp_path: Path, writer: Callable[..., Store]
) -> None:
    path, (out, into) = tmp_path / "store", os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store = writer(path)
            for version in range(40):
                items = [(key, frame(key, version, 500 + 77 * key)) for key in range(50)]
                if store.put(items) != [None] * 50:
                    os._exit(1)
            os.write(into, b"x")
            signal.pause()
        finally:
            os._exit(2)
    assert os.read(out, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open_python(path, readonly="1") as store:
        assert not store.is_clean
        assert dict(store.scan()) == {key: frame(key, 39, 500 + 77 * key) for key in range(50)}
    for opener in OPENERS:
        with opener(path, keep="1") as store:
            assert store.stat().nr_frames == 0
            store.put([(1, b"anew")])
        with opener(path, keep="1") as store:
            assert dict(store.scan()) == {1: b"anew"}
        with opener(path, init="1") as store:
            assert store.stat().nr_frames == 0


@pytest.mark.parametrize("writer", OPENERS)
def test_the_bytes_are_those_of_the_format(tmp_path: Path, writer: Callable[..., Store]) -> None:
    """With offsets of its own, as FORMAT.md has them."""
    path = tmp_path / "store"
    with writer(path, keep="1") as store:
        assert store.put([(0x01020304, b"hello"), (7, b"dead"), (8, b"x" * 5000)]) == [None] * 3
        store.delete([7])
    data = path.read_bytes()
    assert len(data) == SIZE and path.stat().st_mode & 0o777 == 0o600
    assert data[:8] == b"TSFILE\r\n"
    assert struct.unpack_from("<IIIIQ", data, 8) == (1, 4096, MIB, 16, SIZE)
    magic, flags, checksum = struct.unpack_from("<IIQ", data, 48)
    assert magic != 0 and flags & 1
    assert checksum == xxhash.xxh3_64_intdigest(data[:56])
    assert not any(data[64:4096])
    # The longest comes first, at the log's beginning; the short ones share its last block.
    head = struct.unpack_from("<IIII", data, 4096)
    assert (head[0], head[2], head[3]) == (magic, 8, 5000)
    assert data[4096 + 16 : 4096 + 16 + 5000] == b"x" * 5000
    second = struct.unpack_from("<IIII", data, 4096 + 5024)
    assert second == (magic, head[1], 0x01020304, 5)
    assert data[4096 + 5024 + 16 :][:16] == b"hello".ljust(16, b"\0")
    third = struct.unpack_from("<IIII", data, 4096 + 5024 + 32)
    assert third == (magic, head[1], 0xFFFFFFFF, 4)


@pytest.mark.parametrize("second", OPENERS)
@pytest.mark.parametrize("first", OPENERS)
def test_one_path_has_one_writer(
    tmp_path: Path, first: Callable[..., Store], second: Callable[..., Store]
) -> None:
    path = tmp_path / "store"
    with first(path) as store:
        with pytest.raises(StoreLocked, match=str(path)):
            second(path)
        assert store.put([(1, b"one")]) == [None]
    assert not path.exists()


def test_readers_share_a_path(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with open_python(path, keep="1") as store:
        store.put([(1, b"one")])
    before = path.read_bytes()
    with open_python(path, readonly="1") as left, open_python(path, readonly="1") as right:
        assert left.get(1) == right.get(1) == b"one"
        with pytest.raises(UsageError):
            left.put([(2, b"two")])
        with pytest.raises(StoreLocked):
            open_python(path, keep="1")
    assert path.read_bytes() == before


@pytest.mark.parametrize("opener", OPENERS)
def test_damage_is_told(tmp_path: Path, opener: Callable[..., Store]) -> None:
    path = tmp_path / "store"
    with opener(path, keep="1") as store:
        store.put([(1, b"one")])
        with path.open("r+b") as file:
            file.seek(4096 + 8)
            file.write(b"\x02")  # it says that it is frame 2
        with pytest.raises(StoreCorrupt):
            store.get(1)
        assert store.stat().nr_errors == 1
    for offset, error in ((40, StoreCorrupt), (8, StoreVersion), (0, StoreWrongFile)):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\x55")
        with pytest.raises(error, match=str(path)):
            opener(path, keep="1")


@pytest.mark.parametrize("opener", OPENERS)
def test_options_are_checked(tmp_path: Path, opener: Callable[..., Store]) -> None:
    path = tmp_path / "store"
    for options in ({"keep": "yes"}, {"colour": "red"}):
        with pytest.raises(ConfigError):
            opener(path, **options)
    assert not path.exists()
    with opener(path, keep="1") as store:
        store.put([(1, b"one")])
    with pytest.raises(StoreWrongFile, match="keep=1"):
        opener(path)
    with opener(path, keep="1") as store:
        assert store.get(1) == b"one"


lengths = st.one_of(st.integers(1, 4200), st.integers(1, 70000))


@settings(max_examples=60, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 1))
def test_what_is_packed_is_found(sizes: list[int], room_blocks: int, number: int) -> None:
    """No overlap, no short record over a block's edge, nothing beyond the room, nothing lost."""
    layout = fmt.Super.create(SIZE)
    items = [(key, frame(key, 0, size)) for key, size in enumerate(sizes)]
    packed = fmt.pack(layout, 5, items, range(len(items)), room_blocks)
    assert len(packed.data) % fmt.BLOCK == 0 and len(packed.data) <= room_blocks * fmt.BLOCK
    base = fmt.first_block(number) * fmt.BLOCK
    image = (bytes(base) + bytes(packed.data)).ljust(fmt.SEGMENT, b"\0")
    found = {record.key: record for record in fmt.walk(layout, image, number)}
    assert found.keys() == packed.spots.keys()
    end = 0
    for record in sorted(found.values(), key=lambda record: record.at):
        assert record.at >= end
        end = record.at + fmt.HEAD + record.len_bytes
        data = items[record.key][1]
        assert image[record.at + fmt.HEAD : end] == data
        if fmt.HEAD + len(data) <= fmt.BLOCK:
            assert record.at // fmt.BLOCK == (end - 1) // fmt.BLOCK
    left = [size for key, size in enumerate(sizes) if key not in packed.spots]
    # Whatever did not fit would not have fitted into an empty block at the end either.
    if left and min(left) + fmt.HEAD <= fmt.BLOCK:
        assert len(packed.data) == room_blocks * fmt.BLOCK


@given(st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 31) - 1))
def test_sequence_numbers_wrap(sequence: int, step: int) -> None:
    later = (sequence + step) % (1 << 32)
    assert fmt.newer(later, sequence)
    assert not fmt.newer(sequence, later)
    assert not fmt.newer(sequence, sequence)
