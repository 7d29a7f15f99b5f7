# SPDX-License-Identifier: Apache-2.0
"""The contract suite, part 1: one thread, an open store."""

from __future__ import annotations

import random

import pytest

from tierstore.abc import Store
from tierstore.errors import StoreFull, StoreNotFound
from tierstore.testing._contract_base import (
    ContractBase,
    check_frames,
    get_or_none,
    make_frame,
    random_len,
)

__all__ = ["BasicContract"]


def put_all(store: Store, frames: dict[int, bytes]) -> None:
    """Every frame is stored, in one batch."""
    outcomes = store.put(list(frames.items()))
    assert outcomes == [None] * len(frames)


def fill(store: Store, len_bytes: int, key: int = 0) -> dict[int, bytes]:
    """Put frames of one length under ascending keys until the store is full."""
    model: dict[int, bytes] = {}
    while True:
        items = [(key + i, make_frame(key + i, 0, len_bytes)) for i in range(16)]
        outcomes = store.put(items)
        for (stored, frame), outcome in zip(items, outcomes, strict=True):
            if outcome is None:
                model[stored] = frame
            else:
                assert isinstance(outcome, StoreFull), repr(outcome)
        if any(outcomes):
            return model
        key += 16


def maintain_all(store: Store) -> None:
    """Until there is nothing more to do, which must come."""
    for _ in range(10_000):
        if not store.maintain():
            return
    pytest.fail("maintain always finds more to do")


