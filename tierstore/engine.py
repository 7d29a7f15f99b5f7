# SPDX-License-Identifier: Apache-2.0
"""The engine: tiers, regions, threads.  Everything per page happens in C; this is its owner.

::

    with Engine("tiers.toml") as engine, GuestMemory.memfd(1 << 30) as memory:
        with engine.attach(memory, name="vm1") as region:
            engine.run()                 # deactivate, scan, evict by policy, in the background
            ...                          # the guest runs
            print(engine.statistics().pages)

Closing order is safe in every case: the controller stops first, then regions are detached (every
page comes back), then tiers close.  An engine that nobody closed is closed at interpreter exit.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tierstore import _publish, _snapshot, _tiers, images
from tierstore._controller import Controller
from tierstore._guard import Guard
from tierstore._native import ffi, lib
from tierstore.config import Config, RegionConfig
from tierstore.errors import HostError, RegionError, TierstoreError, UsageError, check_error
from tierstore.memory import GuestMemory
from tierstore.probe import probe
from tierstore.region import Region, region_options
from tierstore.remote import Ability, Mode, RemoteMemory, RemoteRange, adopt_options, tracker_of
from tierstore.statistics import Statistics

__all__ = ["Engine"]

_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
_open_engines: set[Engine] = set()

LogFunction = Callable[[int, str], None]
"""Gets a level of :mod:`logging` and a line.  Called on threads of the engine."""


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_log(user: Any, level: int, text: Any) -> None:
    """The C library's log, on one of its control threads."""
    line = bytes(ffi.string(text)).decode("utf-8", "replace")
    ffi.from_handle(user)(_LEVELS[min(max(level, 0), 3)], line)


