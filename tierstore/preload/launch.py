# SPDX-License-Identifier: Apache-2.0
"""Starts a program with the shim, and waits for it like a shell would."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tierstore._signals import caught
from tierstore._tiers import read_dictionary
from tierstore.config import Config
from tierstore.control import runtime_folder
from tierstore.errors import HostError, UsageError
from tierstore.preload.rule import Rule
from tierstore.preload.session import Listener
from tierstore.preload.wire import config_struct

__all__ = ["Outcome", "default_config", "run_command", "shim_path"]

FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How the program ended, as a shell says it, and how many of its processes had an engine."""

    exit_code: int
    nr_sessions: int


def shim_path() -> Path:
    """The library that is preloaded.  Raises ``HostError`` if this installation has none."""
    path = Path(__file__).resolve().parent.parent / "_native" / "libtierstore-preload.so"
    if not path.exists():
        raise HostError(
            f"{path} is missing: this build of tierstore has no preload shim",
            hint="install the wheel, or build without a sanitizer",
        )
    return path


def default_config(folder: Path) -> Config:
    """RAM and a file below ``folder``: what `tierstore run` takes without --config."""
    return Config.from_dict(
        {
            "engine": {"interval": "10s"},
            "tier": [
                {"name": "warm", "store": "ram", "codec": "lz4", "size": "256MiB"},
                {
                    "name": "cold",
                    "store": "file",
                    "codec": "zstd",
                    "range": "64KiB",
                    "size": "64GiB",
                    "path": folder / "{pid}.frames",
                },
            ]
        },
        source="default configuration",
    )


def _environment(socket_path: Path, rule: Rule, *, follow: bool) -> dict[str, str]:
    environment = dict(os.environ)
    before = environment.get("LD_PRELOAD", "")
    shim = str(shim_path())
    for text, what in ((shim, "the shim's path"), (str(socket_path), "the socket's path")):
        if any(mark in text for mark in " :;"):
            raise HostError(f"{what} must not contain spaces, colons or semicolons: {text}")
    settings = f"socket={socket_path};{rule.settings()}"
    if not follow:
        # The shim puts things back as they were: what the program executes starts without it.
        settings += f";preload={before}"
    environment["LD_PRELOAD"] = f"{shim}:{before}" if before else shim
    environment["TIERSTORE_RUN"] = settings
    return environment


class _Signals:
    """Passes on to a program what is sent to us alone, from before it starts until it has ended.

    Ctrl-C reaches the program by itself.  What we were told to ignore (nohup) it ignores as well.

    The program's end is its pidfd's: SIGCHLD goes to any thread of ours, and to nobody if that one
    ignores it.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._arrived, wakeup = socket.socketpair()
            for end in (self._arrived, wakeup):
                stack.enter_context(end).setblocking(False)
            numbers = (*FORWARDED, signal.SIGINT, signal.SIGQUIT)
            heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
            stack.enter_context(caught(heard, wakeup.fileno()))
            self._stack = stack.pop_all()
        return self

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Until it has ended; its exit code as :class:`subprocess.Popen` has it."""
        with contextlib.ExitStack() as stack:
            pidfd = os.pidfd_open(process.pid)
            stack.callback(os.close, pidfd)
            watched = stack.enter_context(selectors.DefaultSelector())
            watched.register(pidfd, selectors.EVENT_READ)
            watched.register(self._arrived, selectors.EVENT_READ)
            while process.poll() is None:
                watched.select()
                for number in self._read():
                    if number in FORWARDED:
                        process.send_signal(number)
        return int(process.returncode)

    def _read(self) -> bytes:
        try:
            return self._arrived.recv(4096)
        except BlockingIOError:
            return b""

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise UsageError(f"{command[0]} can't be run: {error.strerror}") from None


def run_command(
    command: Sequence[str],
    *,
    config: Config | None = None,
    rule: Rule | None = None,
    follow: bool = False,
    say: Callable[[int, str], None] = lambda level, line: None,
) -> Outcome:
    """Run ``command`` with tiers, until it ends.  On the main thread.

    ``follow``: what it executes gets tiers, too.  ``say`` gets levels of :mod:`logging` and
    lines for a person, on several threads.  Raises ``UsageError`` if there is no such command,
    ``ConfigError``, ``HostError``.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(f"no such command: {command[0]}")
    socket_path = runtime_folder(create=True) / f"run-{os.getpid()}.socket"
    with contextlib.ExitStack() as stack:
        if config is None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="tierstore-run-", dir="/var/tmp", ignore_cleanup_errors=True
                )
            )
            config = default_config(Path(folder))
        # What is wrong for every process is said once, and before anything runs.
        config_struct(config)
        for tier in config.tier:
            read_dictionary(tier)
        environment = _environment(socket_path, rule or Rule(), follow=follow)
        listener = Listener(socket_path, config, say)
        stack.callback(listener.close)
        with _Signals() as signals:
            code = signals.wait(_start(command, environment))
        return Outcome(code if code >= 0 else 128 - code, len(listener.sessions))
