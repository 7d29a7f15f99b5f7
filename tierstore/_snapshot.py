# SPDX-License-Identifier: Apache-2.0
"""From the C library's structs to the frozen dataclasses of :mod:`tierstore.statistics`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tierstore._native import ffi, lib
from tierstore.errors import check_error
from tierstore.statistics import (
    CODECS,
    FAILURES,
    STAGES,
    EvictionCounts,
    FaultCounts,
    Latency,
    PageCounts,
    RegionStatistics,
    Statistics,
    TierStatistics,
)

__all__ = [
    "engine_statistics",
    "held_bytes",
    "latency",
    "raw_statistics",
    "region_counts",
    "with_regions",
]

_SAME_NAME = (
    "range_bytes", "capacity_bytes", "used_bytes", "memory_bytes", "index_bytes", "nr_frames",
    "nr_pages", "raw_bytes", "stored_bytes", "written_bytes", "device_bytes", "moved_bytes",
    "discarded_bytes", "nr_faults", "nr_admitted", "nr_demoted_in", "nr_demoted_out", "nr_errors",
    "dict_id", "level",
)  # fmt: skip


def _text(field: Any) -> str:
    return bytes(ffi.string(field)).decode("utf-8", "replace")


def latency(hist: Any) -> Latency:
    """Sum a ``struct ts_hist`` up."""
    if hist.count == 0:
        return Latency()

    def percentile_us(share: float) -> float:
        return float(lib.ts_hist_percentile_ns(ffi.addressof(hist), share)) / 1e3

    return Latency(
        count=hist.count,
        mean_us=hist.sum_ns / hist.count / 1e3,
        p50_us=percentile_us(0.5),
        p99_us=percentile_us(0.99),
        p999_us=percentile_us(0.999),
        max_us=hist.max_ns / 1e3,
    )


def raw_statistics(engine: Any, region: Any) -> Any:
    """``ts_stats_get`` into a new struct; ``region`` may be NULL."""
    stats = ffi.new("struct ts_stats *")
    stats.size = ffi.sizeof("struct ts_stats")
    check_error(lib.ts_stats_get(engine, region, stats), "statistics")
    return stats


def region_counts(stats: Any) -> tuple[PageCounts, FaultCounts, EvictionCounts]:
    """The part of a snapshot that exists for the engine and for each region."""
    pages = PageCounts(
        resident=stats.nr_resident,
        leaving=stats.nr_leaving,
        away=stats.nr_away,
        coming=stats.nr_coming,
        zero=stats.nr_zero,
        filled=stats.nr_filled,
        gone=stats.nr_gone,
        kept=stats.nr_kept,
    )
    faults = FaultCounts(
        total=stats.nr_faults,
        zero=stats.nr_faults_zero,
        staged=stats.nr_faults_staged,
        guard=stats.nr_faults_guard,
        stale=stats.nr_stale,
        refaults=stats.nr_refaults,
        restored=stats.nr_restored,
        prefetched=stats.nr_prefetched,
    )
    evictions = EvictionCounts(
        evicted=stats.nr_evicted,
        reused=stats.nr_reused,
        cancelled=stats.nr_cancelled,
        removed=stats.nr_removed,
    )
    return pages, faults, evictions


def held_bytes(stats: Any) -> tuple[int, ...]:
    """What the regions' frames take, by tier."""
    return tuple(int(stats.held_bytes[i]) for i in range(stats.nr_tiers))


def _tier(tier: Any) -> TierStatistics:
    return TierStatistics(
        name=_text(tier.name),
        store=_text(tier.store),
        codec=CODECS[tier.codec],
        is_failed=bool(tier.is_failed),
        is_full=bool(tier.is_full),
        **{name: int(getattr(tier, name)) for name in _SAME_NAME},
    )


def engine_statistics(stats: Any) -> Statistics:
    """The whole snapshot, without the regions' own parts."""
    pages, faults, evictions = region_counts(stats)
    return Statistics(
        version=stats.version,
        uptime_s=stats.uptime_ns / 1e9,
        page_bytes=stats.page_bytes,
        nr_regions=stats.nr_regions,
        pages=pages,
        faults=faults,
        evictions=evictions,
        failures={name: stats.failures[i] for i, name in enumerate(FAILURES)},
        engine_bytes=stats.engine_bytes,
        buffer_bytes=stats.buffer_bytes,
        tiers=tuple(_tier(stats.tiers[i]) for i in range(stats.nr_tiers)),
        stages={name: latency(stats.stages[i]) for i, name in enumerate(STAGES)},
    )


def with_regions(statistics: Statistics, regions: Sequence[RegionStatistics]) -> Statistics:
    """The same snapshot with the regions' parts."""
    return dataclasses.replace(statistics, regions=tuple(regions))
