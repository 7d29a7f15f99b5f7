# SPDX-License-Identifier: Apache-2.0
"""Checks every frame of a store that no engine has open.

Reads the store through its Python twin and decodes through :mod:`tierstore.offline.frames`, so
the verdict owes nothing to the C code that wrote it.  Nothing is changed.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from tierstore.abc import Store
from tierstore.errors import (
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreWrongFile,
    TierstoreError,
)
from tierstore.offline import _lmdb_length, frames

__all__ = ["BadFrame", "CodecCount", "VerifyProgress", "VerifyReport", "open_store", "verify"]

PROGRESS_S = 0.1
"""Seconds between two calls of the progress callback, at least."""


@dataclasses.dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be given back.  ``region`` and ``page`` (the index in the region of
    the first page concerned) are ``None`` where the header itself can't be trusted; ``key`` is
    ``None`` where the store could not say which frame it was."""

    key: int | None
    region: int | None
    page: int | None
    nr_pages: int
    reason: str


@dataclasses.dataclass(slots=True)
class CodecCount:
    """Good frames of one codec.  ``raw_bytes`` are pages, ``stored_bytes`` are whole frames."""

    nr_frames: int = 0
    nr_pages: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a verification is.  ``total`` is 0 where the store does not know."""

    nr_frames: int
    total: int
    stored_bytes: int
    nr_bad: int


@dataclasses.dataclass(slots=True)
class VerifyReport:
    """The verdict on one store; ``is_ok`` and the counts cover all frames, ``bad`` lists the
    first ``bad_max`` of them."""

    path: str
    store: str
    """"file" or "lmdb"."""
    nr_frames: int = 0
    nr_bad: int = 0
    nr_dictionaries: int = 0
    nr_pages: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    elapsed_s: float = 0.0
    may_hold_deleted: bool = False
    """The store was not closed in order: frames deleted before its end may be counted again."""
    codecs: dict[str, CodecCount] = dataclasses.field(default_factory=dict)
    bad: list[BadFrame] = dataclasses.field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether every frame can be given back."""
        return self.nr_bad == 0

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        return {**dataclasses.asdict(self), "is_ok": self.is_ok}


Progress = Callable[[VerifyProgress], None]


def verify(
    path: str | os.PathLike[str], *, progress: Progress | None = None, bad_max: int = 1000
) -> VerifyReport:
    """Check every frame of a file store (a file or block device) or an LMDB store (a folder).

    ``progress`` is called on this thread every 0.1 s or less often, and once at the end.  Blocks
    for as long as it takes to read and decode everything; holds one frame at a time.

    A frame is looked for where the store says it is.  One whose very entry in the store was
    destroyed is not missed by anybody but the engine.

    Damage is reported, not raised.  What is raised says what to do: ``StoreWrongFile`` (not a
    store of ours), ``StoreVersion`` (of another version), ``StoreLocked`` (an engine uses it),
    ``StoreError`` (nothing there, or it can't be read).
    """
    started = time.monotonic()
    kind, store = open_store(Path(path))
    report = VerifyReport(path=os.fspath(path), store=kind)
    report.may_hold_deleted = not getattr(store, "is_clean", True)
    with store:
        _Verifier(store, report, progress, bad_max).run()
    report.elapsed_s = time.monotonic() - started
    return report