class BasicContract(ContractBase):
    """Bytes, keys, batches, limits, numbers."""

    def test_get_after_put_returns_the_same_bytes(self, store: Store) -> None:
        """At every length from 1 to the longest, edges of pages and blocks included."""
        lengths = {1, 2, 7, 8, 15, 16, 17, 63, 64, 100, 512, 1000, 2000, 2020, 2048, 3000}
        for edge in (4096, 8192, 16384, 65536, 131072):
            lengths |= {edge - 40, edge - 17, edge - 16, edge - 15, edge - 1, edge, edge + 1}
        lengths |= {self.frame_bytes_max - 1, self.frame_bytes_max}
        frames = {
            key: make_frame(key, 0, len_bytes)
            for key, len_bytes in enumerate(sorted(lengths))
            if len_bytes <= self.frame_bytes_max
        }
        put_all(store, frames)
        check_frames(store, frames, reversed(list(frames)))
        assert dict(store.scan()) == frames

    def test_buffers_of_all_kinds_are_taken_and_copied(self, store: Store) -> None:
        """The caller may do with its buffer what it likes once put has returned."""
        buffer = bytearray(b"a" * 5000)
        assert store.put([(1, buffer), (2, memoryview(buffer)[:10])]) == [None, None]
        buffer[:] = b"b" * 5000
        assert store.get(1) == b"a" * 5000
        assert store.get(2) == b"a" * 10

    def test_an_unknown_key_is_not_found_and_never_zeros(self, store: Store) -> None:
        for key in (0, 1, 12345, (1 << 27) - 1):
            with pytest.raises(StoreNotFound):
                store.get(key)
        put_all(store, {7: b"seven"})
        for key in (6, 8):
            with pytest.raises(StoreNotFound):
                store.get(key)

    def test_far_keys(self, store: Store) -> None:
        """The largest frame id, and the dictionaries' keys above it."""
        frames = {key: make_frame(key, 0, 500) for key in ((1 << 27) - 1, (1 << 27) + 3)}
        put_all(store, frames)
        check_frames(store, frames, frames)

    def test_put_replaces_longer_and_shorter(self, store: Store) -> None:
        for version, len_bytes in enumerate((3000, 100, 4000, 4001, 9000, 1, self.frame_bytes_max)):
            frame = make_frame(5, version, len_bytes)
            put_all(store, {5: frame, 6: frame[:1]})
            assert store.get(5) == frame
        assert store.stat().nr_frames == 2

    def test_delete_is_idempotent(self, store: Store) -> None:
        put_all(store, {1: b"one", 2: b"two"})
        store.delete([1, 99, 1])
        store.delete([1])
        store.delete([])
        assert get_or_none(store, 1) is None
        assert store.get(2) == b"two"

    def test_a_deleted_key_can_be_used_again(self, store: Store) -> None:
        put_all(store, {3: b"old" * 1000})
        store.delete([3])
        put_all(store, {3: b"new"})
        assert store.get(3) == b"new"

    def test_an_empty_batch(self, store: Store) -> None:
        assert store.put([]) == []

    def test_a_bad_item_in_a_batch_is_reported_alone(self, store: Store) -> None:
        put_all(store, {2: b"before"})
        bad = b"x" * (self.frame_bytes_max + 1)
        outcomes = store.put([(1, b"one"), (2, bad), (3, b"three"), (4, b"")])
        assert outcomes[0] is None and outcomes[2] is None
        assert outcomes[1] is not None and outcomes[1].status < 0
        assert outcomes[3] is not None
        check_frames(store, {1: b"one", 2: b"before", 3: b"three"}, range(6))

    def test_a_full_store_refuses_loses_nothing_and_recovers(self, store: Store) -> None:
        for len_bytes in (40000, 1500, 4200):
            model = fill(store, len_bytes)
            assert len(model) * len_bytes > self.size_bytes // 3, "full too early"
            check_frames(store, model, model)
            # Overwriting needs room, too; refused or not, nothing is lost.
            for key in list(model)[:: len(model) // 8]:
                frame = make_frame(key, 1, len_bytes + 50)
                if store.put([(key, frame)]) == [None]:
                    model[key] = frame
            check_frames(store, model, model)
            gone = list(model)[::2]
            store.delete(gone)
            for key in gone:
                del model[key]
            maintain_all(store)
            # A quarter of what was deleted fits again, whatever the store's layout wastes.
            for key in gone[::4]:
                model[key] = make_frame(key, 2, len_bytes)
                assert store.put([(key, model[key])]) == [None], "deletes make room"
            check_frames(store, model, {*model, *gone})
            store.delete(list(model))
            assert store.stat().nr_frames == 0
            maintain_all(store)

    def test_the_size_is_a_limit(self, store: Store) -> None:
        model = fill(store, 30000)
        rng = random.Random(1)
        for version in range(200):
            key = rng.choice(list(model))
            frame = make_frame(key, version, random_len(rng, 60000))
            store.delete([key])
            model.pop(key)
            if store.put([(key, frame)]) == [None]:
                model[key] = frame
            store.maintain()
            stat = store.stat()
            assert stat.used_bytes <= stat.capacity_bytes <= self.size_bytes
        check_frames(store, model, model)

    def test_stat_adds_up(self, store: Store) -> None:
        empty = store.stat()
        assert (empty.nr_frames, empty.frame_bytes) == (0, 0)
        frames = {key: make_frame(key, 0, 100 + 700 * key) for key in range(20)}
        total = sum(map(len, frames.values()))
        put_all(store, frames)
        full = store.stat()
        assert full.nr_frames == 20
        assert total <= full.frame_bytes <= total + 20 * self.slack_bytes
        assert full.frame_bytes <= full.used_bytes <= full.capacity_bytes
        assert full.written_bytes - empty.written_bytes == total
        put_all(store, {0: b"x" * 50})
        assert store.stat().nr_frames == 20
        assert store.stat().frame_bytes <= full.frame_bytes
        store.delete(list(frames))
        after = store.stat()
        assert (after.nr_frames, after.frame_bytes, after.nr_errors) == (0, 0, 0)

    def test_churn_against_a_dict(self, store: Store) -> None:
        rng = random.Random(20)
        model: dict[int, bytes] = {}
        for version in range(400):
            keys = rng.sample(range(300), rng.randint(1, 12))
            if rng.random() < 0.3:
                store.delete(keys)
                for key in keys:
                    model.pop(key, None)
            else:
                items = [
                    (key, make_frame(key, version, random_len(rng, self.frame_bytes_max)))
                    for key in keys
                ]
                for (key, frame), outcome in zip(items, store.put(items), strict=True):
                    if outcome is None:
                        model[key] = frame
                    else:
                        assert isinstance(outcome, StoreFull), repr(outcome)
            if rng.random() < 0.2:
                store.maintain()
            check_frames(store, model, rng.sample(range(300), 4))
            assert store.stat().nr_frames == len(model)
        check_frames(store, model, range(300))
