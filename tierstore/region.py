# SPDX-License-Identifier: Apache-2.0
"""A region: guest memory that an engine may move out and bring back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from tierstore import _snapshot
from tierstore._guard import Guard
from tierstore._native import ffi, lib
from tierstore.config import RegionConfig
from tierstore.errors import RegionError, RegionGone, Status, StoreCorrupt, check_error
from tierstore.memory import GuestMemory
from tierstore.remote import Ability, RemoteMemory, RemoteRange, range_struct
from tierstore.statistics import RegionStatistics

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = ["EvictResult", "Region", "ScanResult"]

_SERVE = {"message": "TS_SERVE_MESSAGE", "in-thread": "TS_SERVE_IN_THREAD"}


@dataclasses.dataclass(frozen=True, slots=True)
class ScanResult:
    """What one scan saw.  Pages; ages count scans."""

    nr_resident: int
    nr_touched: int
    nr_cold: int
    nr_guarded: int
    nr_by_age: tuple[int, ...]

    @classmethod
    def from_struct(cls, result: Any) -> ScanResult:
        """Of ``struct ts_scan_result``."""
        return cls(
            nr_resident=result.nr_resident,
            nr_touched=result.nr_touched,
            nr_cold=result.nr_cold,
            nr_guarded=result.nr_guarded,
            nr_by_age=tuple(result.nr_by_age),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class EvictResult:
    """What one eviction did.  Pages."""

    nr_claimed: int = 0
    nr_evicted: int = 0
    nr_filled: int = 0
    nr_reused: int = 0
    nr_probation: int = 0
    nr_cancelled: int = 0
    nr_failed: int = 0

    @classmethod
    def from_struct(cls, result: Any) -> EvictResult:
        """Of ``struct ts_evict_result``, whose fields have the same names."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: int(getattr(result, name)) for name in names})

    def __add__(self, other: EvictResult) -> EvictResult:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return EvictResult(*(a + b for a, b in zip(mine, theirs, strict=True)))


def region_options(name: str, memory: GuestMemory, config: RegionConfig) -> tuple[Any, list[Any]]:
    """The C struct, and what must live as long as the call that gets it."""
    name_c = ffi.new("char[]", name.encode())
    options = ffi.new("struct ts_region_options *")
    options.size = ffi.sizeof("struct ts_region_options")
    options.name = name_c
    options.addr = ffi.cast("void *", memory.address)
    options.len_bytes = memory.length_bytes
    options.memfd = memory.fd
    options.memory = getattr(lib, f"TS_MEMORY_{memory.kind.upper()}")
    options.memfd_offset = memory.fd_offset
    options.tracker = getattr(lib, f"TS_TRACKER_{config.tracker.upper()}")
    options.serve = getattr(lib, _SERVE[config.serve])
    options.restore = getattr(lib, f"TS_RESTORE_{config.restore.upper()}")
    options.nr_shards = config.shards
    # 0 means the default in C; the shortest wish that is no default is one.
    options.probation_ms = max(int(config.probation * 1000), 1)
    options.guard_scans = max(config.guard_scans, 1)
    options.collapse = config.collapse
    return options, [name_c]


