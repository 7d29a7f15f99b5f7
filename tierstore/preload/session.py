# SPDX-License-Identifier: Apache-2.0
"""The controller's side: programs connect, get their configuration, and are driven.

A process has one session at a time.  It ends when the process does, or before it forks (the shim
brings everything back first), and then it comes again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tierstore._controller import Controller
from tierstore._native import ffi, lib
from tierstore._tiers import read_dictionary
from tierstore._training import Trainer
from tierstore.config import Config
from tierstore.control import Publisher, accepted, is_alive, peer_ids
from tierstore.errors import ConfigError, TierstoreError
from tierstore.preload.remote import RemoteEngine
from tierstore.preload.wire import Channel, config_struct, receive, send

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = ["Cycle", "Listener", "Session", "config_for_process"]

Say = Callable[[int, str], None]
"""Gets a level of :mod:`logging` and a line; on several threads."""
HELLO_TIMEOUT_S = 10.0
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
PLACEHOLDER = "{pid}"


def config_for_process(config: Config, pid: int) -> tuple[Config, list[Path]]:
    """The configuration with ``{pid}`` in paths filled in, and the paths that had one."""
    data = config.to_dict()
    own: list[Path] = []
    for tier in data["tier"]:
        path = str(tier.get("path", ""))
        if PLACEHOLDER in path:
            tier["path"] = path.replace(PLACEHOLDER, str(pid))
            own.append(Path(tier["path"]))
    return Config.from_dict(data), own


class _Trainer(Trainer):
    """Of a program, which may fork at any moment: its next session is answered within seconds."""

    def join(self) -> None:
        """Nobody waits for a dictionary that nobody will get."""


class Cycle(Controller):
    """A session's."""

    def __init__(self, engine: RemoteEngine, tell: Callable[[str], None]) -> None:
        """``tell`` gets a line for each trouble."""
        super().__init__(cast("Engine", engine))
        self._trainer = _Trainer(cast("Engine", engine))
        self._tell = tell

    def _say(self, line: str, trace: BaseException | None) -> None:
        if trace is not None:
            line = "".join([line + "\n", *traceback.format_exception(trace)]).rstrip()
        self._tell(line)


class Session:
    """One process, from its hello until it ends or forks."""

    def __init__(
        self, pid: int, program: str, config: Config, connections: list[socket.socket], say: Say
    ) -> None:
        self.pid = pid
        self.title = f"{pid} ({program})"
        self._say = say
        self._config, self._own_paths = config_for_process(config, pid)
        self._connections = connections
        self._engine: RemoteEngine | None = None
        self._publisher: Publisher | None = None
        self._controller: Controller | None = None
        self._life = threading.Lock()  # guards the two above, and is_closed
        self.is_closed = False

    def start(self) -> None:
        """Hand over the configuration and wait for the engine.

        Raises ``TierstoreError`` or ``OSError``; the program then runs without us.
        """
        control, watch, _ = self._connections
        try:
            packed = config_struct(self._config)
        except ConfigError as error:
            send(control, lib.TSP_CONFIG, str(error).encode()[:500], rc=error.status)
            raise
        # The file of a process of that number that has died.
        self._remove_paths()
        send(control, lib.TSP_CONFIG, packed)
        head, text = receive(control)
        if head.rc < 0:
            raise TierstoreError(text.decode("utf-8", "replace"), status=head.rc)
        engine = self._engine = RemoteEngine(self._config, Channel(control), Channel(watch))
        for tier in self._config.tier:
            dictionary = read_dictionary(tier)
            if dictionary is not None:
                engine.set_dictionary(tier.name, dictionary)
        with self._life:
            if self.is_closed:
                raise ConnectionAbortedError("its session has ended")
            self._controller = Cycle(engine, self._complain)
            self._controller.start()
            self._publish(engine)

    def _complain(self, line: str) -> None:
        self._say(logging.ERROR, f"process {self.title}: {line}")

    def _publish(self, engine: RemoteEngine) -> None:
        try:
            self._publisher = Publisher(lambda: [engine.statistics().as_dict()], pid=self.pid)
        except (OSError, TierstoreError) as error:
            self._say(logging.WARNING, f"process {self.title}: no control socket: {error}")

    def listen(self) -> None:
        """Pass the engine's log on until the session ends."""
        log = self._connections[2]
        with contextlib.suppress(OSError):
            while True:
                head, text = receive(log)
                if head.type == lib.TSP_LINE:
                    line = text.decode("utf-8", "replace")
                    self._say(_LEVELS[min(max(head.rc, 0), 3)], f"process {self.title}: {line}")

    def close(self) -> None:
        """Let go of a process that has gone, or has ended its session.  Idempotent."""
        # First: whoever starts or drives it may be waiting for an answer.
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._life:
            self.is_closed = True
            if self._publisher is not None:
                self._publisher.close()
            if self._controller is not None:
                self._controller.stop()
            for connection in self._connections:
                connection.close()
            engine, self._engine = self._engine, None
        if engine is not None and engine.last is not None:
            evicted, faults = engine.last.evictions.evicted, engine.last.faults.total
            line = f"process {self.title}: {evicted:,} pages left, {faults:,} faults"
            self._say(logging.INFO, line)

    def _remove_paths(self) -> None:
        """What bears the process's number is of no use to anybody else."""
        for path in self._own_paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """The process has ended: remove its files."""
        try:
            self._remove_paths()
        except OSError as error:
            self._say(logging.WARNING, f"process {self.title}: its files stay: {error}")


