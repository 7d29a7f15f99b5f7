# SPDX-License-Identifier: Apache-2.0
"""One run of the demo, from an empty folder to a verdict.

The order matters.  Guest memory is filled before it is attached; the guest stops before the engine
lets go; every page is back before the final comparison; the folder goes last, whatever happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tierstore.config import Config
from tierstore.demo import ladder
from tierstore.demo.folder import temporary_folder
from tierstore.demo.guest import Guest, GuestOptions, GuestStatistics
from tierstore.demo.memory import Kind, guest_memory, page_bytes
from tierstore.demo.source import build_source
from tierstore.demo.summary import Summary
from tierstore.engine import Engine
from tierstore.errors import ConfigError, TierstoreError
from tierstore.memory import GuestMemory
from tierstore.region import Region
from tierstore.statistics import Statistics

__all__ = ["DemoOptions", "Look", "Stop", "run"]

LOOK_S = 0.25
SIZE_MIN = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asks for."""

    seconds: float = 20.0
    size_bytes: int = 512 << 20
    memory: Kind = "memfd"
    config: Path | None = None
    folder: Path | None = None
    cold_per_s: int | None = None
    """Touches anywhere in the region; ``None``: by its size."""
    guest: GuestOptions = dataclasses.field(default_factory=GuestOptions)


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What a view is shown, several times a second, and before and after that for each step."""

    step: str
    """``prepare``, ``run``, ``restore`` or ``compare``."""
    share: float
    """0..1 of the step."""
    region_bytes: int
    resident_bytes: int = 0
    guest: GuestStatistics | None = None
    statistics: Statistics | None = None


class Stop:
    """Set from a signal handler: ends the run early, cleanly.

    No Event: it locks itself for moments, in which its own thread's handler would wait for ever.
    """

    def __init__(self) -> None:
        self.reason = "time"
        self.is_set = False
        """Whether the run shall end."""
        self._end = threading.Lock()
        self._end.acquire()

    def set(self, reason: str) -> None:
        """The first reason stays."""
        if self.is_set:
            return
        self.is_set = True
        self.reason = reason
        with contextlib.suppress(RuntimeError):  # another signal came between
            self._end.release()

    def wait(self, seconds: float) -> bool:
        """Whether it was set, after at most that long."""
        if not self.is_set:
            self._end.acquire(timeout=max(seconds, 0))
        return self.is_set


View = Callable[[Look], None]


def _prepare(options: DemoOptions, folder: Path, view: View) -> tuple[int, int]:
    """The source file: its descriptor (the name is gone already) and length."""
    path = folder / "source"

    def progress(done_bytes: int) -> None:
        view(Look("prepare", done_bytes / options.size_bytes, options.size_bytes))

    length_bytes = build_source(path, options.size_bytes, progress)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    path.unlink()
    return fd, length_bytes


def _guest_options(options: DemoOptions) -> GuestOptions:
    """Unless given, touches anywhere scale with the region: all of it once in two minutes."""
    per_s = max(options.size_bytes // 4096 // 128, 50)
    cold_per_s = options.cold_per_s
    if cold_per_s is None:
        cold_per_s = max(per_s * 4096 // page_bytes(options.memory), 1)
    return dataclasses.replace(options.guest, cold_per_s=cold_per_s, drift_per_s=per_s)


class _Watch:
    """Follows the kernel's own figure of what the region occupies."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.before_bytes = self.min_bytes = self.last_bytes = memory.resident_bytes()

    def look(self) -> int:
        self.last_bytes = self._memory.resident_bytes()
        self.min_bytes = min(self.min_bytes, self.last_bytes)
        return self.last_bytes


def _let_run(
    options: DemoOptions, engine: Engine, guest: Guest, watch: _Watch, view: View, stop: Stop
) -> float:
    """Guest and cycle run until the time is over; returns how long that was."""
    start_s = time.monotonic()
    guest.start()
    engine.run()
    passed_s = 0.0
    while passed_s < options.seconds and not stop.wait(min(LOOK_S, options.seconds - passed_s)):
        passed_s = time.monotonic() - start_s
        view(
            Look(
                "run",
                min(passed_s / options.seconds, 1.0),
                options.size_bytes,
                watch.look(),
                guest.statistics(),
                engine.statistics(),
            )
        )
    engine.stop()
    guest.stop()
    return time.monotonic() - start_s


def _bring_back(region: Region) -> str | None:
    """Detach; what went wrong, if anything did.  The comparison then tells how bad it is."""
    try:
        region.detach()
    except TierstoreError as error:
        return str(error)
    return None


def run(options: DemoOptions, view: View, stop: Stop) -> Summary:
    """The whole demo.  Raises ``TierstoreError`` if it can't be set up; a wrong byte is no
    exception but in the summary."""
    size_bytes = options.size_bytes // 4096 * 4096
    if size_bytes < SIZE_MIN:
        raise ConfigError(
            f"--size {options.size_bytes}: at least 16MiB, or there is nothing to see"
        )
    options = dataclasses.replace(options, size_bytes=size_bytes)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(options.folder))
        memory = stack.enter_context(guest_memory(options.memory, size_bytes, folder))
        config = _config(options, folder)
        source_fd, source_bytes = _prepare(options, folder, view)
        stack.callback(os.close, source_fd)
        guest_options = _guest_options(options)
        guest = stack.enter_context(Guest(memory, source_fd, source_bytes, guest_options))
        guest.fill()
        engine = stack.enter_context(Engine(config))
        region = engine.attach(memory, name="guest")
        # Stops threads before anything is taken from under them, on every way out.
        stack.callback(guest.stop)
        return _play(options, engine, region, guest, view, stop)


def _config(options: DemoOptions, folder: Path) -> Config:
    if options.config is not None:
        return ladder.load_config(options.config, folder)
    return ladder.demo_config(folder, options.size_bytes, options.seconds)


def _play(
    options: DemoOptions, engine: Engine, region: Region, guest: Guest, view: View, stop: Stop
) -> Summary:
    watch = _Watch(region.memory)
    seconds = _let_run(options, engine, guest, watch, view, stop)
    after_bytes = watch.look()
    statistics = engine.statistics()
    view(Look("restore", 0.0, options.size_bytes, after_bytes, None, statistics))
    error = _bring_back(region)

    def progress(nr_pages: int) -> None:
        view(Look("compare", nr_pages / guest.nr_pages, options.size_bytes))

    nr_bad = guest.compare(progress)
    return Summary(
        memory=options.memory,
        tracker=region.tracker,
        region_bytes=options.size_bytes,
        seconds=seconds,
        ended_by=stop.reason,
        resident_before_bytes=watch.before_bytes,
        resident_min_bytes=watch.min_bytes,
        resident_after_bytes=after_bytes,
        nr_bad_pages=nr_bad,
        compared_pages=guest.nr_pages,
        guest=guest.statistics(),
        statistics=statistics,
        error=error,
    )