class Region:
    """Attached guest memory.  ``Engine.attach`` makes these; leaving its ``with`` detaches.

    Every method may be called from any thread.  After ``detach`` all of them raise
    ``RegionGone``.  Offsets and lengths are bytes, whole pages where the docstring says so.
    """

    def __init__(
        self, engine: Engine, name: str, memory: GuestMemory, config: RegionConfig, handle: Any
    ) -> None:
        """Not for callers: see ``Engine.attach``."""
        self.is_persistent = False
        """Adopted, and left as it is when the engine is closed."""
        self.engine = engine
        self.name = name
        self.memory = memory
        self.config = config
        self.tracker: str = config.tracker
        if config.tracker == "auto":
            self.tracker = engine.tracker_for(memory.kind)
        self._guard = Guard(handle, lambda: RegionGone(f'the region "{name}" was detached'))
        self._on_detached: Callable[[Region], None] = engine._forget
        self.can_evict = bool(lib.ts_region_abilities(handle) & lib.TS_CAN_EVICT)
        memory.nr_attached += 1

    @property
    def length_bytes(self) -> int:
        """The size of the region."""
        return self.memory.length_bytes

    @property
    def is_attached(self) -> bool:
        """False once ``detach`` has begun."""
        return self._guard.is_open

    @property
    def abilities(self) -> Ability:
        """What can be done with this memory; everything, unless it is another process's."""
        with self._guard.use() as region:
            return Ability(lib.ts_region_abilities(region))

    @property
    def limits(self) -> str:
        """What can't be done, why, and what would have to change; "" if nothing."""
        with self._guard.use() as region:
            return bytes(ffi.string(lib.ts_region_limits(region))).decode("utf-8", "replace")

    def deactivate(self) -> None:
        """From now on the kernel notices touches.  What was seen since the last scan is lost."""
        with self._guard.use() as region:
            check_error(lib.ts_region_deactivate(region), self._what("deactivate"))

    def scan(self) -> ScanResult:
        """Age every resident page: one older if not touched since ``deactivate``, else 0."""
        with self._guard.use() as region:
            result = ffi.new("struct ts_scan_result *")
            result.size = ffi.sizeof("struct ts_scan_result")
            check_error(lib.ts_region_scan(region, result), self._what("scan"))
            return ScanResult.from_struct(result)

    def evict(
        self, bytes_max: int | None = None, *, age_min: int = 1, probation: bool = True
    ) -> EvictResult:
        """Move out up to so many bytes (default: no limit), oldest first.  Blocks.

        ``age_min`` counts scans; 0 takes touched pages as well.  ``probation=False`` encodes at
        once also where reads can't be seen (the wp tracker).  Pages that find no room in any tier
        stay, and are counted in ``nr_failed``.
        """
        options = ffi.new("struct ts_evict_options *")
        options.size = ffi.sizeof("struct ts_evict_options")
        options.bytes_max = (1 << 62) if bytes_max is None else max(bytes_max, 0)
        options.age_min = age_min
        options.no_probation = not probation
        with self._guard.use() as region:
            result = ffi.new("struct ts_evict_result *")
            result.size = ffi.sizeof("struct ts_evict_result")
            check_error(lib.ts_region_evict(region, options, result), self._what("evict"))
            return EvictResult.from_struct(result)

    def prefetch(self, offset: int = 0, length: int | None = None) -> None:
        """Bring pages back ahead of need.  Blocks.  Raises ``StoreCorrupt`` if some were lost."""
        with self._guard.use() as region:
            rc = lib.ts_region_prefetch(region, offset, self._length(offset, length))
            check_error(rc, self._what("prefetch"))

    def give_back(self, length: int) -> int:
        """Take stored copies of up to so much of the region out of the tiers, for others' room.

        Copies of resident pages go, then pages that are away come back, in turn.  Blocks.  The
        bytes of memory whose copies went; what can't come back now stays away.
        """
        with self._guard.use() as region:
            return int(
                check_error(lib.ts_region_give_back(region, length), self._what("give back"))
            )

    def discard(self, offset: int, length: int) -> None:
        """The guest gave these pages up (whole pages): forget what is stored of them.

        Evicted pages read as zeros from then on; resident ones are the caller's to punch, best
        after this: between a punch and a discard a page that is touched still comes back.
        """
        with self._guard.use() as region:
            check_error(lib.ts_region_discard(region, offset, length), self._what("discard"))

    def sample(self, nr_max: int, *, age_min: int = 0) -> list[bytes]:
        """Copies of up to so many resident pages of that age, spread over the region.  Blocks."""
        with self._guard.use() as region:
            buffer = ffi.new("char[]", nr_max * 4096)
            nr = check_error(
                lib.ts_region_sample(region, age_min, buffer, nr_max), self._what("sample")
            )
            return [bytes(ffi.buffer(buffer + i * 4096, 4096)) for i in range(nr)]

    def read(self, offset: int, length: int) -> bytes:
        """Copy bytes out of guest memory, faulting evicted pages in, with the interpreter free.

        Raises ``StoreCorrupt`` if a page in the range was lost.
        """
        data = ffi.new("char[]", self._length(offset, length))
        self._copy(data, ffi.cast("char *", self.memory.address + offset), length, "read")
        return bytes(ffi.buffer(data))

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes into guest memory; see ``read``."""
        length = self._length(offset, len(data))
        source = ffi.from_buffer("char[]", data)
        self._copy(ffi.cast("char *", self.memory.address + offset), source, length, "write")

    def _copy(self, target: Any, source: Any, length: int, verb: str) -> None:
        if self.memory.is_remote:
            raise RegionError(f"{self._what(verb)}: the memory is another process's")
        with self._guard.use():
            if lib.ts_workload_copy(target, source, length) < 0:
                raise StoreCorrupt(f"{self._what(verb)}: a page of the range is lost (poisoned)")

    def _length(self, offset: int, length: int | None) -> int:
        if length is None:
            length = self.length_bytes - offset
        if offset < 0 or length < 0 or offset + length > self.length_bytes:
            raise RegionError(
                f'{length} bytes at {offset} are not inside of the region "{self.name}" '
                f"of {self.length_bytes} bytes",
                status=Status.ECONFIG,
            )
        return length

    def _what(self, verb: str) -> str:
        return f'{verb} of the region "{self.name}"'

    def statistics(self) -> RegionStatistics:
        """This region's own counts; tiers and latencies are the engine's."""
        with self._guard.use() as region, self.engine._guard.use() as engine:
            raw = _snapshot.raw_statistics(engine, region)
            pages, faults, evictions = _snapshot.region_counts(raw)
            held_bytes = _snapshot.held_bytes(raw)
        return RegionStatistics(
            name=self.name,
            region_bytes=self.length_bytes,
            memory=self.memory.kind,
            tracker=self.tracker,
            pages=pages,
            faults=faults,
            evictions=evictions,
            held_bytes=held_bytes,
        )

    def detach(self) -> None:
        """Bring every page back and let go of the memory, while the guest runs on.  Blocks.

        Idempotent.  Raises ``StoreCorrupt`` if pages were lost; the region is detached then, too.
        """
        self._end(lib.ts_region_detach, "detach")

    def working_set(self, nr_max: int = 4 << 20) -> list[int]:
        """Pages that the guest waited for, in order; of a region that began as an image."""
        with self._guard.use() as region:
            pages = ffi.new("uint32_t[]", nr_max)
            nr = check_error(
                lib.ts_region_working_set(region, pages, nr_max), self._what("working set")
            )
            return list(ffi.unpack(pages, nr))

    def add_range(self, added: RemoteRange) -> None:
        """Memory was hot-added to an adopted VM: its pages follow the region's last one."""
        with self._guard.use() as region:
            check_error(lib.ts_region_add_range(region, range_struct(added)), self._what("add"))
            assert isinstance(self.memory, RemoteMemory)
            self.memory.add(added)

    def drop(self) -> None:
        """The other process is gone: free what is stored, bring nothing back.  Idempotent."""
        if not self.memory.is_remote:
            raise RegionError(f"{self._what('drop')}: not another process's memory; detach it")
        self._end(lib.ts_region_drop, "drop")

    def end(self) -> None:
        """What closing the engine does: ``detach``; a persistent adopted one is left as it is."""
        if self.is_persistent:
            self._end(lambda _: 0, "leave")
        else:
            self.detach()

    def _end(self, function: Callable[[Any], int], verb: str) -> None:
        handle = self._guard.begin_close()
        if handle is None:
            return
        try:
            check_error(function(handle), self._what(verb))
        finally:
            self.memory.nr_attached -= 1
            self._on_detached(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self.is_attached else "detached"
        return f"<Region {self.name!r} {self.length_bytes} bytes {self.memory.kind} {state}>"