class Engine:
    """An engine with its tiers.  Methods may be called from any thread.

    ``config``: a ``Config``, a mapping, or the path of a TOML file.  ``state``: a folder of the
    engine's own; what persistent regions have evicted outlives the process there (tierstore.h).
    ``log`` gets the engine's lines; default: the logger ``tierstore``.  Opening raises
    ``ConfigError``, ``HostError`` (the kernel lacks something) or ``StoreError`` (a tier can't be
    opened), and leaves nothing behind then.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | Path,
        *,
        state: str | Path | None = None,
        log: LogFunction | None = None,
    ) -> None:
        if isinstance(config, str | Path):
            config = Config.load(config)
        elif not isinstance(config, Config):
            config = Config.from_dict(config)
        self.config = config
        self._lock = threading.Lock()
        self._regions: dict[str, Region] = {}
        self._names = itertools.count()
        self._probe = probe()
        self._log_handle = ffi.new_handle(log or logging.getLogger("tierstore").log)
        handle = self._open(state)
        self._guard = Guard(handle, lambda: UsageError("the engine was closed"))
        # What C borrows from Python while the engine is open (stores written in Python).
        self._keep: list[Any] = []
        try:
            for tier in config.tier:
                self._keep.append(_tiers.add_tier(handle, tier))
            check_error(lib.ts_engine_start(handle), "starting the engine", default=HostError)
        except BaseException:
            lib.ts_engine_close(self._guard.begin_close())
            raise
        self._controller = Controller(self)
        _open_engines.add(self)

    def _open(self, state: str | Path | None) -> Any:
        settings = self.config.engine
        options = ffi.new("struct ts_engine_options *")
        options.size = ffi.sizeof("struct ts_engine_options")
        options.nr_fault_threads = settings.fault_threads
        options.placement = getattr(lib, f"TS_PLACEMENT_{settings.placement.upper()}")
        options.fault_cpus = sum(1 << cpu for cpu in set(settings.fault_cpus))
        options.spin_us = int(settings.spin * 1e6)
        options.nr_evict_threads = settings.evict_threads
        options.staging_bytes = settings.staging or 0
        state = state or settings.state
        state_c = ffi.NULL if state is None else ffi.new("char[]", os.fsencode(state))
        options.state_dir = state_c
        options.log = lib.py_log
        options.log_user = self._log_handle
        out = ffi.new("struct ts_engine **")
        check_error(lib.ts_engine_open(options, out), "opening the engine", default=HostError)
        return out[0]

    # ---- Regions ------------------------------------------------------------------------

    def attach(self, memory: GuestMemory | Any, *, name: str | None = None) -> Region:
        """Attach guest memory while the guest runs; its pages count as just touched.

        ``memory``: a ``GuestMemory``, or a writable buffer of private anonymous memory (an
        ``mmap.mmap``).  ``name`` selects the region's settings and stands in messages.
        Raises ``RegionError`` for memory that can't be served (unaligned, file-backed, attached
        already, overlapping), ``HostError`` if the kernel or a privilege is what is missing.
        """
        if not isinstance(memory, GuestMemory):
            memory = GuestMemory.of(memory)
        if name is None:
            name = f"region{next(self._names)}"
        config = self.config.region_for(name)
        options, keep = region_options(name, memory, config)
        region = self._enter(name, memory, config, lib.ts_region_attach, options, "attach")
        del keep
        return region

    def adopt(
        self,
        uffd: int,
        ranges: Sequence[RemoteRange],
        *,
        modes: Mode,
        name: str | None = None,
        config: RegionConfig | None = None,
        pagemap_fd: int = -1,
        length_max: int = 0,
        image: str | None = None,
        is_persistent: bool = False,
        identity: bytes = b"",
        share_weight: float = 0.0,
    ) -> Region:
        """Take over the faults of another process's memory, while its guest runs.

        ``uffd`` is that process's userfaultfd, with which it registered all ``ranges`` in
        ``modes``; ``pagemap_fd`` its ``/proc/PID/pagemap``, if that can be had.  Descriptors are
        duplicated: close yours.  ``Region.abilities`` says what the registration allows, and
        ``Region.limits`` what it does not.  ``config``: other settings than those of its name.
        ``length_max`` leaves room for ``Region.add_range``.  ``share_weight``: of a fair share of
        each tier, against other regions that have one; 0: none.
        Raises ``RegionError``, ``ConfigError`` or ``UsageError`` for what can't be served.
        """
        memory = RemoteMemory(ranges)
        if name is None:
            name = f"region{next(self._names)}"
        config = config or self.config.region_for(name)
        options, keep = adopt_options(
            name, config, uffd, ranges, modes=modes, pagemap_fd=pagemap_fd, length_max=length_max,
            image=image, is_persistent=is_persistent, identity=identity,
            share_weight=share_weight,
        )  # fmt: skip
        region = self._enter(name, memory, config, lib.ts_region_adopt, options, "adopt")
        del keep
        region.is_persistent = is_persistent
        region.tracker = tracker_of(modes, Ability(region.abilities))
        return region

    def _enter(
        self,
        name: str,
        memory: GuestMemory,
        config: RegionConfig,
        function: Callable[..., int],
        options: Any,
        what: str,
    ) -> Region:
        with self._guard.use() as engine:
            with self._lock:
                if name in self._regions:
                    raise RegionError(f'a region "{name}" is attached already')
            out = ffi.new("struct ts_region **")
            check_error(function(engine, options, out), what, default=RegionError)
            region = Region(self, name, memory, config, out[0])
            with self._lock:
                self._regions[name] = region
        return region

    @property
    def regions(self) -> tuple[Region, ...]:
        """The attached regions at this moment."""
        with self._lock:
            return tuple(self._regions.values())

    def tracker_for(self, memory_kind: str) -> str:
        """What the tracker ``auto`` means on this kernel for ``"anon"`` or ``"memfd"``."""
        return self._probe.tracker_for(memory_kind) or "none"

    def _forget(self, region: Region) -> None:
        with self._lock:
            self._regions.pop(region.name, None)

    # ---- The cycle ----------------------------------------------------------------------

    def run(self) -> None:
        """Start the cycle in the background: every interval scan, evict by policy, deactivate.

        From now until ``close`` the engine can be watched with ``tierstore stat`` and ``top``.
        """
        self._controller.start()
        _publish.publish(self)

    def stop(self) -> None:
        """Stop the cycle, after the step under way.  Evicted pages stay where they are."""
        self._controller.stop()

    def tick(self) -> None:
        """One step of the cycle, now, on this thread."""
        self._controller.tick()

    # ---- Tiers --------------------------------------------------------------------------

    def set_dictionary(self, tier_name: str, dictionary: bytes) -> int:
        """Give a zstd tier a dictionary for frames from now on.  Blocks.  Returns its id."""
        names = [tier.name for tier in self.config.tier]
        if tier_name not in names:
            raise UsageError(f'no tier "{tier_name}"; there are {", ".join(names)}')
        with self._guard.use() as engine:
            rc = lib.ts_tier_set_dictionary(
                engine, names.index(tier_name), dictionary, len(dictionary)
            )
            return check_error(rc, f'dictionary of the tier "{tier_name}"')

    # ---- Images ------------------------------------------------------------------------

    def import_image(
        self, path: str | Path, name: str, *, progress: images.Progress | None = None
    ) -> None:
        """Put a snapshot's memory file into the tiers; see ``tierstore.images``."""
        images.import_image(self, path, name, progress=progress)

    def images(self) -> list[images.Image]:
        """What was imported."""
        return images.list_images(self)

    # ---- Statistics and the end ---------------------------------------------------------

    def statistics(self) -> Statistics:
        """A snapshot, cheap enough for several a second."""
        with self._guard.use() as engine:
            statistics = _snapshot.engine_statistics(_snapshot.raw_statistics(engine, ffi.NULL))
        regions = []
        for region in self.regions:
            try:
                regions.append(region.statistics())
            except TierstoreError:
                if region.is_attached:
                    raise
        return _snapshot.with_regions(statistics, regions)

    @property
    def is_open(self) -> bool:
        """False once ``close`` has begun."""
        return self._guard.is_open

    def close(self) -> None:
        """Stop, detach every region, close every tier.  Blocks.  Idempotent.

        Raises ``StoreCorrupt`` if pages could not be brought back (they are poisoned); everything
        is closed then, too.
        """
        if not self._guard.is_open:
            return
        _publish.unpublish(self)
        self._controller.stop()
        failed: TierstoreError | None = None
        for region in self.regions:
            try:
                region.end()
            except TierstoreError as error:
                failed = failed or error
        handle = self._guard.begin_close()
        if handle is not None:
            lib.ts_engine_close(handle)
            self._keep.clear()
            _open_engines.discard(self)
        if failed is not None:
            raise failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        tiers = ", ".join(tier.name for tier in self.config.tier)
        return f"<Engine {'open' if self.is_open else 'closed'}; tiers: {tiers}>"


@atexit.register
def _close_all() -> None:
    """C threads must not call into an interpreter that is being taken down."""
    for engine in list(_open_engines):
        try:
            engine.close()
        except TierstoreError as error:
            logging.getLogger("tierstore").error("closing at exit: %s", error)
