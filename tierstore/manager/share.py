# SPDX-License-Identifier: Apache-2.0
"""Fair shares of the tiers: a VM above its share evicts no more while the tiers are nearly full.

What is stored is never thrown out, so that a VM that fills the tiers takes the others' room for
good.  While there is room, everybody may use it; once the tiers are fuller than ``above_pct``, each
VM may hold its part by weight, and whoever holds more waits until others' frames or its own make
room.  What a VM holds is reckoned from its pages away and what a page takes on average: tiers count
bytes for all regions together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from tierstore.abc import Decision, Policy, Tick
from tierstore.statistics import RegionStatistics, Statistics

__all__ = ["FairShare", "Holding", "holding"]

Weights = Callable[[], Mapping[str, float]]
"""The VMs that are served at this moment, by region name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """One VM's part of the tiers.  Bytes."""

    held_bytes: int
    share_bytes: int
    bytes_per_page: float
    fill: float
    """Of all tiers that admit, from 0 to 1."""

    @property
    def left_bytes(self) -> int:
        """Stored bytes that may come to it."""
        return max(self.share_bytes - self.held_bytes, 0)


def _away(region: RegionStatistics) -> int:
    return region.pages.away + region.pages.kept + region.pages.leaving


def holding(name: str, statistics: Statistics, weights: Mapping[str, float]) -> Holding:
    """What the VM holds, and what it may hold."""
    tiers = [tier for tier in statistics.tiers if not tier.is_failed]
    capacity_bytes = sum(tier.capacity_bytes for tier in tiers)
    used_bytes = sum(tier.used_bytes for tier in tiers)
    all_away = sum(_away(region) for region in statistics.regions)
    own = next((_away(r) for r in statistics.regions if r.name == name), 0)
    bytes_per_page = used_bytes / all_away if all_away else 0.0
    part = weights.get(name, 1.0) / (sum(weights.values()) or 1.0)
    return Holding(
        held_bytes=int(own * bytes_per_page),
        share_bytes=int(capacity_bytes * min(part, 1.0)),
        bytes_per_page=bytes_per_page,
        fill=used_bytes / capacity_bytes if capacity_bytes else 1.0,
    )


class FairShare(Policy):
    """Restricts what leaves one VM to its share, while the tiers are nearly full."""

    kind = "fair-share"

    def __init__(self, weights: Weights, above_pct: int) -> None:
        super().__init__(options={})
        self._weights = weights
        self._above = above_pct / 100

    def decide(self, tick: Tick) -> Decision:
        held = holding(tick.region_name, tick.statistics, self._weights())
        if held.fill < self._above:
            return Decision()
        # Nothing stored and yet full: somebody else's, and nobody knows what a page will take.
        bytes_per_page = held.bytes_per_page or tick.page_bytes
        return Decision(bytes_max=int(held.left_bytes / bytes_per_page) * tick.page_bytes)
