# SPDX-License-Identifier: Apache-2.0
"""What the model test is made of: a tier in Python, page contents, dictionaries, ladders."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from tierstore.abc import Outcome, Store, StoreStat
from tierstore.errors import StoreFull, StoreNotFound

PAGE = 4096


class BoundedDict(Store):
    """A tier in Python: a dict with a bound.  The lock guards both members, for one call."""

    kind = "bounded-dict"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.lock = threading.Lock()
        self.frames: dict[int, bytes] = {}
        self.used = 0

    def put(self, items: Any) -> list[Outcome]:
        with self.lock:
            return [self._put(key, bytes(data)) for key, data in items]

    def _put(self, key: int, data: bytes) -> Outcome:
        grows = len(data) - len(self.frames.get(key, b""))
        if self.used + grows > self.size_bytes:
            return StoreFull()
        self.frames[key] = data
        self.used += grows
        return None

    def get(self, key: int) -> bytes:
        with self.lock:
            try:
                return self.frames[key]
            except KeyError:
                raise StoreNotFound(f"no frame {key}") from None

    def delete(self, keys: Any) -> None:
        with self.lock:
            for key in keys:
                self.used -= len(self.frames.pop(key, b""))

    def stat(self) -> StoreStat:
        with self.lock:
            return StoreStat(self.size_bytes, len(self.frames), self.used, self.used)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        yield from list(self.frames.items())

    def close(self) -> None:
        self.frames.clear()


@functools.cache
def page_of(kind: str, seed: int) -> bytes:
    """A page: four kinds, many of each."""
    source = random.Random(f"{kind}{seed}")
    if kind == "noise":
        return source.randbytes(PAGE)
    if kind == "text":
        words = [source.randbytes(3).hex() for _ in range(40)]
        return " ".join(source.choice(words) for _ in range(1200)).encode()[:PAGE]
    if kind == "fill":
        return source.randbytes(8) * (PAGE // 8)
    return bytes(PAGE)


@functools.cache
def dictionaries() -> tuple[bytes, ...]:
    """Two dictionaries, of the pages that are written here and of others."""
    texts = [page_of("text", seed) for seed in range(200)]
    mixed = [page_of("text", seed)[::-1] for seed in range(1000, 1200)]
    return tuple(zstandard.train_dictionary(16 << 10, pages).as_bytes() for pages in (texts, mixed))


def ladder(kind: str, folder: Path) -> list[dict[str, Any]]:
    """Small tiers; only the ladder "native" has room for everything."""
    warm = {"name": "warm", "store": "ram", "size": "1MiB", "codec": "lz4", "demote_after": "100ms"}
    mid = {"name": "mid", "store": "lmdb", "size": "2MiB", "path": str(folder / "mid")}
    mid |= {"codec": "zstd", "range": "16KiB"}
    cold = {"name": "cold", "store": "file", "size": "64MiB", "path": str(folder / "cold")}
    cold |= {"codec": "zstd:3", "range": "64KiB"}
    own = {"name": "own", "store": f"{__name__}:BoundedDict", "size": "1MiB", "codec": "zstd"}
    own |= {"range": "8KiB", "demote_above": "60%"}
    return {
        "native": [warm, mid, cold],
        "python": [own, warm | {"demote_after": "10s"}, mid],
        "one": [warm | {"keep": False}],
    }[kind]
