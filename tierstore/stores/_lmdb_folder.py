# SPDX-License-Identifier: Apache-2.0
"""The folder of an LMDB store on the Python side: lock, marker, leftovers; LMDB's errors.

The rules are those of the C store (FORMAT.md, "LMDB store"): the lock is on the folder itself; a
marker file says whose it is and whether its frames count; a folder with something else in it is
never touched; the marker is on disk before the first frame and says "kept" only after the last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path

import lmdb

from tierstore.errors import (
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreVersion,
    StoreWrongFile,
)

__all__ = ["LmdbFolder", "store_error"]

_MARKER = "tierstore-lmdb"
_OPEN = b"tierstore-lmdb 1 open\n"
_KEPT = b"tierstore-lmdb 1 kept\n"
_HELD = b"tierstore-lmdb 1 held "
_DATA = ("data.mdb", "lock.mdb")

_ERRORS: dict[type[lmdb.Error], type[StoreError]] = {
    lmdb.MapFullError: StoreFull,
    lmdb.TxnFullError: StoreFull,
    lmdb.CorruptedError: StoreCorrupt,
    lmdb.PageNotFoundError: StoreCorrupt,
    lmdb.InvalidError: StoreWrongFile,
    lmdb.IncompatibleError: StoreWrongFile,
    lmdb.NotFoundError: StoreWrongFile,
    lmdb.VersionMismatchError: StoreVersion,
    lmdb.LockError: StoreLocked,
}


def store_error(error: lmdb.Error, what: str) -> StoreError:
    """LMDB's exceptions in our terms; a full disk is a full store."""
    cls = _ERRORS.get(type(error), StoreError)
    code = getattr(error, "code", 0)
    if code in (errno.ENOSPC, errno.EDQUOT):
        cls = StoreFull
    status = -code if cls is StoreError and code > 0 else None
    return cls(f"{what}: {error}", status=status)


def boot_id() -> bytes:
    """Names this boot of the host: what was held in another one is nobody's any more."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


class LmdbFolder:
    """An open, locked folder.  ``is_kept``: it holds frames from before, and they count."""

    def __init__(self, path: str, *, keep: bool, readonly: bool) -> None:
        """Lock the folder, creating it unless ``readonly``.  Raises a ``StoreError``.

        ``readonly`` looks at what is there, even after a crash, and changes nothing; several
        readers may look at one folder.
        """
        self.path = Path(path)
        self.readonly = readonly
        self.is_created = False
        self._marker = self._fd = -1
        try:
            self._fd = self._lock()
            self.is_kept = self._claim(keep=keep)
        except BaseException as error:
            self._unlock()
            if self.is_created:
                self.path.rmdir()
            if isinstance(error, OSError):
                raise StoreError(
                    f"{error.filename or path}: {error.strerror}; the folder above must exist, "
                    "and the folder itself belong to this user",
                    status=-(error.errno or errno.EIO),
                ) from error
            raise

    def _lock(self) -> int:
        if not self.readonly and not self.path.exists():
            self.path.mkdir(mode=0o700)
            self.is_created = True
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise StoreWrongFile(
                f"{self.path} is no folder; an lmdb store needs one of its own"
            ) from None
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise StoreLocked(
                f"another store has {self.path} open; give each a folder of its own"
            ) from None
        return fd

    def _claim(self, *, keep: bool) -> bool:
        names = {entry.name for entry in self.path.iterdir()} - {"lost+found"}
        if _MARKER not in names and (names or self.readonly):
            found = f" (found {min(names)!r})" if names else ""
            raise StoreWrongFile(
                f"{self.path} holds no lmdb store of ours{found}; give the store an empty folder"
            )
        flags = os.O_RDONLY if self.readonly else os.O_RDWR | os.O_CREAT
        self._marker = os.open(
            self.path / _MARKER, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o600
        )
        is_kept = self._read_marker(has_foreign=bool(names - {_MARKER, *_DATA}))
        if self.readonly:
            return is_kept
        is_kept = is_kept and keep
        os.fchmod(self._fd, 0o700)
        # Before the frames are removed: a crash in between must not leave "kept" without them.
        self._write_marker(_OPEN)
        # The lock file's layout depends on the build of LMDB that made it.
        self._remove(_DATA[1:] if is_kept else _DATA)
        return is_kept

    def _read_marker(self, *, has_foreign: bool) -> bool:
        text = os.pread(self._marker, 128, 0)
        if not text and not has_foreign:
            return False  # a crash right after its creation
        match = re.match(rb"tierstore-lmdb (\d+)", text)
        if not match:
            raise StoreWrongFile(
                f"{self.path / _MARKER} is not the marker of an lmdb store; "
                "give the store an empty folder"
            )
        if int(match[1]) != 1:
            raise StoreVersion(
                f"{self.path} holds an lmdb store of version {int(match[1])}, this library "
                "writes version 1; delete the folder or use another"
            )
        if not self.readonly and text.startswith(_HELD + boot_id()):
            raise StoreWrongFile(
                f"{self.path} holds frames that belong to an engine's state folder; open it with "
                "that folder, or delete it"
            )
        return text == _KEPT

    def _write_marker(self, text: bytes) -> None:
        if os.pwrite(self._marker, text, 0) != len(text):
            raise StoreError(f"{self.path / _MARKER}: short write")
        os.ftruncate(self._marker, len(text))
        os.fsync(self._marker)
        os.fsync(self._fd)

    def _remove(self, names: tuple[str, ...]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()

    def _unlock(self) -> None:
        if self._marker >= 0:
            os.close(self._marker)
        if self._fd >= 0:
            os.close(self._fd)
        self._marker = self._fd = -1

    def close(self, *, keep: bool) -> None:
        """Mark the frames as kept (their data is on disk), or remove them; unlock."""
        if self._fd < 0:
            return
        try:
            if self.readonly:
                pass
            elif keep:
                self._write_marker(_KEPT)
            else:
                # The marker goes last: what is left at any moment is known as ours.
                self._remove((*_DATA, _MARKER))
        finally:
            self._unlock()
