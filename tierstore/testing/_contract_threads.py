# SPDX-License-Identifier: Apache-2.0
"""The contract suite, part 2: several threads."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest

from tierstore.abc import Store
from tierstore.testing._contract_base import (
    ContractBase,
    applies_if,
    check_frames,
    get_or_none,
    make_frame,
    random_len,
)

__all__ = ["ThreadContract"]

_JOIN_S = 60


def run_threads(*bodies: Callable[[], None]) -> None:
    """Run each in a thread, from one starting line; re-raise what the first one raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(bodies))

    def guarded(body: Callable[[], None]) -> None:
        try:
            barrier.wait(_JOIN_S)
            body()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_JOIN_S)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


class _Register:
    """One key as a linearisable register: a get must see a version between the last put that had
    returned when it began and the last that had begun when it returned."""

    NR_VERSIONS = 150

    def __init__(self, key: int, len_max: int) -> None:
        rng = random.Random(key)
        self.key = key
        self.frames = [
            make_frame(key, version, random_len(rng, len_max))
            for version in range(self.NR_VERSIONS)
        ]
        self.versions = {frame: version for version, frame in enumerate(self.frames)}
        self.nr_begun = self.nr_done = 0

    def write(self, store: Store) -> None:
        for version, frame in enumerate(self.frames):
            self.nr_begun = version + 1
            assert store.put([(self.key, frame)]) == [None]
            self.nr_done = version + 1

    def read(self, store: Store) -> None:
        seen = -1
        while self.nr_done < self.NR_VERSIONS:
            done_before = self.nr_done
            frame = get_or_none(store, self.key)
            begun_after = self.nr_begun
            if frame is None:
                assert done_before == 0, "a stored frame is not found"
                continue
            assert frame in self.versions, "a frame that was never put"
            version = self.versions[frame]
            assert done_before - 1 <= version < begun_after, "too old, or not yet put"
            assert version >= seen, "time runs backwards"
            seen = version


class ThreadContract(ContractBase):
    """Puts, gets, deletes and maintenance at the same time."""

    @applies_if("can_overwrite_beside_gets")
    def test_put_and_get_of_one_key_are_linearisable(self, store: Store) -> None:
        registers = [_Register(key, 20000) for key in (1, 2)]
        run_threads(
            *(lambda r=r: r.write(store) for r in registers),
            *(lambda r=r: r.read(store) for r in registers for _ in range(2)),
        )
        check_frames(store, {r.key: r.frames[-1] for r in registers}, (1, 2))

    def test_many_readers(self, store: Store) -> None:
        frames = {key: make_frame(key, 0, 500 + 97 * key) for key in range(64)}
        assert store.put(list(frames.items())) == [None] * len(frames)

        def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(100):
                key = rng.randrange(70)
                assert get_or_none(store, key) == frames.get(key)

        run_threads(*(lambda seed=seed: read(seed) for seed in range(12)))

    def test_maintain_beside_everything_else(self, store: Store) -> None:
        """Each writer owns its keys and checks them; another thread keeps compacting."""
        is_over = threading.Event()

        def write(first_key: int) -> None:
            rng = random.Random(first_key)
            model: dict[int, bytes] = {}
            for version in range(60):
                keys = rng.sample(range(first_key, first_key + 40), 6)
                frames = [(key, make_frame(key, version, random_len(rng, 30000))) for key in keys]
                for (key, frame), outcome in zip(frames, store.put(frames), strict=True):
                    if outcome is None:
                        model[key] = frame
                gone = rng.sample(range(first_key, first_key + 40), 3)
                store.delete(gone)
                for key in gone:
                    model.pop(key, None)
                check_frames(store, model, keys)
            check_frames(store, model, range(first_key, first_key + 40))

        def write_both() -> None:
            try:
                run_threads(lambda: write(0), lambda: write(100))
            finally:
                is_over.set()

        def maintain() -> None:
            while not is_over.is_set():
                store.maintain()
                stat = store.stat()
                assert stat.used_bytes <= stat.capacity_bytes
                is_over.wait(0.001)

        run_threads(write_both, maintain)

    def test_a_key_that_is_reused_never_shows_its_past(self, store: Store) -> None:
        """delete, then put of the same key, while others churn: no get sees an older frame."""
        is_over = threading.Event()

        def churn() -> None:
            rng = random.Random(9)
            end_s = time.monotonic() + _JOIN_S / 2
            for version in itertools.count():
                if is_over.is_set():
                    return
                if time.monotonic() > end_s:
                    break
                keys = rng.sample(range(1000, 1060), 5)
                store.put([(k, make_frame(k, version, random_len(rng, 20000))) for k in keys])
                store.delete(keys[:2])
            pytest.fail("the other thread is too slow to be tested beside this one")

        def reuse() -> None:
            try:
                for version in range(150):
                    frame = make_frame(1, version, 300 + version * 31)
                    assert store.put([(1, frame)]) == [None]
                    assert store.get(1) == frame
                    store.delete([1])
                    assert get_or_none(store, 1) is None
            finally:
                is_over.set()

        run_threads(churn, reuse)
