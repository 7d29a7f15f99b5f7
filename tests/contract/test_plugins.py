# SPDX-License-Identifier: Apache-2.0
"""Names of stores, wrappers, codes and exceptions, and what crosses between C and Python."""

from __future__ import annotations

import doctest
import errno
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")

import tierstore.abc
from tierstore import errors
from tierstore._native import ffi, lib
from tierstore.abc import Buffer, Outcome, Store, StoreStat
from tierstore.errors import (
    ConfigError,
    Status,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    check_error,
)
from tierstore.stores import bridge, registry
from tierstore.stores.native import NativeStore, RamNative
from tierstore.testing import FaultStore, StatsStore, VerifyStore

SIZE_BYTES = 8 << 20


class OddStore(Store):
    """Does what a test tells it to."""

    kind = "odd"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.frames: dict[int, bytes] = {}
        self.on_put: Callable[[], Any] = lambda: None
        self.on_get: Callable[[], Any] = lambda: None
        self.on_other: Callable[[], Any] = lambda: None
        self.lent: list[Buffer] = []

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        outcomes = self.on_put()
        self.frames |= {key: bytes(data) for key, data in items}
        self.lent = [data for _, data in items]
        return outcomes if outcomes is not None else [None] * len(items)

    def get(self, key: int) -> bytes:
        spoiled = self.on_get()
        if spoiled is not None:
            assert isinstance(spoiled, bytes)
            return spoiled
        try:
            return self.frames[key]
        except KeyError:
            raise StoreNotFound from None

    def delete(self, keys: Sequence[int]) -> None:
        self.on_other()
        for key in keys:
            self.frames.pop(key, None)

    def maintain(self) -> bool:
        self.on_other()
        return False

    def stat(self) -> StoreStat:
        self.on_other()
        return StoreStat(capacity_bytes=self.size_bytes, nr_frames=len(self.frames))

    def scan(self) -> Iterator[tuple[int, bytes]]:
        yield from self.frames.items()

    def close(self) -> None:
        self.on_other()


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.fixture
def odd() -> Iterator[tuple[NativeStore, bridge.BoundStore, OddStore]]:
    """A store in Python seen through C, its binding, and itself."""
    ops, user, bound = bridge.bind(OddStore)
    with NativeStore(name="odd", size_bytes=SIZE_BYTES, ops=ops, user=user) as native:
        assert isinstance(bound.store, OddStore)
        yield native, bound, bound.store
    assert bound.store is None


# ---- Exceptions across C -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cls", "status"),
    [
        (OSError(errno.EIO, "disk"), StoreError, -errno.EIO),
        (OSError(errno.ENOSPC, "full"), StoreFull, Status.EFULL),
        (StoreCorrupt("bad"), StoreCorrupt, Status.ECORRUPT),
        (RuntimeError("a bug"), StoreError, -errno.EIO),
        (MemoryError(), StoreError, -errno.ENOMEM),
        (KeyboardInterrupt(), StoreError, -errno.EIO),
    ],
)
def test_exceptions_become_codes_and_are_not_lost(
    odd: tuple[NativeStore, bridge.BoundStore, OddStore],
    error: BaseException,
    cls: type[StoreError],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    native, bound, store = odd
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("on_get", lambda: native.get(1)),
        ("on_other", lambda: native.delete([1])),
        ("on_other", native.stat),
        ("on_other", native.maintain),
    ]
    for where, call in calls:
        setattr(store, where, raising(error))
        with caplog.at_level(logging.ERROR), pytest.raises(cls) as caught:
            call()
        setattr(store, where, lambda: None)
        assert caught.value.status == status
        assert bound.failures.pop() is error
        assert caplog.records[-1].exc_info is not None
    store.on_put = raising(error)
    (outcome,) = native.put([(1, b"x")])
    store.on_put = lambda: None
    assert isinstance(outcome, cls) and outcome.status == status
    with pytest.raises(type(error)):
        bound.raise_failure()
    bound.raise_failure()


def test_ordinary_answers_are_no_failures(
    odd: tuple[NativeStore, bridge.BoundStore, OddStore], caplog: pytest.LogCaptureFixture
) -> None:
    native, bound, store = odd
    with pytest.raises(StoreNotFound):
        native.get(5)
    store.on_put = lambda: [StoreFull(), None]
    assert [type(o) for o in native.put([(1, b"a"), (2, b"b")])] == [StoreFull, type(None)]
    assert not bound.failures and not caplog.records


def test_a_put_that_answers_nonsense_acknowledges_nothing(
    odd: tuple[NativeStore, bridge.BoundStore, OddStore],
) -> None:
    native, bound, store = odd
    for nonsense in ([], [None] * 3, "ok", 7):
        store.on_put = lambda answer=nonsense: answer  # type: ignore[misc]
        assert all(native.put([(1, b"a"), (2, b"b")])), nonsense
    assert len(bound.failures) == 4


def test_a_get_of_more_than_a_frame_is_corrupt(
    odd: tuple[NativeStore, bridge.BoundStore, OddStore],
) -> None:
    native, _, store = odd
    store.on_get = lambda: b"x" * (native.frame_bytes_max + 1)
    with pytest.raises(StoreCorrupt):
        native.get(1)


def test_what_put_lends_ends_with_the_call(
    odd: tuple[NativeStore, bridge.BoundStore, OddStore],
) -> None:
    native, _, store = odd
    assert native.put([(1, b"hello")]) == [None]
    with pytest.raises(ValueError, match="released"):
        bytes(store.lent[0])
    assert native.get(1) == b"hello"


