# SPDX-License-Identifier: Apache-2.0
"""The sockets and who is let in: users, numbers, one connection after the other.

Lives on the loop's thread.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from tierstore.errors import ConfigError, TierstoreError, UsageError
from tierstore.manager.bounds import CONNECTIONS_MAX, CONNECTIONS_PER_PID_MAX
from tierstore.manager.config import ManagerConfig
from tierstore.manager.connection import Connection, Deliver, Left
from tierstore.manager.listener import Listener
from tierstore.manager.loop import Loop
from tierstore.manager.peer import Peer, group_id, user_ids
from tierstore.manager.protocol import protocol_names

__all__ = ["Reception"]

logger = logging.getLogger("tierstore.manager")


class Reception:
    """Owns listeners and connections.  Constructing one opens the sockets."""

    def __init__(
        self, settings: ManagerConfig, loop: Loop, *, deliver: Deliver, left: Left
    ) -> None:
        """``deliver`` and ``left`` are every connection's (see ``Connection``)."""
        if not settings.listen:
            raise ConfigError("no socket to listen on: say --listen PATH")
        self._loop = loop
        self._deliver = deliver
        self._left = left
        self._users = user_ids(settings.users) or frozenset({os.geteuid(), 0})
        self._patience_s = settings.handshake_timeout
        self.connections: set[Connection] = set()
        group = None if settings.group is None else group_id(settings.group)
        self._listeners: list[Listener] = []
        try:
            for path in settings.listen:
                self._listeners.append(Listener(path, mode=settings.mode, group=group))
        except BaseException:
            self.stop_listening()
            raise

    def listen(self) -> None:
        """From now on connections are taken."""
        for listener in self._listeners:
            self._watch(listener)
            logger.info("listening on %s for %s", listener.path, ", ".join(protocol_names()))

    def _watch(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._loop.watch(listener.socket.fileno(), lambda: self._on_accept(listener))

    def _on_accept(self, listener: Listener) -> None:
        try:
            connected, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: wait, or this is asked again at once, for ever.
            logger.error("%s: %s", listener.path, error.strerror or error)
            self._loop.forget(listener.socket.fileno())
            self._loop.after(1.0, lambda: self._watch(listener))
            return
        try:
            self._admit(connected, listener.path)
        except (TierstoreError, OSError) as error:
            logger.error("%s: a connection was refused: %s", listener.path, error)
            connected.close()

    def _admit(self, connected: socket.socket, path: Path) -> None:
        peer = Peer.of(connected)
        try:
            if peer.uid not in self._users:
                users = ", ".join(str(uid) for uid in sorted(self._users))
                raise UsageError(
                    f"process {peer.pid} is of user {peer.uid}, and only VMMs of the users "
                    f"{users} are served: see --users"
                )
            same = sum(each.peer.pid == peer.pid for each in self.connections)
            if same >= CONNECTIONS_PER_PID_MAX or len(self.connections) >= CONNECTIONS_MAX:
                raise UsageError(f"process {peer.pid}: too many connections")
        except BaseException:
            peer.close()
            raise
        self.connections.add(
            Connection(
                self._loop,
                connected,
                peer,
                path,
                deliver=self._deliver,
                left=self._on_left,
                patience_s=self._patience_s,
            )
        )

    def _on_left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._left(connection)

    def hang_up(self, peer: Peer) -> None:
        """Close the connections of a process that is served no more."""
        for connection in list(self.connections):
            if connection.peer is peer:
                connection.close()

    def stop_listening(self) -> None:
        """Take nobody on any more, and remove the sockets.  Idempotent."""
        for listener in self._listeners:
            self._loop.forget(listener.socket.fileno())
            listener.close()
        self._listeners.clear()

    def close(self) -> None:
        """Hang up everywhere.  Idempotent."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.close()
