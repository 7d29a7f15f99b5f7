# SPDX-License-Identifier: Apache-2.0
"""A store as a plug-in author would write a first one: a dict with a lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tierstore.abc import Buffer, Outcome, Store, StoreStat
from tierstore.errors import StoreFull, StoreNotFound


class DictStore(Store):
    """Volatile; its frames' own bytes are all that it counts."""

    kind = "dict"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._lock = threading.Lock()
        self._frames: dict[int, bytes] = {}
        self._used = self._written = 0

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        with self._lock:
            return [self._put_one(key, data) for key, data in items]

    def _put_one(self, key: int, data: Buffer) -> Outcome:
        grows = len(data) - len(self._frames.get(key, b""))
        if self._used + grows > self.size_bytes:
            return StoreFull()
        if rejected := self.reject(key, data):
            return rejected
        self._frames[key] = bytes(data)
        self._used += grows
        self._written += len(data)
        return None

    def get(self, key: int) -> bytes:
        with self._lock:
            if key not in self._frames:
                raise StoreNotFound(f"no frame {key}")
            return self._frames[key]

    def delete(self, keys: Sequence[int]) -> None:
        with self._lock:
            for key in keys:
                self._used -= len(self._frames.pop(key, b""))

    def stat(self) -> StoreStat:
        with self._lock:
            return StoreStat(
                capacity_bytes=self.size_bytes,
                nr_frames=len(self._frames),
                frame_bytes=self._used,
                used_bytes=self._used,
                written_bytes=self._written,
            )

    def scan(self) -> Iterator[tuple[int, bytes]]:
        yield from list(self._frames.items())

    def close(self) -> None:
        self._frames.clear()
