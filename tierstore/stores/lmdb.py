# SPDX-License-Identifier: Apache-2.0
"""Frames in an LMDB environment, from Python: the twin of the C store "lmdb".

Both write one format (FORMAT.md, "LMDB store") and each reads what the other wrote.  This one is
for plug-in authors to read, for the offline tools (``readonly=1``), and works as a tier.

Some facts about LMDB that shape it (lmdb_write.c tells them in full): nothing is changed in place,
so a delete needs free pages before it can free any; what one transaction gave up is usable only two
transactions later; and a transaction that met "map full" can only be aborted.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lmdb

from tierstore.abc import FRAME_BYTES_MAX, Buffer, Outcome, Store, StoreStat
from tierstore.errors import (
    ConfigError,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreWrongFile,
    TierstoreError,
)
from tierstore.stores._lmdb_folder import LmdbFolder, store_error

__all__ = ["LmdbStore"]

_KEY = struct.Struct("=Q")
_MARK_KEY = b"tierstore"
_MARK = struct.Struct("=8sQ")
_MAGIC = b"TSLMDB1\0"
_PAGE = mmap.PAGESIZE
_SIZE_MIN = 1 << 20
_TXN_BYTES_MAX = 4 << 20
"""Frame bytes in one transaction; LMDB holds all of them in memory until the commit."""
_TREE_PAGES = 3
_DEL_PAGES = 20
_DEL_WAITS_MAX = 5000
_DEL_WAIT_S = 0.001


def _frame_pages(len_bytes: int) -> int:
    """Whole pages that a value takes; 0 if it lies in a leaf page with others."""
    if 16 + len_bytes <= (_PAGE - 16) // 2:
        return 0
    return (15 + len_bytes) // _PAGE + 1


class _Room:
    """What a write transaction may use: pages it can have, of them those a put may take."""

    def __init__(self, free: int, reserve: int) -> None:
        self.free = max(free, 0)
        self.usable = max(free - reserve, 0)


class LmdbStore(Store):
    """``options``: ``keep=1`` keeps the frames at close and finds them at the next open;
    ``sync=1`` waits for the disk at each commit; ``readonly=1`` (offline tools) changes nothing."""

    kind = "python-lmdb"

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        path: str | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            size_bytes=size_bytes,
            path=path,
            frame_bytes_max=frame_bytes_max,
            options=options,
        )
        self._read_options()
        self._map_pages = size_bytes // _PAGE
        # The list of free pages, which only the C interface shows, and room for deletes.
        self._reserve = self._map_pages // 512 + 8 + min(max(self._map_pages // 64, 64), 1024)
        if path is None:
            raise ConfigError(f"{name}: path is missing; give the store a folder of its own")
        least = max(_SIZE_MIN, _PAGE * (self._reserve + 32 + 2 * (frame_bytes_max // _PAGE + 1)))
        if size_bytes < least and not self._readonly:
            raise ConfigError(f"{name}: size is {size_bytes} bytes; the least is {least}")
        # Guards what follows and makes several transactions one put or delete.  Gets don't take it.
        self._lock = threading.Lock()
        self._pending = 0  # pages that the last transaction gave up, at most
        self._frame_bytes = self._written = self._written_pages = self._nr_errors = 0
        self._key_end = 0  # above every key there is
        self._may_tick = False  # in this put
        self._folder = LmdbFolder(path, keep=self._keep, readonly=self._readonly)
        try:
            self._env = self._open_env(path)
        except BaseException:
            self._folder.close(keep=self._folder.is_kept)
            raise

    def _read_options(self) -> None:
        flags = {"keep": False, "sync": False, "readonly": False}
        for key, value in self.options.items():
            if key not in flags:
                raise ConfigError(f"{self.name}: no option {key!r}; there are: {', '.join(flags)}")
            if value not in ("0", "1"):
                raise ConfigError(f"{self.name}: {key}={value} is neither 0 nor 1")
            flags[key] = value == "1"
        self._readonly = flags["readonly"]
        self._keep = flags["keep"] or self._readonly
        self._sync = flags["sync"]

    def _open_env(self, path: str) -> lmdb.Environment:
        # The format of 0.9 is what the C store's library reads; newer bindings offer a choice.
        more: dict[str, Any] = {"lib_version": 0} if int(lmdb.__version__[0]) >= 3 else {}
        env = None
        try:
            env = lmdb.open(
                path,
                map_size=self._map_pages * _PAGE,
                readonly=self._readonly,
                # Nobody writes while this has the folder's lock: no reader table is needed.
                lock=not self._readonly,
                metasync=self._sync,
                sync=self._sync,
                mode=0o600,
                create=not self._readonly,
                readahead=False,
                max_readers=128,
                max_dbs=1,
                max_spare_txns=16,
                **more,
            )
            self._open_trees(env)
        except BaseException as error:
            if env is not None:
                env.close()
            if isinstance(error, lmdb.Error):
                raise store_error(error, f"{self.name}: open {path}") from error
            raise
        return env

    def _open_trees(self, env: lmdb.Environment) -> None:
        last_page = env.info()["last_pgno"]
        if last_page >= self._map_pages and not self._readonly:
            raise ConfigError(
                f"{self.name}: size is {self.size_bytes} bytes but the kept frames need "
                f"{(last_page + 1) * _PAGE}; give it that, or open without keep=1 to drop them"
            )
        self._main = env.open_db()
        with env.begin(write=not self._readonly) as txn:
            mark = txn.get(_MARK_KEY)
            if mark is None and not (self._readonly or self._folder.is_kept):
                txn.put(_MARK_KEY, _MARK.pack(_MAGIC, 0))
            elif mark is None or not mark.startswith(_MAGIC):
                raise StoreWrongFile(f"{self.name}: {self.path} holds another LMDB environment")
        create = not (self._readonly or self._folder.is_kept)
        self._frames = env.open_db(b"frames", integerkey=True, create=create)
        if self._folder.is_kept or self._readonly:
            with env.begin(db=self._frames, buffers=True) as views:
                for key, value in views.cursor():
                    self._frame_bytes += len(value)
                    self._key_end = _KEY.unpack(key)[0] + 1

    @property
    def is_persistent(self) -> bool:
        return self._keep

    # ---- Reading ------------------------------------------------------------------------------

    def get(self, key: int) -> bytes:
        try:
            with self._env.begin(db=self._frames) as txn:
                data = txn.get(_KEY.pack(key))
        except lmdb.Error as error:
            self._nr_errors += 1
            raise store_error(error, f"{self.name}: get {key}") from error
        if data is None:
            raise StoreNotFound(f"{self.name}: no frame {key}")
        if len(data) > self.frame_bytes_max:
            self._nr_errors += 1
            raise StoreCorrupt(f"{self.name}: frame {key} has {len(data)} bytes")
        return data

    def scan(self) -> Iterator[tuple[int, bytes]]:
        with self._env.begin(db=self._frames) as txn:
            for key, data in txn.cursor():
                if len(key) != _KEY.size:
                    raise StoreCorrupt(f"{self.name}: a key of {len(key)} bytes")
                yield _KEY.unpack(key)[0], data

    # ---- Writing ------------------------------------------------------------------------------

    def _live_pages(self, txn: lmdb.Transaction[bytes]) -> int:
        pages = 2  # the meta pages
        for stat in (txn.stat(self._main), txn.stat(self._frames)):
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages

    def _room(self, txn: lmdb.Transaction[bytes]) -> _Room:
        return _Room(self._map_pages - self._live_pages(txn) - self._pending, self._reserve)

    def _tick(self) -> None:
        """A transaction of 16 bytes, so that what the one before gave up becomes usable."""
        with self._env.begin(write=True, db=self._main) as txn:
            mark = txn.get(_MARK_KEY) or b""
            _, nr_ticks = _MARK.unpack(mark)
            txn.put(_MARK_KEY, _MARK.pack(_MAGIC, nr_ticks + 1))
        self._pending = 2 * _TREE_PAGES

    def _put_one(self, txn: lmdb.Transaction[bytes], room: _Room, key: int, data: Buffer) -> int:
        """Returns how many bytes the key held before; raises ``StoreFull``."""
        pages = _frame_pages(len(data)) + _TREE_PAGES
        if pages > room.usable:
            raise StoreFull(f"{self.name}: no room for {len(data)} bytes")
        packed = _KEY.pack(key)
        old = txn.get(packed)
        # Told that it appends, LMDB fills leaf pages; else it leaves each half empty.
        txn.put(packed, data, append=key >= self._key_end)
        self._key_end = max(self._key_end, key + 1)
        room.usable -= pages
        return len(old) if old is not None else 0

    def _put_txn(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        """One transaction for the first items: as many as fit ``_TXN_BYTES_MAX``.

        Raises ``_Stopped`` if the transaction is lost.
        """
        outcomes: list[Outcome] = []
        change = written = gave_up = nr_pages = leaf_bytes = 0
        try:
            with self._env.begin(write=True, db=self._frames) as txn:
                room = self._room(txn)
                for key, data in items:
                    if written >= _TXN_BYTES_MAX:
                        break
                    outcome = self.reject(key, data)
                    if outcome is None:
                        try:
                            old = self._put_one(txn, room, key, data)
                        except StoreFull as error:
                            if self._may_tick and self._pending:
                                raise
                            if written:
                                break  # the cost so far was an upper bound: count, and ask again
                            outcome = error
                        else:
                            written += len(data)
                            change += len(data) - old
                            gave_up += _frame_pages(old) + _TREE_PAGES
                            nr_pages += _frame_pages(len(data))
                            leaf_bytes += 24 if _frame_pages(len(data)) else 16 + len(data)
                    outcomes.append(outcome)
        except lmdb.Error as error:
            raise _Stopped(len(outcomes), store_error(error, f"{self.name}: put")) from error
        except StoreFull as error:
            raise _Stopped(len(outcomes), error) from error
        self._frame_bytes += change
        self._written += written
        self._written_pages += nr_pages + leaf_bytes // (_PAGE - 16) + 1 + _TREE_PAGES
        if written:
            self._pending = gave_up + _TREE_PAGES
        return outcomes

    def _put_some(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        """Outcomes for the first items: one at least."""
        nr_try = len(items)
        while True:
            try:
                return self._put_txn(items[:nr_try])
            except _Stopped as stopped:
                if not isinstance(stopped.error, StoreFull):
                    self._nr_errors += nr_try
                    return [stopped.error] * nr_try
                if stopped.nr_reached == 0 and self._may_tick:
                    self._may_tick = False
                    with contextlib.suppress(lmdb.Error):
                        self._tick()
                        continue
                if stopped.nr_reached == 0 or nr_try == 1:
                    return [stopped.error]
                nr_try = stopped.nr_reached if stopped.nr_reached < nr_try else nr_try // 2

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with self._lock:
            # Once a put: a tick that brings no room now brings none later.
            self._may_tick = True
            while len(outcomes) < len(items):
                outcomes += self._put_some(items[len(outcomes) :])
        return outcomes

    def _delete_txn(self, keys: Sequence[int]) -> int:
        """One transaction; returns how many keys it did.  Raises ``lmdb.Error``."""
        change = gave_up = 0
        with self._env.begin(write=True, db=self._frames) as txn:
            nr_safe = max(self._room(txn).free // 3 // _DEL_PAGES, 1)
            keys = keys[:nr_safe]
            for key in keys:
                packed = _KEY.pack(key)
                old = txn.get(packed)
                if old is not None:
                    txn.delete(packed)
                    change -= len(old)
                    gave_up += _frame_pages(len(old)) + _TREE_PAGES
            is_empty = txn.stat(self._frames)["entries"] == 0
        self._key_end = 0 if is_empty else self._key_end
        self._frame_bytes += change
        if gave_up:
            self._pending = gave_up + _TREE_PAGES
        return len(keys)

    def _wait_for_pages(self, turn: threading.Event) -> None:
        """Nothing can be freed until one more transaction is done, or a reader lets go."""
        try:
            self._tick()
        except lmdb.Error:
            self._env.reader_check()
            turn.wait(_DEL_WAIT_S)

    def delete(self, keys: Sequence[int]) -> None:
        done = nr_waits = 0
        nr_try = len(keys)
        never = threading.Event()
        with self._lock:
            while done < len(keys):
                nr_try = min(nr_try, len(keys) - done)
                try:
                    done += self._delete_txn(keys[done : done + nr_try])
                except lmdb.Error as error:
                    mapped = store_error(error, f"{self.name}: delete")
                    if not isinstance(mapped, StoreFull) or nr_waits > _DEL_WAITS_MAX:
                        self._nr_errors += 1
                        raise mapped from error
                    if nr_try > 1:
                        nr_try //= 2
                    else:
                        nr_waits += 1
                        self._wait_for_pages(never)

    # ---- The rest -----------------------------------------------------------------------------

    def maintain(self) -> bool:
        """Frees the slots of readers that died: a tool's, that would pin old pages for good."""
        if not self._readonly:
            self._env.reader_check()
        return False

    def stat(self) -> StoreStat:
        with self._env.begin() as txn:
            live = self._live_pages(txn)
            entries = txn.stat(self._frames)["entries"]
        return StoreStat(
            capacity_bytes=self._map_pages * _PAGE,
            nr_frames=entries,
            frame_bytes=self._frame_bytes,
            used_bytes=min(live + self._reserve, self._map_pages) * _PAGE,
            written_bytes=self._written,
            device_bytes=self._written_pages * _PAGE,
            nr_errors=self._nr_errors,
        )

    def close(self) -> None:
        env, self._env = getattr(self, "_env", None), None  # type: ignore[assignment]
        if env is None:
            return
        keep = self._keep
        try:
            if keep and not self._readonly:
                env.sync(True)
        except lmdb.Error:
            keep = False  # frames that may not be on disk are not kept
        env.close()
        with contextlib.suppress(OSError, TierstoreError):
            # What can't be removed is emptied by the next open.
            self._folder.close(keep=keep)


class _Stopped(Exception):
    """A put transaction that is lost: the items before ``nr_reached`` were not the reason."""

    def __init__(self, nr_reached: int, error: StoreError) -> None:
        super().__init__(nr_reached, error)
        self.nr_reached = nr_reached
        self.error = error
