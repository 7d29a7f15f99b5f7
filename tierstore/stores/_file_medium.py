# SPDX-License-Identifier: Apache-2.0
"""What is behind the path of a file store: opening with care, locking, telling ours from theirs.

The rules are those of the C store (FORMAT.md, "File store"): an exclusive lock on the file itself;
a store that was not closed in order is reclaimed, one that was kept is opened only with ``keep=1``,
and anything else is never touched without ``init=1``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from pathlib import Path

from tierstore.errors import ConfigError, StoreError, StoreLocked, StoreWrongFile
from tierstore.stores import _file_format as fmt

__all__ = ["FileMedium"]

_LOCK_WAIT_S = 1.0
_LOCK_PAUSE_S = 0.005


class FileMedium:
    """An open, locked file or block device.

    ``layout`` is its superblock; ``is_kept`` tells that its records count, ``is_clean`` that every
    record which is not dead is current (else a reader takes the newest of each key).
    """

    def __init__(
        self, path: str, size_bytes: int, *, keep: bool, init: bool, readonly: bool
    ) -> None:
        """Open, lock, and recognise; format if need be.  Raises a ``StoreError``."""
        self.path = Path(path)
        self.is_created = False
        self.fd = -1
        try:
            self._open(readonly=readonly)
            self._recognise(size_bytes, keep=keep, init=init, readonly=readonly)
        except BaseException as error:
            if self.is_created and self.fd >= 0:
                self.path.unlink(missing_ok=True)
            self.close()
            if isinstance(error, OSError):
                raise StoreError(
                    f"{path}: {error.strerror}; name a file in a folder that exists, or a block "
                    "device, that this user may read and write",
                    status=-(error.errno or errno.EIO),
                ) from error
            raise

    def _open(self, *, readonly: bool) -> None:
        flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
        while True:
            try:
                fd = os.open(self.path, flags | os.O_NONBLOCK)
            except FileNotFoundError:
                if readonly:
                    raise
                try:
                    fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, mode=0o600)
                except FileExistsError:
                    continue
                self.is_created = True
            self._lock(fd, fcntl.LOCK_SH if readonly else fcntl.LOCK_EX)
            # Its last user may have removed it while we waited.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), self.path.stat()):
                    self.fd = fd
                    return
            os.close(fd)
            self.is_created = False

    def _lock(self, fd: int, kind: int) -> None:
        """The kernel lets go of a killed process's files a little after the process is gone."""
        end = time.monotonic() + _LOCK_WAIT_S
        never = threading.Event()
        while True:
            try:
                return fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.EWOULDBLOCK and time.monotonic() < end:
                    never.wait(_LOCK_PAUSE_S)
                    continue
                os.close(fd)
                self.is_created = False  # somebody else has it now
                if error.errno != errno.EWOULDBLOCK:
                    raise
            raise StoreLocked(
                f"{self.path} is in use by another process; each store needs a path of its own"
            )

    def _recognise(self, size_bytes: int, *, keep: bool, init: bool, readonly: bool) -> None:
        mode = os.fstat(self.fd).st_mode
        self.is_device = stat.S_ISBLK(mode)
        if not self.is_device and not stat.S_ISREG(mode):
            raise StoreWrongFile(f"{self.path} is no regular file and no block device")
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        block = os.pread(self.fd, fmt.BLOCK, 0)
        found = None
        if not init and len(block) == fmt.BLOCK:
            found = fmt.Super.parse(block, str(self.path))
        self.is_clean = found is not None and bool(found.flags & fmt.CLEAN)
        if found and not readonly and fmt.is_held(found.flags):
            raise StoreWrongFile(
                f"{self.path} holds frames that belong to an engine's state folder; open it with "
                "that folder, or with init=1 to discard them"
            )
        if found and (readonly or self.is_clean):
            self._accept(found, size_bytes, keep=keep, readonly=readonly)
        else:
            if readonly or (found is None and not init and not self._is_blank()):
                raise StoreWrongFile(
                    f"{self.path} holds something that is not a file store; left untouched.  Name "
                    "another path, or give init=1 to overwrite it"
                )
            self.is_created |= found is not None and bool(found.flags & fmt.CREATED)
            self._format(size_bytes)

    def _accept(self, found: fmt.Super, size_bytes: int, *, keep: bool, readonly: bool) -> None:
        """A store whose contents count."""
        if not keep and not readonly:
            raise StoreWrongFile(
                f"{self.path} holds a store that was kept; open it with keep=1, or with init=1 "
                "to discard its contents"
            )
        if not readonly and found.capacity_bytes != size_bytes // fmt.SEGMENT * fmt.SEGMENT:
            raise ConfigError(
                f"{self.path} is a kept store of {found.capacity_bytes} bytes, size says "
                f"{size_bytes}"
            )
        self.layout, self.is_kept = found, True
        if not readonly:
            # From now on disk and index differ until the next close.
            self.write_super(found.flags & ~fmt.CLEAN)

    def _is_blank(self) -> bool:
        """Nothing could get lost: no data in a file, no marks at the two ends of a device."""
        if self.size == 0:
            return True
        if not self.is_device:
            try:
                os.lseek(self.fd, 0, os.SEEK_DATA)
            except OSError as error:
                return error.errno == errno.ENXIO
            return False
        ends = (0, max(self.size - fmt.SEGMENT, 0))
        return not any(any(os.pread(self.fd, fmt.SEGMENT, end)) for end in ends)

    def _format(self, size_bytes: int) -> None:
        """Give up all contents; leftovers are no records of the new store."""
        self.layout, self.is_kept = fmt.Super.create(size_bytes), False
        if self.is_device and self.size < size_bytes:
            raise ConfigError(f"device {self.path} has {self.size} bytes, size says {size_bytes}")
        if not self.is_device:
            os.fchmod(self.fd, 0o600)
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, self.layout.capacity_bytes)
        self.write_super(fmt.CREATED if self.is_created else 0)

    def write_super(self, flags: int) -> None:
        """Raises ``OSError``."""
        self.layout.flags = flags
        if os.pwrite(self.fd, self.layout.to_block(), 0) != fmt.BLOCK:
            raise OSError(errno.EIO, "short write")

    def sync(self) -> None:
        """Wait until all that was written is on the medium.  Raises ``OSError``."""
        os.fdatasync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            # A ring keeps the file open until the kernel has taken it down: let go of the lock.
            with contextlib.suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
            self.fd = -1
