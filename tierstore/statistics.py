# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, as frozen snapshots.

A snapshot is consistent enough: each number was exact at some moment during the call.  Counts of
pages and bytes are current values; everything under ``faults`` and ``evictions`` and every
``nr_failed`` is a total since the engine started.  Latencies are microseconds.

``as_dict()`` of a snapshot is what ``--json`` prints and what the control socket sends;
``Statistics.from_dict`` is its inverse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

__all__ = [
    "EvictionCounts",
    "FaultCounts",
    "Latency",
    "PageCounts",
    "RegionStatistics",
    "Statistics",
    "TierStatistics",
]

STAGES = (
    "fault", "get", "decode", "install", "rest", "take", "encode", "put", "release", "window",
)  # fmt: skip
FAILURES = ("put", "full", "get", "corrupt", "poisoned", "take", "install", "release")
CODECS = ("raw", "lz4", "zstd")


@dataclasses.dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages by state; ``kept`` (resident, with a copy in a tier) are among the resident ones."""

    resident: int = 0
    leaving: int = 0
    away: int = 0
    coming: int = 0
    zero: int = 0
    filled: int = 0
    """Away, and stored nowhere: one word, repeated, makes the page."""
    gone: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        """All pages of all regions."""
        return (
            self.resident + self.leaving + self.away + self.coming
            + self.zero + self.filled + self.gone
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class FaultCounts:
    """Pages that came back, and why."""

    total: int = 0
    zero: int = 0
    staged: int = 0
    """Answered from the staging area: the page had not reached a store yet."""
    guard: int = 0
    """Writes that met the guard of an eviction under way, and cancelled it."""
    stale: int = 0
    """Messages about pages that were there again by the time they were read."""
    refaults: int = 0
    """Faults on pages that had been evicted not long ago."""
    restored: int = 0
    """Pages that came along with a faulting neighbour."""
    prefetched: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class EvictionCounts:
    """Pages that left, or did not."""

    evicted: int = 0
    reused: int = 0
    """Of the evicted: left without encoding or writing, as their kept copy was still right."""
    cancelled: int = 0
    removed: int = 0
    """Pages that the guest gave up (balloon): what was stored was forgotten."""


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """One stage's histogram, summed up.  Percentiles are at most 1/16 too high, never too low."""

    count: int = 0
    mean_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class TierStatistics:
    """One tier.  Bytes."""

    name: str
    store: str
    codec: str
    level: int
    range_bytes: int
    capacity_bytes: int
    used_bytes: int
    memory_bytes: int
    index_bytes: int
    nr_frames: int
    nr_pages: int
    raw_bytes: int
    stored_bytes: int
    written_bytes: int
    device_bytes: int
    moved_bytes: int
    discarded_bytes: int
    nr_faults: int
    nr_admitted: int
    nr_demoted_in: int
    nr_demoted_out: int
    nr_errors: int
    dict_id: int
    is_failed: bool
    is_full: bool

    @property
    def ratio(self) -> float | None:
        """Raw to stored bytes of the frames held; ``None`` while there are none."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None

    @property
    def health(self) -> str:
        """``ok``, ``full``, or ``failed`` (serves what it holds, admits nothing)."""
        return "failed" if self.is_failed else "full" if self.is_full else "ok"


@dataclasses.dataclass(frozen=True, slots=True)
class RegionStatistics:
    """One region: its pages, and the totals that are its own."""

    name: str
    region_bytes: int
    memory: str
    tracker: str
    pages: PageCounts
    faults: FaultCounts
    evictions: EvictionCounts
    held_bytes: tuple[int, ...] = ()
    """What its pages take in each tier, to a hundredth, without the stores' overhead; 0 for one
    without a ``share_weight``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """The whole engine."""

    version: int
    uptime_s: float
    page_bytes: int
    nr_regions: int
    pages: PageCounts
    faults: FaultCounts
    evictions: EvictionCounts
    failures: Mapping[str, int]
    engine_bytes: int
    """RAM of page words, ages and frame table."""
    buffer_bytes: int
    """RAM of fixed buffers: staging in use, readers, workers."""
    tiers: tuple[TierStatistics, ...]
    stages: Mapping[str, Latency]
    regions: tuple[RegionStatistics, ...] = ()

    @property
    def resident_bytes(self) -> int:
        """What the regions hold in RAM, pages on their way in or out included."""
        pages = self.pages
        return (pages.resident + pages.leaving + pages.coming) * self.page_bytes

    @property
    def region_bytes(self) -> int:
        """The size of all regions."""
        return self.pages.total * self.page_bytes

    @property
    def engine_bytes_per_page(self) -> float:
        """Engine memory for each page of the regions, fixed buffers aside."""
        return self.engine_bytes / self.pages.total if self.pages.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, derived ones (ratio, health, resident) included."""
        data = dataclasses.asdict(self)
        for tier, plain in zip(self.tiers, data["tiers"], strict=True):
            plain["ratio"], plain["health"] = tier.ratio, tier.health
        data["resident_bytes"] = self.resident_bytes
        data["region_bytes"] = self.region_bytes
        data["engine_bytes_per_page"] = round(self.engine_bytes_per_page, 3)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a snapshot from ``as_dict``; keys of later versions are left out."""
        fields = _known(cls, data)
        fields |= _counts(data)
        fields["tiers"] = tuple(TierStatistics(**_known(TierStatistics, t)) for t in data["tiers"])
        fields["stages"] = {
            name: Latency(**_known(Latency, stage)) for name, stage in data["stages"].items()
        }
        fields["regions"] = tuple(
            RegionStatistics(
                **(
                    _known(RegionStatistics, region)
                    | _counts(region)
                    | {"held_bytes": tuple(region.get("held_bytes", ()))}
                )
            )
            for region in data.get("regions", ())
        )
        return cls(**fields)


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in data.items() if name in names}


def _counts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pages": PageCounts(**_known(PageCounts, data["pages"])),
        "faults": FaultCounts(**_known(FaultCounts, data["faults"])),
        "evictions": EvictionCounts(**_known(EvictionCounts, data["evictions"])),
    }
