# SPDX-License-Identifier: Apache-2.0
"""Starts a program with the shim, and waits for it like a shell would."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

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


@contextlib.contextmanager
def _signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches the program by itself; what is sent to us alone is passed on."""

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        environment = _environment(socket_path, rule or Rule(), follow=follow)
        # Signals are for this thread: another one would note them and leave it asleep.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            listener = Listener(socket_path, config, say)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        stack.callback(listener.close)
        process = subprocess.Popen(list(command), env=environment)
        with _signals(process):
            code = process.wait()
        return Outcome(code if code >= 0 else 128 - code, len(listener.sessions))
