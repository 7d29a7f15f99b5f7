# SPDX-License-Identifier: Apache-2.0
"""``tierstore serve`` as a process: engine, manager, control socket, signals, systemd.

At SIGTERM or SIGINT no new VM is taken on.  Without a state folder every VM gets its memory back
and runs on in plain RAM, for at most ``drain_timeout``; with one, VMs are left as they are: what is
evicted stays in the tiers, and a guest that touches it waits for the next manager.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tierstore._signals import caught
from tierstore.control import Publisher
from tierstore.engine import Engine
from tierstore.errors import ConfigError, TierstoreError
from tierstore.manager.config import ServeConfig
from tierstore.manager.manager import Manager

__all__ = ["log_to_stderr", "notify", "serve"]

logger = logging.getLogger("tierstore.manager")

NOTIFY_S = 5.0
"""How often systemd and the log hear of a drain that takes its time."""


class _JournalFormatter(logging.Formatter):
    """systemd reads a line's priority from its first characters."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in self._PRIORITIES if record.levelno >= level), 7)
        return f"<{priority}>" + super().format(record).replace("\n", f"\n<{priority}>")


def log_to_stderr(*, verbose: bool = False) -> None:
    """Lines on stderr: with time and level, or as systemd's journal wants them."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("tierstore")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)


def notify(state: str) -> None:
    """Tell systemd (sd_notify); nothing happens where nobody asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier,
    ):
        notifier.sendto(state.encode(), address)


def _signals(manager: Manager, seen: list[int]) -> contextlib.AbstractContextManager[None]:
    """The first signal stops the manager, the second one what it does to stop."""

    def on_signal(number: int) -> None:
        seen.append(number)
        manager.stop()

    return caught((signal.SIGINT, signal.SIGTERM), manager.loop.wakeup_fd, on_signal)


def _commands(manager: Manager) -> dict[str, Any]:
    importer, state = manager.importer, manager.config.manager.state
    return {
        "imports": lambda request: {
            "imports": importer.report(),
            "state": str(state.resolve()) if state is not None else None,
        },
        "import": lambda request: {
            "importing": importer.begin(str(request.get("path")), str(request.get("name", "")))
        },
        "vms": lambda request: {"vms": manager.vms(), "past": manager.past()},
        "release": lambda request: {"releasing": manager.release(str(request.get("vm", "")))},
    }


def _publish(manager: Manager) -> Publisher | None:
    def ask() -> list[dict[str, Any]]:
        return [manager.engine.statistics().as_dict()]

    try:
        return Publisher(ask, _commands(manager))
    except (OSError, TierstoreError) as error:
        logger.warning("no control socket, so `tierstore stat` won't find this: %s", error)
        return None


def _drain(manager: Manager, seen: list[int]) -> list[str]:
    """Let all VMs go, until a second signal; the names of those that could not be."""
    timeout_s = manager.config.manager.drain_timeout
    vms = manager.vms()
    nr_stay = sum(vm["is_persistent"] for vm in vms)
    if nr_stay:
        logger.info("stopping: %d VM(s) are left as they are, for the next manager", nr_stay)
    if len(vms) > nr_stay:
        logger.info(
            "stopping: %d VM(s) get their memory back, within %g s; signal again to end at once",
            len(vms) - nr_stay, timeout_s,
        )  # fmt: skip
    due_s = time.monotonic() + timeout_s
    manager.begin_drain()
    left = manager.still_draining()
    told_s = time.monotonic()
    while left and time.monotonic() < due_s and len(seen) < 2:
        manager.loop.step(timeout_s=0.2)
        left = manager.still_draining()
        if left and time.monotonic() - told_s > NOTIFY_S:
            told_s = time.monotonic()
            # systemd waits longer for whoever asks again in time.
            notify(f"EXTEND_TIMEOUT_USEC={int(4e6 * NOTIFY_S)}\nSTATUS=Releasing {len(left)} VMs")
            logger.info("still releasing: %s", ", ".join(left))
    return left


def serve(config: ServeConfig) -> list[str]:
    """Serve until a signal; the names of VMs that had to be left without their memory.

    Raises what opening the engine and the sockets does.  With a state folder, or with such VMs,
    the engine is still open afterwards: closing it would bring memory back.  End the process then.
    """
    state = config.manager.state
    if state is not None:
        _make_folder(state)
    engine = Engine(config, state=state)
    left: list[str] = []
    is_served = False
    try:
        manager = Manager(config, engine)
        seen: list[int] = []
        publisher = None
        is_served = True
        try:
            # First, so that whoever sees us can end us in order.
            with _signals(manager, seen):
                publisher = _publish(manager)
                notify("READY=1\nSTATUS=Serving")
                manager.run()
                notify("STOPPING=1")
                left = _drain(manager, seen)
        finally:
            if publisher is not None:
                publisher.close()
            manager.close()
    finally:
        if not left and not (state is not None and is_served):
            engine.close()
    return left


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state: {folder}: {error.strerror}") from None
