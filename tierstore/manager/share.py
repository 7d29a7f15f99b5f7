# SPDX-License-Identifier: Apache-2.0
"""Fair shares of the tiers among VMs, by weight: who wants less leaves the rest to who wants more.

What is stored is never thrown out, so a VM that fills the tiers would have the others' room for
good.  While there is room, everybody may use it.  Once the tiers are fuller than ``above_pct``, a
VM may hold its share and no more (max-min fairness); and while another one has less than its share
and can't get it, who holds more gives back: some of its pages return to its memory each interval,
half of what is lacking at a time, and leave again when there is room.

Shares are of all tiers together, and of a little less than there is, so that whoever comes finds
the first of its room at once.  Which frames of a tier go down is decided by the engine, by the same
weights (native/src/engine/share.h).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping

from tierstore.abc import Decision, Policy, Tick
from tierstore.statistics import RegionStatistics, Statistics

__all__ = ["FairShare", "Holding", "Within", "divide", "holding"]

Weights = Callable[[], Mapping[str, float]]
"""The VMs that are served at this moment, by region name."""

USABLE = 0.95
"""Of the tiers' room that is shared out: a store that is full to the brim takes nobody's page."""
RETURN_PART = 0.5
"""Of what others lack, so much comes back at a time: room is made as fast as it is taken up."""


def divide(total: float, wants: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """How much each may have for each unit of its weight, that all of ``total`` is used.

    Infinite if everybody can have what it wants.
    """
    left = total
    weight = sum(weights[name] for name in wants)
    for name in sorted(wants, key=lambda name: wants[name] / weights[name]):
        level = left / weight
        if wants[name] > level * weights[name]:
            return max(level, 0.0)
        left -= wants[name]
        weight -= weights[name]
    return float("inf")


def _pages(region: RegionStatistics) -> int:
    return region.pages.away + region.pages.kept + region.pages.leaving


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """One VM's part of the tiers.  Bytes."""

    held_bytes: int
    share_bytes: int
    """What it may hold, as much as it may want, beside what the others want."""
    bytes_per_page: float
    fill: float
    """Of all tiers that admit, from 0 to 1."""
    lacking_bytes: int = 0
    """What others may have, want, and find no room for."""

    @property
    def left_bytes(self) -> int:
        """Stored bytes that may come to it."""
        return max(self.share_bytes - self.held_bytes, 0)

    @property
    def return_bytes(self) -> int:
        """Stored bytes that it is to make room for, now."""
        above = max(self.held_bytes - self.share_bytes, 0)
        return int(min(above, self.lacking_bytes) * RETURN_PART)


class _Room:
    """The tiers, and who holds what of them."""

    def __init__(self, statistics: Statistics) -> None:
        tiers = list(enumerate(statistics.tiers))
        # What stores need beside the frames themselves is everybody's in proportion.
        overhead = [t.used_bytes / t.stored_bytes if t.stored_bytes else 1.0 for _, t in tiers]
        self.held: dict[str, float] = {
            region.name: sum(b * o for b, o in zip(region.held_bytes, overhead, strict=False))
            for region in statistics.regions
        }
        healthy = [tier for _, tier in tiers if not tier.is_failed]
        self.capacity = sum(tier.capacity_bytes for tier in healthy)
        self.used = sum(tier.used_bytes for tier in healthy)
        nr_pages = sum(map(_pages, statistics.regions))
        held = sum(self.held.values())
        mean = held / nr_pages if nr_pages else 0.0
        self.bytes_per_page = {
            region.name: self.held[region.name] / _pages(region) if _pages(region) else mean
            for region in statistics.regions
        }
        # Images, and what is about to be deleted, are nobody's.
        self.shared = max(self.capacity * USABLE - max(self.used - held, 0.0), 0.0)
        self.free = max(self.capacity * USABLE - self.used, 0.0)
        self.fill = self.used / self.capacity if self.capacity else 1.0


def holding(
    name: str,
    statistics: Statistics,
    weights: Mapping[str, float],
    wanted: Mapping[str, float] | None = None,
) -> Holding:
    """What the VM holds, and what it may hold.

    ``wanted``: what each would hold if there was room, in stored bytes, as far as that is known.
    """
    room = _Room(statistics)
    wants = {each: max((wanted or {}).get(each, 0.0), room.held.get(each, 0.0)) for each in weights}
    weights = {**weights, name: weights.get(name, 1.0)}

    def share(of: str) -> float:
        level = divide(room.shared, {**wants, name: wants.get(name, 0.0), of: float("inf")},
                       weights)  # fmt: skip
        return level * weights[of]

    lacking = sum(
        max(min(share(other), wants[other]) - room.held.get(other, 0.0), 0.0)
        for other in wants
        if other != name
    )
    return Holding(
        held_bytes=int(room.held.get(name, 0.0)),
        share_bytes=int(share(name)),
        bytes_per_page=room.bytes_per_page.get(name, 0.0),
        fill=room.fill,
        lacking_bytes=int(max(lacking - room.free, 0.0)),
    )


class FairShare:
    """One for all VMs of a manager: who wants how much.  May be asked by any thread."""

    def __init__(self, weights: Weights, above_pct: int) -> None:
        self._weights = weights
        self._above = above_pct / 100
        self._lock = threading.Lock()  # guards _wanted
        self._wanted: dict[str, float] = {}

    def holding(self, name: str, statistics: Statistics) -> Holding:
        """As the others want it now."""
        weights = dict(self._weights())
        with self._lock:
            self._wanted = {each: b for each, b in self._wanted.items() if each in weights}
            wanted = dict(self._wanted)
        return holding(name, statistics, weights, wanted)

    def note(self, name: str, wanted_bytes: float) -> None:
        """So many stored bytes would that VM hold, if it had its will."""
        with self._lock:
            self._wanted[name] = wanted_bytes

    def limit(self, tick: Tick, decision: Decision) -> tuple[Decision, int]:
        """Restricts what leaves one VM; and how many of its pages' copies shall make room."""
        held = self.holding(tick.region_name, tick.statistics)
        # Nothing stored and yet full: somebody else's, and nobody knows what a page will take.
        bytes_per_page = held.bytes_per_page or tick.page_bytes
        cold_bytes = sum(tick.nr_by_age[decision.age_min :]) * tick.page_bytes
        out_pages = min(decision.bytes_max, cold_bytes) // tick.page_bytes
        self.note(tick.region_name, held.held_bytes + out_pages * bytes_per_page)
        if held.fill < self._above or len(self._weights()) < 2:
            return decision, 0
        left = Decision(bytes_max=int(held.left_bytes / bytes_per_page) * tick.page_bytes)
        return decision & left, int(held.return_bytes / bytes_per_page)


class Within(Policy):
    """A VM's own policy, within the VM's share."""

    kind = "within-share"

    def __init__(self, policy: Policy, share: FairShare) -> None:
        super().__init__(options={})
        self.policy = policy
        self.nr_to_return = 0
        """Pages that are to come back, by the last decision."""
        self._share = share

    def decide(self, tick: Tick) -> Decision:
        decision, self.nr_to_return = self._share.limit(tick, self.policy.decide(tick))
        return decision
