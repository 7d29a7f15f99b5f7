# SPDX-License-Identifier: Apache-2.0
"""The contract suite, part 3: open, close, crash, other people's files, failing calls."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tierstore.abc import Store
from tierstore.errors import StoreError, StoreLocked, StoreWrongFile, TierstoreError
from tierstore.testing._contract_base import (
    ContractBase,
    applies_if,
    check_frames,
    get_or_none,
    make_frame,
)
from tierstore.testing.faults import fail_nth, has_hooks

__all__ = ["LifeContract"]

_NTH_MAX = 5000
"""No scenario makes more calls than this."""


def private(path: Path) -> bool:
    """Nobody but the owner can look at it."""
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


class _Model:
    """What each key may hold: one frame, or either of two after a failed call."""

    def __init__(self) -> None:
        self.may_hold: dict[int, set[bytes | None]] = {}

    def put(self, store: Store, frames: dict[int, bytes]) -> None:
        try:
            outcomes = store.put(list(frames.items()))
        except StoreError as error:
            outcomes = [error] * len(frames)
        for (key, frame), outcome in zip(frames.items(), outcomes, strict=True):
            before = self.may_hold.get(key, {None})
            if outcome is None:
                self.may_hold[key] = {frame}
            elif before != {None}:
                self.may_hold[key] = before | {frame}

    def delete(self, store: Store, keys: list[int]) -> None:
        try:
            store.delete(keys)
        except StoreError:
            for key in keys:
                self.may_hold[key] = self.may_hold.get(key, {None}) | {None}
        else:
            for key in keys:
                self.may_hold[key] = {None}

    def get(self, store: Store, key: int) -> None:
        """Under injection: a failure is fine, other bytes are not."""
        try:
            frame = get_or_none(store, key)
        except StoreError:
            return
        self.check(key, frame)

    def check(self, key: int, frame: bytes | None) -> None:
        assert frame in self.may_hold.get(key, {None}), f"frame {key} is not what it may be"

    def check_all(self, store: Store) -> None:
        for key in self.may_hold:
            self.check(key, get_or_none(store, key))


class LifeContract(ContractBase):
    """From open to close and over it."""

    def test_close_drops_everything_unless_asked_to_keep(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as store:
            if store.is_persistent:
                pytest.skip("this store always keeps")
            assert store.put([(1, b"one" * 2000)]) == [None]
        with self.open(tmp_path) as store:
            assert store.stat().nr_frames == 0
            assert get_or_none(store, 1) is None

    @applies_if("can_keep")
    def test_close_keeps_what_it_was_asked_to(self, tmp_path: Path) -> None:
        frames = {key: make_frame(key, 0, 10 + key * 301) for key in range(50)}
        with self.open(tmp_path, keep=True) as store:
            assert store.is_persistent
            assert store.put(list(frames.items())) == [None] * 50
            store.delete([3, 4])
            del frames[3], frames[4]
        for _ in range(2):
            with self.open(tmp_path, keep=True) as store:
                check_frames(store, frames, range(60))
                assert dict(store.scan()) == frames
                assert store.stat().nr_frames == len(frames)
                # And it goes on from there.
                assert store.put([(99, b"more"), (5, b"changed")]) == [None, None]
                frames |= {99: b"more", 5: b"changed"}

    def test_close_twice(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        store.close()
        store.close()

    @applies_if("path_kind")
    def test_a_path_is_opened_once(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as store:
            assert store.put([(1, b"one")]) == [None]
            with pytest.raises(StoreLocked):
                self.open(tmp_path)
            assert store.get(1) == b"one"

    @applies_if("path_kind")
    def test_files_are_private(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as store:
            assert store.put([(1, b"secret")]) == [None]
            path = tmp_path / "store"
            made = [path, *path.rglob("*")] if path.is_dir() else [path]
            assert [str(p) for p in made if p.exists() and not private(p)] == []

    @applies_if("path_kind")
    def test_what_is_not_ours_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        theirs = path
        if self.path_kind == "folder":
            path.mkdir()
            theirs = path / "data.mdb"
        theirs.write_bytes(b"somebody's work" * 5000)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(StoreWrongFile) as caught:
            self.open(tmp_path)
        assert str(path) in str(caught.value)
        assert theirs.read_bytes() == b"somebody's work" * 5000
        assert sorted(tmp_path.rglob("*")) == before

    @applies_if("path_kind")
    def test_what_a_crash_left_is_reclaimed(self, tmp_path: Path) -> None:
        for keep in {False, self.can_keep}:
            child = os.fork()
            if child == 0:
                # In the child only _exit: it must not run the parent's clean-up.
                try:
                    store = self.open(tmp_path, keep=keep)
                    stored = store.put([(k, make_frame(k, 0, 9000)) for k in range(50)])
                    os._exit(0 if stored == [None] * 50 else 1)
                except BaseException:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with self.open(tmp_path, keep=keep) as store:
                assert store.stat().nr_frames == 0
                assert get_or_none(store, 1) is None
                assert store.put([(1, b"anew")]) == [None]
                assert store.get(1) == b"anew"
                store.delete([1])

    # ---- Every call fails once --------------------------------------------------------------

    def _scenario(self, open_store: Callable[[], Store], model: _Model) -> Store | None:
        """Some of everything.  Returns the store, open, or ``None`` if it could not be opened."""
        try:
            store = open_store()
        except TierstoreError:
            return None
        model.put(store, {key: make_frame(key, 0, 200 + 900 * key) for key in range(8)})
        model.get(store, 3)
        model.put(store, {3: make_frame(3, 1, 70000), 20: make_frame(20, 0, 50)})
        model.get(store, 3)
        model.delete(store, [0, 1, 20])
        for step in (store.maintain, store.stat):
            try:
                step()
            except StoreError:
                continue
        model.put(store, {1: make_frame(1, 2, 3000)})
        model.get(store, 1)
        return store

    @applies_if("injects")
    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ENOMEM])
    def test_any_one_call_may_fail(self, tmp_path: Path, error: int) -> None:
        """Fail the first, second, ... Nth call until a run passes untouched: nothing is lost."""
        if not has_hooks():
            pytest.skip("the core was built without -Dhooks=true")
        for nth in range(1, _NTH_MAX):
            model = _Model()
            with fail_nth(nth, error=error) as injection:
                store = self._scenario(lambda: self.open(tmp_path), model)
            if store is None:
                store = self.open(tmp_path)
                assert store.stat().nr_frames == 0, "a failed open left something behind"
            model.check_all(store)
            model.put(store, {2: b"still alive"})
            assert store.get(2) == b"still alive"
            store.close()
            if injection.nr_failed == 0:
                assert injection.nr_calls > 10, "nothing was made to fail"
                return
        pytest.fail(f"more than {_NTH_MAX} calls")
