# SPDX-License-Identifier: Apache-2.0
"""An engine inside of another program, as the controller and the views see it.

The same names as :class:`tierstore.Engine` and :class:`tierstore.Region` have, as far as a cycle
needs them.
"""

from __future__ import annotations

import threading
from typing import Any

from tierstore import _snapshot
from tierstore._native import ffi, lib
from tierstore.config import Config
from tierstore.errors import RegionGone, UsageError
from tierstore.preload.wire import Channel, to_bytes
from tierstore.probe import probe
from tierstore.region import EvictResult, ScanResult
from tierstore.statistics import RegionStatistics, Statistics

__all__ = ["RemoteEngine", "RemoteRegion"]

_KINDS = {lib.TS_MEMORY_ANON: "anon", lib.TS_MEMORY_MEMFD: "memfd"}


def _parse(kind: str, data: bytes) -> Any:
    struct = ffi.new(f"{kind} *")
    size = ffi.sizeof(kind)
    if len(data) != size:
        raise RegionGone(f"{kind} of {len(data)} bytes from the program, {size} are right")
    ffi.memmove(struct, data, size)
    return struct


class RemoteRegion:
    """A region of the program."""

    can_evict = True
    """The shim attaches no memory that can only be served."""

    def __init__(self, engine: RemoteEngine, info: Any) -> None:
        self._engine = engine
        self._id = int(info.id)
        self.name = bytes(ffi.string(info.name)).decode()
        self.length_bytes = int(info.len_bytes)
        self.kind = _KINDS[info.memory]
        self.config = engine.config.region_for(self.name)
        self.tracker = self.config.tracker
        if self.tracker == "auto":
            self.tracker = probe().tracker_for(self.kind) or "none"  # type: ignore[assignment]

    def deactivate(self) -> None:
        """From now on the kernel notices touches."""
        self._engine.control.ask(lib.TSP_DEACTIVATE, region=self._id)

    def scan(self) -> ScanResult:
        """Age every resident page."""
        _, data = self._engine.control.ask(lib.TSP_SCAN, region=self._id)
        result = _parse("struct ts_scan_result", data)
        return ScanResult.from_struct(result)

    def evict(
        self, bytes_max: int | None = None, *, age_min: int = 1, probation: bool = True
    ) -> EvictResult:
        """Move out up to so many bytes, oldest first."""
        options = ffi.new("struct ts_evict_options *")
        options.size = ffi.sizeof("struct ts_evict_options")
        options.bytes_max = (1 << 62) if bytes_max is None else max(bytes_max, 0)
        options.age_min = age_min
        options.no_probation = not probation
        _, data = self._engine.control.ask(lib.TSP_EVICT, to_bytes(options), region=self._id)
        result = _parse("struct ts_evict_result", data)
        return EvictResult.from_struct(result)

    def sample(self, nr_max: int, *, age_min: int = 0) -> list[bytes]:
        """Copies of up to so many resident pages of that age."""
        wish = ffi.new("struct tsp_sample *", [age_min, nr_max])
        nr, data = self._engine.control.ask(lib.TSP_SAMPLE, to_bytes(wish), region=self._id)
        return [data[i * 4096 : (i + 1) * 4096] for i in range(nr)]

    def statistics(self) -> RegionStatistics:
        """This region's own counts."""
        pages, faults, evictions = _snapshot.region_counts(self._engine.raw(self._id))
        return RegionStatistics(
            name=self.name,
            region_bytes=self.length_bytes,
            memory=self.kind,
            tracker=self.tracker,
            pages=pages,
            faults=faults,
            evictions=evictions,
        )


class RemoteEngine:
    """The engine of a program, over two channels: requests, and statistics, which do not wait."""

    def __init__(self, config: Config, control: Channel, watch: Channel) -> None:
        self.config = config
        self.control = control
        self._watch = watch
        self._lock = threading.Lock()  # guards _known
        self._known: dict[int, RemoteRegion] = {}
        self.last: Statistics | None = None
        """The last snapshot that was taken."""

    def raw(self, region: int) -> Any:
        """``struct ts_stats`` of a region, or of the engine (0)."""
        _, data = self._watch.ask(lib.TSP_STATS, region=region)
        return _parse("struct ts_stats", data)

    @property
    def regions(self) -> tuple[RemoteRegion, ...]:
        """What is attached at this moment; a region keeps its object while it lives."""
        try:
            _, data = self._watch.ask(lib.TSP_LIST)
        except RegionGone:
            return ()  # the session has ended; whoever drives it will be stopped
        size = ffi.sizeof("struct tsp_region")
        infos = [
            _parse("struct tsp_region", data[at : at + size]) for at in range(0, len(data), size)
        ]
        with self._lock:
            self._known = {
                int(info.id): self._known.get(int(info.id)) or RemoteRegion(self, info)
                for info in infos
            }
            return tuple(self._known.values())

    def statistics(self) -> Statistics:
        """A snapshot with the regions' parts."""
        statistics = _snapshot.engine_statistics(self.raw(0))
        regions = []
        for region in self.regions:
            try:
                regions.append(region.statistics())
            except RegionGone:
                continue  # unmapped meanwhile
        self.last = _snapshot.with_regions(statistics, regions)
        return self.last

    def set_dictionary(self, tier_name: str, dictionary: bytes) -> int:
        """Give a zstd tier a dictionary for frames from now on."""
        names = [tier.name for tier in self.config.tier]
        if tier_name not in names:
            raise UsageError(f'no tier "{tier_name}"; there are {", ".join(names)}')
        return self.control.ask(lib.TSP_DICTIONARY, dictionary, region=names.index(tier_name))[0]
