# SPDX-License-Identifier: Apache-2.0
"""How ``tierstore stat`` and ``top`` reach a running engine: a unix socket, JSON lines.

A process that publishes has one socket, named by its pid, in a folder that is its user's alone:
``$XDG_RUNTIME_DIR/tierstore``, ``/run/tierstore`` for root, else ``/tmp/tierstore-UID``.  The
socket is 0600, the peer's uid is checked at every connection (root may ask anyone).  A client
sends a line ``{"ask": "statistics"}`` and gets a line; as often as it likes.  A manager answers
more (``vms``, ``release``): what a publisher was given as ``commands``.

Sockets of dead processes are removed by whoever finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tierstore.errors import HostError, UsageError

__all__ = [
    "Client",
    "Command",
    "Publisher",
    "accepted",
    "find_publishers",
    "is_alive",
    "peer_ids",
    "runtime_folder",
]

LINE_BYTES_MAX = 4096
"""The longest request; an answer may be longer."""
CLIENTS_MAX = 16
TIMEOUT_S = 10.0
RETRY_S = 0.5
UNHEARD = ".new"
"""What a socket is called instead of ".sock" until it listens."""
PATH_BYTES_MAX = 88
"""Of the folder: a socket's path has at most 107 bytes, "/run-4194304.socket" among them."""


def runtime_folder(*, create: bool = False) -> Path:
    """This user's folder for sockets.

    Raises ``HostError`` if its path is too long, or if it exists and is not this user's own, which
    is how others would put a socket of theirs in front of us.
    """
    uid = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "tierstore"
    elif uid == 0:
        folder = Path("/run/tierstore")
    else:
        folder = Path(f"/tmp/tierstore-{uid}")
    if len(os.fsencode(folder)) > PATH_BYTES_MAX:
        raise HostError(
            f"{folder}: too long a path for sockets",
            hint=f"set XDG_RUNTIME_DIR to one of less than {PATH_BYTES_MAX - 10} bytes",
        )
    if create:
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.exists():
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
            raise HostError(f"{folder} is not a folder of user {uid}; remove it")
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
    return folder


def is_alive(pid: int) -> bool:
    """Whether there is such a process, reaped or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find_publishers() -> list[int]:
    """The pids of this user's engines that publish, oldest socket first; removes stale sockets."""
    folder = runtime_folder()
    found: list[tuple[float, int]] = []
    if not folder.is_dir():
        return []
    for path in folder.iterdir():
        if path.suffix not in (".sock", UNHEARD) or not path.stem.isdigit():
            continue
        pid = int(path.stem)
        with contextlib.suppress(FileNotFoundError):
            if not is_alive(pid):
                path.unlink()
            elif path.suffix == ".sock":
                found.append((path.lstat().st_mtime, pid))
    return [pid for _, pid in sorted(found)]