def open_store(path: Path, *, is_length_known: bool = False) -> tuple[str, Store]:
    """The store at ``path``, read-only and locked against engines; raises what ``verify`` does.

    ``is_length_known``: don't look whether an LMDB file is cut off, which would be fatal.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise StoreError(
            f"{path}: nothing is there; a store that is closed without keep=1 removes its frames"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", status=-(error.errno or 5)) from error
    try:
        if stat.S_ISDIR(mode):
            if not is_length_known:
                _lmdb_length.check(path)
            return "lmdb", _open_lmdb(path)
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            return "file", _open_file(path)
    except StoreWrongFile as error:
        raise StoreWrongFile(
            f"{path} is no store of tierstore; name the file, device or folder of a tier"
        ) from error
    except StoreLocked:
        raise StoreLocked(
            f"{path} is in use by a running engine; close the engine first, then verify"
        ) from None
    except PermissionError as error:
        raise StoreError(
            f"{path}: not permitted; run this as the user that runs the engine",
            status=-(error.errno or 13),
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} can't be read: {error.strerror}; the medium fails, or the file is cut off",
            status=-(error.errno or 5),
        ) from error
    raise StoreWrongFile(f"{path} is neither a file, a block device nor a folder")


def _open_lmdb(path: Path) -> Store:
    from tierstore.stores.lmdb import LmdbStore

    try:
        size_bytes = (path / "data.mdb").stat().st_size
    except FileNotFoundError:
        size_bytes = 0
    # LMDB maps what is there and some more.
    size_bytes = max(size_bytes + (1 << 20), 1 << 24)
    return LmdbStore(
        name="verify", size_bytes=size_bytes, path=str(path), options={"readonly": "1"}
    )


def _open_file(path: Path) -> Store:
    from tierstore.stores.file import FileStore

    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)  # stat() knows nothing of a block device's size
    return FileStore(
        name="verify", size_bytes=size_bytes, path=str(path), options={"readonly": "1"}
    )


class _Verifier:
    """One run over one store."""

    def __init__(
        self, store: Store, report: VerifyReport, progress: Progress | None, bad_max: int
    ) -> None:
        self._store = store
        self._report = report
        self._progress = progress
        self._bad_max = bad_max
        self._decoder = frames.Decoder()
        self._total = store.stat().nr_frames
        self._next_progress = 0.0

    def run(self) -> None:
        self._load_dictionaries()
        try:
            for key, frame in self._store.scan():
                self._check(key, frame)
                self._tell()
        except (StoreError, OSError, lmdb.Error) as error:
            # The store's own structure is damaged; what lies behind can't be reached.
            self._add_bad(BadFrame(None, None, None, 0, f"{error}; the scan ended here"))
        self._tell(is_last=True)

    def _load_dictionaries(self) -> None:
        """First, because frames need them; what is wrong with them is found by the scan."""
        for dict_id in range(1, frames.DICT_MAX + 1):
            try:
                head, data = self._decoder.decode(self._store.get(frames.KEY_DICT + dict_id))
                if head.codec == frames.DICT and head.dict_id == dict_id:
                    self._decoder.add_dictionary(dict_id, data)
            except (StoreError, OSError):
                continue

    def _check(self, key: int, frame: bytes) -> None:
        self._report.nr_frames += 1
        self._report.stored_bytes += len(frame)
        head: frames.FrameHead | None = None
        try:
            # Twice, so that a frame whose contents are lost still says whose pages they were.
            head = frames.parse(frame)
            self._decoder.decode(frame)
            self._check_key(key, head)
        except TierstoreError as error:
            self._add_bad(_describe(key, head, str(error)))
            return
        self._count(head, len(frame))

    def _check_key(self, key: int, head: frames.FrameHead) -> None:
        """A dictionary lies under its own key, and nothing else lies there."""
        expected = frames.KEY_DICT + head.dict_id
        if head.codec == frames.DICT and key != expected:
            raise StoreCorrupt(f"dictionary {head.dict_id} belongs under the key {expected}")
        if head.codec != frames.DICT and key >= frames.KEY_DICT:
            raise StoreCorrupt("pages under a dictionary's key")

    def _count(self, head: frames.FrameHead, frame_bytes: int) -> None:
        report = self._report
        count = report.codecs.setdefault(frames.CODEC_NAMES[head.codec], CodecCount())
        count.nr_frames += 1
        count.stored_bytes += frame_bytes
        if head.codec == frames.DICT:
            report.nr_dictionaries += 1
            return
        count.nr_pages += head.nr_pages
        count.raw_bytes += head.raw_bytes
        report.nr_pages += head.nr_pages
        report.raw_bytes += head.raw_bytes

    def _add_bad(self, bad: BadFrame) -> None:
        self._report.nr_bad += 1
        if len(self._report.bad) < self._bad_max:
            self._report.bad.append(bad)

    def _tell(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (now < self._next_progress and not is_last):
            return
        self._next_progress = now + PROGRESS_S
        report = self._report
        self._progress(
            VerifyProgress(report.nr_frames, self._total, report.stored_bytes, report.nr_bad)
        )


def _describe(key: int, head: frames.FrameHead | None, reason: str) -> BadFrame:
    if head is None or head.codec == frames.DICT:
        return BadFrame(key, None, None, 0, reason)
    return BadFrame(key, head.region, head.pages[0], head.nr_pages, reason)
