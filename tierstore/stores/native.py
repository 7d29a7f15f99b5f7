# SPDX-License-Identifier: Apache-2.0
"""The stores of the C core, and the wrappers around them, behind the Python interface.

For tests, tools and benchmarks: one suite holds every store to one contract, and an offline tool
needs not know who wrote what it reads.  An engine doesn't come this way; it calls C directly.

A get here waits for its answer.  Each thread that gets at the same time uses a reader of its own,
opened when first needed and kept until ``close``.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tierstore._native import ffi, lib
from tierstore.abc import FRAME_BYTES_MAX, Buffer, Outcome, Store, StoreStat
from tierstore.errors import (
    ConfigError,
    StoreError,
    StoreNotFound,
    UsageError,
    check_error,
    error_from_status,
)

__all__ = ["FileNative", "LmdbNative", "NativeStore", "RamNative"]

_PAGE = 4096
_KEY_MAX = (1 << 27) + 0xFFFF
"""TS_KEY_MAX: frame ids, and the dictionaries above them."""
_BATCH_MAX = 256
"""TS_STORE_BATCH_MAX: longer puts and deletes are cut into several calls."""


class _Reader:
    """A reader, its buffer and its one request.  Used by one thread at a time."""

    def __init__(self, store: Any, cap_bytes: int, what: str) -> None:
        self._memory = mmap.mmap(-1, cap_bytes)
        self._buffer = ffi.from_buffer(self._memory)
        self._done = ffi.new("struct ts_get *[1]")
        self.request = ffi.new("struct ts_get *")
        self.request.buf = self._buffer
        self.request.cap_bytes = cap_bytes
        reader = ffi.new("struct ts_reader **")
        check_error(lib.ts_store_reader_open(store, reader), what, default=StoreError)
        self._reader = reader[0]
        rc = lib.ts_store_reader_arena(self._reader, self._buffer, cap_bytes)
        if rc < 0:
            lib.ts_store_reader_close(self._reader)
            check_error(rc, what, default=StoreError)

    def get(self, key: int) -> int:
        """Returns the request's status; 0: the frame is in the buffer."""
        request = self.request
        request.key = key
        if lib.ts_store_get(self._reader, request) == 1:
            # One is pending, so that nothing else can come back.
            check_error(lib.ts_store_reap(self._reader, self._done, 1, -1), "reap")
        return int(request.status)

    def frame(self) -> bytes:
        start = self.request.off_bytes
        return self._memory[start : start + self.request.len_bytes]

    def close(self) -> None:
        lib.ts_store_reader_close(self._reader)
        self._buffer = self.request.buf = ffi.NULL
        self._reader = ffi.NULL