class Listener:
    """Accepts the processes of one ``tierstore run``."""

    def __init__(self, path: Path, config: Config, say: Say) -> None:
        self._config = config
        self._say = say
        self._path = path
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards _sessions and _seen
        self._half: dict[int, dict[int, socket.socket]] = {}
        self._sessions: dict[int, Session] = {}
        self._seen: list[Session] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._accept, name="tierstore-run", daemon=True)
        self._thread.start()

    @property
    def sessions(self) -> list[Session]:
        """All that there have been."""
        with self._lock:
            return list(self._seen)

    def _accept(self) -> None:
        for connection in accepted(self._socket, self._closing):
            try:
                self._greet(connection)
            except (OSError, TierstoreError, RuntimeError) as error:
                # RuntimeError: there is no thread to be had.
                connection.close()
                self._say(logging.ERROR, f"a process that could not be greeted: {error}")

    def _greet(self, connection: socket.socket) -> None:
        pid, uid = peer_ids(connection)
        if uid not in (os.geteuid(), 0):
            raise PermissionError(f"process {pid} is another user's")
        connection.settimeout(HELLO_TIMEOUT_S)
        _, payload = receive(connection)
        connection.settimeout(None)
        hello = ffi.new("struct tsp_hello *")
        if len(payload) != ffi.sizeof("struct tsp_hello"):
            raise ConnectionAbortedError("a shim of another version")
        ffi.memmove(hello, payload, len(payload))
        if (hello.version, hello.stats_bytes, hello.config_bytes) != (
            lib.TSP_WIRE_VERSION,
            ffi.sizeof("struct ts_stats"),
            ffi.sizeof("struct tsp_config"),
        ):
            raise ConnectionAbortedError("a shim of another version")
        if hello.channel >= 3:
            raise ConnectionAbortedError(f"a channel {hello.channel}, which there is not")
        half = self._half.setdefault(pid, {})
        half[int(hello.channel)] = connection
        if len(half) == 3:
            program = bytes(ffi.string(hello.program)).decode("utf-8", "replace")
            connections = [half[i] for i in range(3)]
            del self._half[pid]
            session = Session(pid, program, self._config, connections, self._say)
            with self._lock:
                before = self._sessions.get(pid)
                self._sessions[pid] = session
                self._seen.append(session)
            threading.Thread(target=self._run, args=(session, before), daemon=True).start()

    def _run(self, session: Session, before: Session | None) -> None:
        if before is not None:
            before.close()
        try:
            session.start()
            self._sweep()
            session.listen()
        except Exception as error:
            if not session.is_closed:
                text = str(error) or type(error).__name__
                self._say(logging.ERROR, f"process {session.title} runs without tiers: {text}")
        finally:
            session.close()
            self._sweep()

    def _sweep(self) -> None:
        """What a process has left in the tiers is removed when it has ended, or a little later."""
        with self._lock:
            ended = [s for s in self._sessions.values() if s.is_closed and not is_alive(s.pid)]
            for session in ended:
                del self._sessions[session.pid]
                # Locked: another process of that number gets its files after this.
                session.forget()

    def close(self) -> None:
        """Ends the listener and every session.  Idempotent."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.close()
            session.forget()
        self._path.unlink(missing_ok=True)
