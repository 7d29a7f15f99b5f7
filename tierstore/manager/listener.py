# SPDX-License-Identifier: Apache-2.0
"""The socket that VMMs connect to: a private file, reclaimed when its owner is dead.

A lock beside the socket (``PATH.lock``) says whether its owner lives: the kernel drops it with the
process, however that ended.  What is at the path and is no socket is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

from tierstore.errors import HostError, UsageError

__all__ = ["Listener"]

BACKLOG = 64


class Listener:
    """A bound, listening, non-blocking socket and its lock.

    Raises ``UsageError`` if a living process listens there or the path is something else,
    ``HostError`` if this user may not make a socket there.
    """

    def __init__(self, path: Path, *, mode: int = 0o600, group: int | None = None) -> None:
        self.path = path
        if len(os.fsencode(path)) > 107:
            raise UsageError(f"{path}: longer than the 107 bytes that a socket's path may have")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock_fd = self._lock()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._reclaim()
            self._bind(mode, group)
        except BaseException as error:
            self.socket.close()
            os.close(self._lock_fd)
            if isinstance(error, OSError):
                raise HostError(f"{path}: no socket can be made here: {error.strerror}") from None
            raise

    def _lock(self) -> int:
        try:
            # Not followed: a link in a shared folder must not make us open somebody's file.
            flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._lock_path, flags, 0o600)
        except OSError as error:
            raise HostError(f"{self.path}: no socket can be made here: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise UsageError(f"{self.path}: another manager listens there") from None
        return fd

    def _reclaim(self) -> None:
        """Remove what a dead manager left; leave alone what anybody else has there."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise UsageError(f"{self.path}: exists, and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    self.path.unlink()
                    return
                if error.errno != errno.EAGAIN:
                    raise
        raise UsageError(f"{self.path}: another program listens there")

    def _bind(self, mode: int, group: int | None) -> None:
        before = os.umask(0o177)
        try:
            self.socket.bind(str(self.path))
        finally:
            os.umask(before)
        # The group first: a wider mode must never be in force for the wrong group.
        if group is not None:
            os.chown(self.path, -1, group)
        self.path.chmod(mode)
        self._inode = self.path.lstat().st_ino
        self.socket.setblocking(False)
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Stop listening and remove the socket, unless somebody put another there."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        with contextlib.suppress(OSError):
            # Locked by us until the close below: nobody can hold it meanwhile.
            self._lock_path.unlink()
        os.close(self._lock_fd)