class NativeStore(Store):
    """A store of the C core.  Subclasses name the kind; ``ops`` instead takes a C table.

    ``wrap`` stacks wrappers around it: ``"verify,fault:put=0.01"``, outermost first (store.h).
    ``reader_max`` bounds the threads that get at the same time.
    """

    kind: ClassVar[str] = ""

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        path: str | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        options: Mapping[str, str] | None = None,
        wrap: str = "",
        reader_max: int = 64,
        ops: Any = ffi.NULL,
        user: Any = ffi.NULL,
    ) -> None:
        super().__init__(
            name=name,
            size_bytes=size_bytes,
            path=path,
            frame_bytes_max=frame_bytes_max,
            options=options,
        )
        self.wrap = wrap
        self._reader_max = reader_max
        self._cap_bytes = (frame_bytes_max + 3 * _PAGE - 1) // _PAGE * _PAGE
        self._condition = threading.Condition()  # guards the next two
        self._idle: list[_Reader] = []
        self._nr_readers = 0
        self._store = self._open(ops, user)

    def _open(self, ops: Any, user: Any) -> Any:
        for key, value in self.options.items():
            if "," in value:
                raise ConfigError(f"{self.name}: the option {key}={value} has a comma in it")
        borrowed = [
            ffi.new("char[]", text.encode())
            for text in (
                self.name,
                self.path or "",
                ",".join(f"{key}={value}" for key, value in self.options.items()),
            )
        ]
        config = ffi.new("struct ts_store_config *")
        config.size = ffi.sizeof("struct ts_store_config")
        config.name, config.path, config.options = borrowed
        if self.path is None:
            config.path = ffi.NULL
        config.size_bytes = self.size_bytes
        config.frame_max_bytes = self.frame_bytes_max
        config.key_max = _KEY_MAX
        config.batch_max = _BATCH_MAX
        config.reader_max = self._reader_max
        config.depth_max = 1
        config.user = user
        store = ffi.new("struct ts_store **")
        rc = lib.ts_store_open(self.kind.encode(), ops, self.wrap.encode(), config, store)
        check_error(rc, f"opening the store {self.kind or 'of the given ops'}", default=StoreError)
        return store[0]

    @property
    def handle(self) -> Any:
        """The C handle, for ``ts_store_*`` calls of tests and tools; valid until ``close``."""
        if self._store is None:
            raise UsageError(f"{self.name}: the store is closed")
        return self._store

    @property
    def is_persistent(self) -> bool:
        if self.options.get("keep") == "1":
            return True
        return bool(self.handle.ops.flags & lib.TS_STORE_PERSISTENT)

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        outcomes = [self.reject(key, data, _KEY_MAX) for key, data in items]
        todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
        for start in range(0, len(todo), _BATCH_MAX):
            batch = todo[start : start + _BATCH_MAX]
            for i, outcome in zip(batch, self._put([items[i] for i in batch]), strict=True):
                outcomes[i] = outcome
        return outcomes

    def _put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        puts = ffi.new("struct ts_put[]", len(items))
        borrowed = [ffi.from_buffer(data) for _, data in items]
        for put, (key, data), buffer in zip(puts, items, borrowed, strict=True):
            put.key, put.data, put.len_bytes = key, buffer, len(data)
        lib.ts_store_put(self.handle, puts, len(items))
        # A put that failed as a whole has set every status, too.
        return [
            self._error(put.status, f"put {put.key}") if put.status < 0 else None for put in puts
        ]

    def _error(self, status: int, what: str) -> StoreError:
        text = bytes(ffi.string(lib.ts_strerror(status))).decode()
        error = error_from_status(status, f"{self.name}: {what}: {text}", default=StoreError)
        return error if isinstance(error, StoreError) else StoreError(str(error), status=status)

    def _take_reader(self) -> _Reader:
        with self._condition:
            while not self._idle and self._nr_readers == self._reader_max:
                self._condition.wait()
            if self._idle:
                return self._idle.pop()
            self._nr_readers += 1
        try:
            return _Reader(self.handle, self._cap_bytes, f"{self.name}: opening a reader")
        except BaseException:
            self._give_reader(None)
            raise

    def _give_reader(self, reader: _Reader | None) -> None:
        with self._condition:
            if reader is None:
                self._nr_readers -= 1
            else:
                self._idle.append(reader)
            self._condition.notify()

    def get(self, key: int) -> bytes:
        if not 0 <= key <= _KEY_MAX:
            raise StoreNotFound(f"{self.name}: no frame {key}")
        reader = self._take_reader()
        try:
            status = reader.get(key)
            if status < 0:
                raise self._error(status, f"get {key}")
            return reader.frame()
        finally:
            self._give_reader(reader)

    def delete(self, keys: Sequence[int]) -> None:
        known = [key for key in keys if 0 <= key <= _KEY_MAX]
        for start in range(0, len(known), _BATCH_MAX):
            batch = known[start : start + _BATCH_MAX]
            rc = lib.ts_store_del(self.handle, ffi.new("uint64_t[]", batch), len(batch))
            check_error(rc, f"{self.name}: delete", default=StoreError)

    def maintain(self) -> bool:
        rc = lib.ts_store_maintain(self.handle)
        return check_error(rc, f"{self.name}: maintain", default=StoreError) == 1

    def stat(self) -> StoreStat:
        stat = ffi.new("struct ts_store_stat *")
        stat.size = ffi.sizeof("struct ts_store_stat")
        rc = lib.ts_store_stat_get(self.handle, stat)
        check_error(rc, f"{self.name}: stat", default=StoreError)
        return StoreStat(**{name: int(getattr(stat, name)) for name in StoreStat.__slots__})

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Asks for one key after the other: keys are dense, and C stores list none."""
        left = self.stat().nr_frames
        for key in range(_KEY_MAX + 1):
            if left == 0:
                return
            try:
                yield key, self.get(key)
            except StoreNotFound:
                continue
            left -= 1

    def close(self) -> None:
        store, self._store = self._store, None
        if store is None:
            return
        for reader in self._idle:
            reader.close()
        self._idle.clear()
        lib.ts_store_close(store)

    def __del__(self) -> None:
        if getattr(self, "_store", None) is not None:
            self.close()


class RamNative(NativeStore):
    """Frames in anonymous memory: fast, volatile, and paid for in RAM."""

    kind = "ram"


class FileNative(NativeStore):
    """Frames in one file or block device, through io_uring."""

    kind = "file"


class LmdbNative(NativeStore):
    """Frames in an LMDB environment: a folder of its own."""

    kind = "lmdb"