def peer_ids(connection: socket.socket) -> tuple[int, int]:
    """Who is at the other end of a unix socket: pid and uid, as the kernel says."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", raw)
    return int(pid), int(uid)


def _peer_uid(connection: socket.socket) -> int:
    return peer_ids(connection)[1]


def accepted(listener: socket.socket, closing: threading.Event) -> Iterator[socket.socket]:
    """Connections, until ``closing`` is set and the listener shut down, in this order."""
    while not closing.is_set():
        try:
            yield listener.accept()[0]
        except OSError:
            # Out of descriptors, most likely: those who wait are served when there are some.
            closing.wait(RETRY_S)


Command = Callable[[dict[str, Any]], dict[str, Any]]
"""Gets the request, returns what is added to the answer; an exception becomes its ``error``."""


class Publisher:
    """Answers ``ask()`` to whoever connects, on threads of its own, until closed.

    ``ask`` returns one snapshot an engine, as JSON can hold it; it is called on those threads, and
    so are ``commands``, by what is asked for.  Raises ``UsageError`` if this process publishes
    already.
    """

    def __init__(
        self,
        ask: Callable[[], list[dict[str, Any]]],
        commands: Mapping[str, Command] | None = None,
        *,
        pid: int | None = None,
    ) -> None:
        """``pid``: for another process, which this one answers for."""
        self._ask = ask
        self._commands = dict(commands or {})
        self._pid = os.getpid() if pid is None else pid
        self.path = runtime_folder(create=True) / f"{self._pid}.sock"
        find_publishers()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._bind()
        except BaseException:
            self._socket.close()
            raise
        self._closing = threading.Event()
        self._slots = threading.BoundedSemaphore(CLIENTS_MAX)
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()  # guards _clients
        self._thread = threading.Thread(target=self._accept, name="tierstore-control", daemon=True)
        self._thread.start()

    def _bind(self) -> None:
        # A pid that came round again: what bears its name is a leftover, or our own.
        with contextlib.suppress(OSError), Client(self._pid):
            raise UsageError("this process publishes its statistics already")
        # Under its name once it listens: who finds it before that would be refused.
        unheard = self.path.with_suffix(UNHEARD)
        unheard.unlink(missing_ok=True)
        # The folder is 0700: between bind and chmod nobody else can reach the socket.
        self._socket.bind(str(unheard))
        unheard.chmod(0o600)
        self._socket.listen(CLIENTS_MAX)
        unheard.rename(self.path)

    def _accept(self) -> None:
        for connection in accepted(self._socket, self._closing):
            if _peer_uid(connection) not in (os.geteuid(), 0) or not self._slots.acquire(False):
                connection.close()
                continue
            with self._lock:
                self._clients.add(connection)
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="tierstore-client", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # No thread to be had now: who asks is hung up on, and others are served later.
                connection.close()
                self._done(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                for line in iter(lambda: lines.readline(LINE_BYTES_MAX), b""):
                    answer = json.dumps(self._answer(line)) + "\n"
                    connection.sendall(answer.encode())
        except OSError:
            pass  # the client has gone
        finally:
            self._done(connection)

    def _done(self, connection: socket.socket) -> None:
        with self._lock:
            self._clients.discard(connection)
        self._slots.release()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "not JSON"}
        asked = request.get("ask") if isinstance(request, dict) else None
        try:
            if asked == "statistics":
                return {"pid": self._pid, "engines": self._ask()}
            if isinstance(asked, str) and asked in self._commands:
                return {"pid": self._pid} | self._commands[asked](request)
            known = ", ".join(["statistics", *self._commands])
            return {"error": f"only {known} can be asked for"}
        except Exception as error:
            return {"error": str(error) or type(error).__name__}

    def close(self) -> None:
        """Stop answering and remove the socket.  Idempotent."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        with self._lock:
            for connection in self._clients:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """A connection to a publishing process.  Raises ``OSError`` if there is none."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(runtime_folder() / f"{pid}.sock"))
            if _peer_uid(self._socket) != os.geteuid():
                raise PermissionError("the socket is another user's")
        except BaseException:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def statistics(self) -> list[dict[str, Any]]:
        """One snapshot for each engine of the process, as ``Statistics.as_dict`` made it.

        Raises ``OSError`` when the process has gone, ``HostError`` when it can't answer.
        """
        engines: list[dict[str, Any]] = self.ask("statistics")["engines"]
        return engines

    def ask(self, what: str, **details: str | int) -> dict[str, Any]:
        """The whole answer to any request.  Raises as ``statistics``."""
        try:
            self._socket.sendall(json.dumps({"ask": what} | details).encode() + b"\n")
            line = self._lines.readline()
        except TimeoutError:
            raise HostError(
                f"process {self.pid} has not answered within {TIMEOUT_S:g} s; is it stopped?"
            ) from None
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise ConnectionResetError(f"process {self.pid} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise HostError(f"process {self.pid}: {answer['error']}")
        return answer

    def vms(self) -> list[dict[str, Any]]:
        """One report a VM of a manager; empty for a process that is none."""
        try:
            vms: list[dict[str, Any]] = self.ask("vms")["vms"]
        except HostError:
            return []
        return vms

    def close(self) -> None:
        """Hang up.  Idempotent."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
