# SPDX-License-Identifier: Apache-2.0
"""Reads and writes through io_uring, several in flight: the only place that knows ``liburing``.

Transfers are buffered: the package hands the kernel Python's own buffers, and those lie where they
like, which O_DIRECT does not allow.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import liburing

from tierstore.errors import HostError, Status

__all__ = ["FileRing"]

_DEPTH = 32
_PIECE = 128 << 10
_RETRIES = 16
_PASSING = (errno.EINTR, errno.EAGAIN)


class _Transfer:
    """A stretch of bytes on its way.  ``error``: why it did not get there."""

    def __init__(self, offset: int, data: Any) -> None:
        self.offset, self.data = offset, data
        self.error: OSError | None = None
        self.nr_retries = 0


class FileRing:
    """A ring for one descriptor.  Not for several threads at a time."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._ring = liburing.Ring()
        self._cqe = liburing.Cqe()
        try:
            liburing.io_uring_queue_init(_DEPTH, self._ring)
        except OSError as error:
            raise HostError(
                f"io_uring for {what}: {error.strerror}",
                status=Status.EPERMISSION if error.errno == errno.EPERM else Status.EUNSUPPORTED,
                hint="sysctl kernel.io_uring_disabled=0, or the store python-lmdb",
            ) from error

    def close(self) -> None:
        liburing.io_uring_queue_exit(self._ring)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray | OSError]:
        """The contents of each (offset, length); or why there are none."""
        transfers = [_Transfer(offset, bytearray(length)) for offset, length in ranges]
        self._run(transfers, liburing.io_uring_prep_read)
        return [transfer.error or transfer.data for transfer in transfers]

    def read_one(self, offset: int, length: int) -> bytearray:
        """One range, in pieces.  Raises ``OSError``."""
        pieces = self.read(
            [
                (at, min(_PIECE, offset + length - at))
                for at in range(offset, offset + length, _PIECE)
            ]
        )
        whole = bytearray()
        for piece in pieces:
            if isinstance(piece, OSError):
                raise piece
            whole += piece
        return whole

    def write_one(self, offset: int, data: Any) -> None:
        """One stretch, in pieces.  Raises ``OSError`` when any of them failed."""
        view = memoryview(data)
        transfers = [
            _Transfer(offset + at, bytes(view[at : at + _PIECE]))
            for at in range(0, len(view), _PIECE)
        ]
        self._run(transfers, liburing.io_uring_prep_write)
        for transfer in transfers:
            if transfer.error:
                raise transfer.error

    def discard(self, offset: int, length: int) -> None:
        """Give a range back to the medium.  Raises ``OSError`` where that can't be done."""
        mode = liburing.FALLOC_FL_PUNCH_HOLE | liburing.FALLOC_FL_KEEP_SIZE
        sqe = liburing.io_uring_get_sqe(self._ring)
        liburing.io_uring_prep_fallocate(sqe, self._fd, mode, offset, length)
        sqe.user_data = 0
        self._wait()
        self._complete()

    def _run(self, transfers: list[_Transfer], prepare: Callable[..., Any]) -> None:
        """All of them, at most ``_DEPTH`` at a time; returns when none is in flight."""
        waiting = list(range(len(transfers)))[::-1]
        nr_inflight = 0
        while waiting or nr_inflight:
            while waiting and nr_inflight < _DEPTH:
                number = waiting.pop()
                transfer = transfers[number]
                sqe = liburing.io_uring_get_sqe(self._ring)
                prepare(sqe, self._fd, transfer.data, transfer.offset)
                sqe.user_data = number
                nr_inflight += 1
            number = self._wait()
            nr_inflight -= 1
            if self._settle(transfers[number]):
                waiting.append(number)

    def _wait(self) -> int:
        """The number of the next transfer that is over."""
        liburing.io_uring_submit(self._ring)
        while True:
            try:
                liburing.io_uring_wait_cqe(self._ring, self._cqe)
                return int(self._cqe[0].user_data)
            except InterruptedError:
                continue

    def _complete(self) -> int:
        """The result of the completion at hand.  Raises ``OSError``."""
        entry = self._cqe[0]
        try:
            return int(entry.res)
        finally:
            liburing.io_uring_cqe_seen(self._ring, entry)

    def _settle(self, transfer: _Transfer) -> bool:
        """Takes one completion into account; true: try again."""
        try:
            result = self._complete()
        except OSError as error:
            transfer.error = error
            again = error.errno in _PASSING
        else:
            # A short one is repeated whole: that is simpler, and it hardly ever happens.
            done = result == len(transfer.data)
            transfer.error = None if done else OSError(errno.EIO, "short transfer")
            again = not done and result > 0
        transfer.nr_retries += again
        return again and transfer.nr_retries <= _RETRIES
