# SPDX-License-Identifier: Apache-2.0
"""Stores in front of stores: stats, delay, fault, verify, for stores written in Python.

Each takes the store it wraps, already open, and closes it.  As a tier::

    bind(lambda **config: VerifyStore(LmdbStore(**config)))
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from tierstore.abc import Buffer, Outcome, Store, StoreStat
from tierstore.errors import StoreCorrupt, StoreError, StoreNotFound

__all__ = ["DelayStore", "FaultStore", "StatsStore", "StoreCalls", "VerifyStore", "WrapperStore"]


class WrapperStore(Store):
    """Passes everything on.  The base of the others, and of your own."""

    kind = "wrapper"

    def __init__(self, inner: Store) -> None:
        super().__init__(
            name=inner.name,
            size_bytes=inner.size_bytes,
            path=inner.path,
            frame_bytes_max=inner.frame_bytes_max,
            options=inner.options,
        )
        self.inner = inner

    @property
    def is_persistent(self) -> bool:
        return self.inner.is_persistent

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        return self.inner.put(items)

    def get(self, key: int) -> bytes:
        return self.inner.get(key)

    def delete(self, keys: Sequence[int]) -> None:
        self.inner.delete(keys)

    def maintain(self) -> bool:
        return self.inner.maintain()

    def stat(self) -> StoreStat:
        return self.inner.stat()

    def scan(self) -> Iterator[tuple[int, bytes]]:
        return self.inner.scan()

    def close(self) -> None:
        self.inner.close()


@dataclasses.dataclass
class StoreCalls:
    """What ``StatsStore`` counts: frames, not batches; times are sums over calls."""

    nr_puts: int = 0
    nr_put_failures: int = 0
    nr_gets: int = 0
    nr_get_failures: int = 0
    nr_deletes: int = 0
    put_bytes: int = 0
    get_bytes: int = 0
    put_s: float = 0.0
    get_s: float = 0.0
    delete_s: float = 0.0


class StatsStore(WrapperStore):
    """Counts and times the calls."""

    kind = "stats"

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()  # guards _calls; innermost, held for a few additions
        self._calls = StoreCalls()

    def calls(self) -> StoreCalls:
        """A copy of the counts so far."""
        with self._lock:
            return dataclasses.replace(self._calls)

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        start = time.perf_counter()
        outcomes = self.inner.put(items)
        elapsed = time.perf_counter() - start
        stored = [
            len(data) for (_, data), outcome in zip(items, outcomes, strict=True) if outcome is None
        ]
        with self._lock:
            self._calls.put_s += elapsed
            self._calls.nr_puts += len(stored)
            self._calls.nr_put_failures += len(items) - len(stored)
            self._calls.put_bytes += sum(stored)
        return outcomes

    def get(self, key: int) -> bytes:
        start = time.perf_counter()
        frame: bytes | None = None
        try:
            frame = self.inner.get(key)
            return frame
        finally:
            with self._lock:
                self._calls.get_s += time.perf_counter() - start
                if frame is None:
                    self._calls.nr_get_failures += 1
                else:
                    self._calls.nr_gets += 1
                    self._calls.get_bytes += len(frame)

    def delete(self, keys: Sequence[int]) -> None:
        start = time.perf_counter()
        self.inner.delete(keys)
        with self._lock:
            self._calls.delete_s += time.perf_counter() - start
            self._calls.nr_deletes += len(keys)


class DelayStore(WrapperStore):
    """Makes every call take longer; calls of several threads overlap."""

    kind = "delay"

    def __init__(
        self, inner: Store, *, get_s: float = 0.0, put_s: float = 0.0, delete_s: float = 0.0
    ) -> None:
        super().__init__(inner)
        self.get_s, self.put_s, self.delete_s = get_s, put_s, delete_s

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        time.sleep(self.put_s)
        return self.inner.put(items)

    def get(self, key: int) -> bytes:
        time.sleep(self.get_s)
        return self.inner.get(key)

    def delete(self, keys: Sequence[int]) -> None:
        time.sleep(self.delete_s)
        self.inner.delete(keys)


class FaultStore(WrapperStore):
    """Makes calls fail: at random (a probability for each kind), or the Nth.

    The same seed and order of calls give the same failures.  ``error`` makes the exception;
    ``nr_failed`` counts.  A failed put or delete has not reached the store behind.
    """

    kind = "fault"

    def __init__(
        self,
        inner: Store,
        *,
        get: float = 0.0,
        put: float = 0.0,
        delete: float = 0.0,
        nth: int = 0,
        seed: int = 0,
        error: Callable[[], StoreError] = StoreError,
    ) -> None:
        super().__init__(inner)
        self._shares = {"get": get, "put": put, "delete": delete}
        self._lock = threading.Lock()  # guards what follows; innermost
        self._random = random.Random(seed)
        self._left = nth
        self._error = error
        self.nr_failed = 0

    def stop(self) -> None:
        """From now on nothing fails."""
        with self._lock:
            self._shares = dict.fromkeys(self._shares, 0.0)
            self._left = 0

    def _fails(self, kind: str) -> bool:
        with self._lock:
            is_nth = self._left == 1
            self._left = max(self._left - 1, 0)
            failed = is_nth or self._random.random() < self._shares[kind]
            self.nr_failed += failed
            return failed

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        outcomes: list[Outcome] = [self._error() if self._fails("put") else None for _ in items]
        good = [item for item, outcome in zip(items, outcomes, strict=True) if outcome is None]
        stored = iter(self.inner.put(good) if good else [])
        return [next(stored) if outcome is None else outcome for outcome in outcomes]

    def get(self, key: int) -> bytes:
        if self._fails("get"):
            raise self._error()
        return self.inner.get(key)

    def delete(self, keys: Sequence[int]) -> None:
        if self._fails("delete"):
            raise self._error()
        self.inner.delete(keys)


class VerifyStore(WrapperStore):
    """Remembers a hash of every frame and compares: a store that answers with other bytes, or
    forgets what it acknowledged, is caught with ``StoreCorrupt``."""

    kind = "verify"

    _NR_STRIPES = 64

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        # A stripe guards its keys' hashes and is held across the call: hash and frame change
        # together.  A put takes several, in ascending order.
        self._stripes = [threading.Lock() for _ in range(self._NR_STRIPES)]
        self._hashes: dict[int, bytes] = {key: self._hash(data) for key, data in inner.scan()}

    @staticmethod
    def _hash(data: Buffer) -> bytes:
        return hashlib.blake2b(data, digest_size=16).digest()

    @contextlib.contextmanager
    def _locked(self, keys: Sequence[int]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for stripe in sorted({key % self._NR_STRIPES for key in keys}):
                stack.enter_context(self._stripes[stripe])
            yield

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        with self._locked([key for key, _ in items]):
            outcomes = self.inner.put(items)
            for (key, data), outcome in zip(items, outcomes, strict=True):
                if outcome is None:
                    self._hashes[key] = self._hash(data)
            return outcomes

    def get(self, key: int) -> bytes:
        with self._locked([key]):
            try:
                frame = self.inner.get(key)
            except StoreNotFound:
                if key not in self._hashes:
                    raise
                raise StoreCorrupt(f"{self.name}: frame {key} was stored and is gone") from None
            if self._hashes.get(key) != self._hash(frame):
                raise StoreCorrupt(f"{self.name}: frame {key} is not what was put")
            return frame

    def delete(self, keys: Sequence[int]) -> None:
        with self._locked(keys):
            self.inner.delete(keys)
            for key in keys:
                self._hashes.pop(key, None)