def test_a_failed_open_says_why_and_leaves_nothing() -> None:
    def factory(**config: Any) -> Store:
        raise ConfigError("the colour is missing; add colour=")

    ops, user, bound = bridge.bind(factory)
    with pytest.raises(ConfigError, match="colour is missing"):
        NativeStore(name="t", size_bytes=SIZE_BYTES, ops=ops, user=user)
    assert bound.store is None
    with pytest.raises(ConfigError):
        bound.raise_failure()


def test_the_example_of_the_base_class_runs() -> None:
    """What a plug-in author copies first."""
    result = doctest.testmod(tierstore.abc)
    assert result.attempted >= 4 and result.failed == 0


# ---- Names -------------------------------------------------------------------------------------


def test_an_unknown_store_lists_the_choices() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.find_store("flie")
    for name in ("ram", "file", "lmdb", "python-lmdb"):
        assert name in str(caught.value) and name in registry.store_names()
    for wrong in ("no.such.module:Store", "tierstore.abc:StoreStat", "tierstore.abc:Nothing"):
        with pytest.raises(ConfigError):
            registry.find_store(wrong)


def test_an_entry_point_adds_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As installed by a package: a .dist-info on the path is all that it takes."""
    from tierstore import _plugins

    info = tmp_path / "someones_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tierstore.stores]\nsomeones = someones_store:Someones\n"
    )
    (tmp_path / "someones_store.py").write_text(
        "from tierstore.stores.native import RamNative\n\n\nclass Someones(RamNative):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    _plugins._entry_points.cache_clear()
    try:
        assert "someones" in registry.store_names()
        with registry.find_store("someones")(name="t", size_bytes=SIZE_BYTES) as store:
            assert store.put([(1, b"a")]) == [None]
    finally:
        monkeypatch.undo()
        _plugins._entry_points.cache_clear()


# ---- Codes -------------------------------------------------------------------------------------


def test_codes_are_those_of_the_header(root_dir: Path) -> None:
    header = (root_dir / "native/include/tierstore/tierstore.h").read_text()
    in_header = {n: int(v) for n, v in re.findall(r"TS_(E[A-Z]+) = (-\d+),", header)}
    assert in_header == {status.name: int(status) for status in Status}


def test_every_code_has_an_exception_that_carries_it() -> None:
    for status in Status:
        error = errors.error_from_status(status)
        assert error.status == status and str(error)
        assert errors.status_of(error) == status
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.status, str(copy)) == (type(error), status, str(error))
    assert errors.error_from_status(Status.EPERMISSION).hint  # type: ignore[attr-defined]


def test_check_error_carries_the_text_of_c() -> None:
    assert check_error(5) == 5
    lib.ts_set_error(Status.EFULL, b"put tier0: no room; make it larger")
    with pytest.raises(StoreFull, match="opening: put tier0: no room; make it larger"):
        check_error(int(Status.EFULL), "opening")
    with pytest.raises(StoreError):
        check_error(-errno.EIO, default=StoreError)
    assert bytes(ffi.string(lib.ts_strerror(-errno.EIO))) == b"Input/output error"


# ---- Wrappers ----------------------------------------------------------------------------------


def ram(wrap: str = "") -> RamNative:
    return RamNative(name="t", size_bytes=SIZE_BYTES, wrap=wrap)


def test_verify_catches_a_store_that_spoils_frames() -> None:
    """In C and in Python: the bytes of a get that was spoiled are never handed out."""
    with ram("verify,fault:get=1,error=corrupt") as store:
        assert store.put([(1, b"a" * 500)]) == [None]
        with pytest.raises(StoreCorrupt):
            store.get(1)
    with VerifyStore(OddStore(name="t", size_bytes=SIZE_BYTES)) as verified:
        inner = verified.inner
        assert isinstance(inner, OddStore)
        assert verified.put([(1, b"right")]) == [None]
        inner.frames[1] = b"wrong"
        with pytest.raises(StoreCorrupt):
            verified.get(1)
        del inner.frames[1]
        with pytest.raises(StoreCorrupt, match="gone"):
            verified.get(1)
        verified.delete([1])
        with pytest.raises(StoreNotFound):
            verified.get(1)


def test_fault_fails_the_nth_and_by_chance() -> None:
    with FaultStore(ram(), nth=2) as store:
        outcomes = store.put([(1, b"a"), (2, b"b"), (3, b"c")])
        assert [outcome is None for outcome in outcomes] == [True, False, True]
        assert store.get(3) == b"c" and store.nr_failed == 1
        with pytest.raises(StoreNotFound):
            store.get(2)
    for seed in (1, 1, 2):
        with FaultStore(ram(), put=0.3, seed=seed, error=StoreFull) as store:
            outcomes = store.put([(key, b"x") for key in range(200)])
            assert 30 < store.nr_failed < 90
            assert sum(outcome is not None for outcome in outcomes) == store.nr_failed
            store.stop()
            assert store.put([(key, b"x") for key in range(200)]) == [None] * 200


def test_stats_counts_frames_bytes_and_failures() -> None:
    with StatsStore(ram()) as store:
        store.put([(1, b"abc"), (2, b"x" * (store.frame_bytes_max + 1))])
        store.get(1)
        with pytest.raises(StoreNotFound):
            store.get(9)
        store.delete([1, 2])
        calls = store.calls()
    assert (calls.nr_puts, calls.nr_put_failures, calls.put_bytes) == (1, 1, 3)
    assert (calls.nr_gets, calls.nr_get_failures, calls.get_bytes) == (1, 1, 3)
    assert calls.nr_deletes == 2
    assert min(calls.put_s, calls.get_s, calls.delete_s) > 0
