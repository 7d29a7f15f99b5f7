# SPDX-License-Identifier: Apache-2.0
"""One VMM's connection: bytes and descriptors in, messages out, one byte back.

It reads a message at a time: while that is worked on, nothing more is read.  A connection that says
nonsense, or takes too long to say anything, is closed; that ends no VM that was handed over on it.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tierstore.errors import TierstoreError
from tierstore.manager import addresses
from tierstore.manager.bounds import MEMFDS_MAX
from tierstore.manager.loop import Loop, Timer
from tierstore.manager.peer import Peer
from tierstore.manager.protocol import Handoff, Message, MessageError, Protocol, find_protocol

__all__ = ["Connection"]

logger = logging.getLogger("tierstore.manager")

FDS_MAX = 1 + MEMFDS_MAX
READ_BYTES = 16 << 10

Deliver = Callable[["Connection", Message], None]
Left = Callable[["Connection"], None]


class Connection:
    """Lives on the loop's thread.  Owns the socket, the peer, and descriptors not yet taken."""

    def __init__(
        self,
        loop: Loop,
        connected: socket.socket,
        peer: Peer,
        path: Path,
        *,
        deliver: Deliver,
        left: Left,
        patience_s: float,
    ) -> None:
        """``deliver`` gets each message, and calls ``proceed`` or ``close`` when it is done."""
        self.peer = peer
        self.path = path
        self.protocol: Protocol | None = None
        self.is_open = True
        self._loop = loop
        self._socket = connected
        self._deliver = deliver
        self._left = left
        self._head = b""
        self._fds: list[int] = []
        self._messages: deque[Message] = deque()
        self._deadline: Timer | None = loop.after(patience_s, self._on_deadline)
        self._patience_s = patience_s
        connected.setblocking(False)
        loop.watch(connected.fileno(), self._on_readable)

    def __str__(self) -> str:
        return f"{self.peer.name} on {self.path}"

    # ---- Reading ------------------------------------------------------------------------

    def _on_deadline(self) -> None:
        # It may have been us who were late, and what it sent in time is still to be read.
        self._on_readable()
        if self._deadline is None:
            return
        self._deadline = None
        what = "no userfaultfd" if self._messages else "no whole message"
        self.refuse(f"{what} came within {self._patience_s:g} s (handshake_timeout)")

    def _on_readable(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            logger.info("%s: %s", self, error.strerror or error)
            self.close()
            return
        except MessageError as error:
            self.refuse(str(error))
            return
        if not data:
            self._on_end()
            return
        try:
            self._take(data)
        except TierstoreError as error:
            self.refuse(str(error))

    def _receive(self) -> bytes:
        room = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
        data, ancillary, flags, _ = self._socket.recvmsg(
            READ_BYTES, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
            raise MessageError(f"it sent more than {FDS_MAX} descriptors")
        return data

    def _on_end(self) -> None:
        if self._deadline is not None:
            logger.warning("%s: hung up before it had handed anything over", self)
        self.close()

    def _take(self, data: bytes) -> None:
        if self.protocol is None:
            data = self._head + data
            self.protocol = find_protocol(data)
            if self.protocol is None:
                self._head = data
                return
            self._head = b""
        self._messages.extend(self.protocol.feed(data))
        self._next()

    def _next(self) -> None:
        """Deliver what is complete; a hand-over's descriptor may come after its message."""
        if not self._messages:
            return
        message = self._messages[0]
        if isinstance(message, Handoff):
            if not self._fds:
                return
            if not addresses.is_userfaultfd(self._fds[0]):
                raise MessageError("the descriptor that it sent first is no userfaultfd")
        self._loop.forget(self._socket.fileno())
        self._cancel_deadline()
        self._messages.popleft()
        self._deliver(self, message)

    def take_fds(self) -> list[int]:
        """The descriptors that came with the message; they are the caller's now."""
        fds, self._fds = self._fds, []
        return fds

    # ---- Answering ----------------------------------------------------------------------

    def proceed(self) -> None:
        """The message was done: answer it, and wait for the next."""
        if not self.is_open or self.protocol is None:
            return
        if self.protocol.answer and not self._send(self.protocol.answer):
            return
        if self._messages:
            self._loop.post(self._again)
        elif not self.protocol.is_over:
            # Of one that is over nothing is expected: the pidfd says when its process ends.
            self._loop.watch(self._socket.fileno(), self._on_readable)

    def _again(self) -> None:
        if self.is_open:
            try:
                self._next()
            except TierstoreError as error:
                self.refuse(str(error))

    def _send(self, answer: bytes) -> bool:
        try:
            # A VMM that reads its answers has room for a byte; nobody else is waited for.
            self._socket.send(answer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            logger.warning("%s: did not take its answer: %s", self, error.strerror or error)
            self.close()
            return False
        return True

    # ---- The end ------------------------------------------------------------------------

    def refuse(self, why: str) -> None:
        """Log, and close."""
        logger.error("%s: refused: %s", self, why)
        self.close()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def close(self) -> None:
        """Hang up.  Idempotent.  The peer stays open: whoever owns the VM closes it."""
        if not self.is_open:
            return
        self.is_open = False
        self._cancel_deadline()
        self._loop.forget(self._socket.fileno())
        with contextlib.suppress(OSError):
            self._socket.close()
        for fd in self.take_fds():
            os.close(fd)
        self._messages.clear()
        self._left(self)
