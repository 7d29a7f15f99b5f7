# SPDX-License-Identifier: Apache-2.0
"""What a run of the demo found, as one object: printed for a person, or as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from tierstore.demo.guest import GuestStatistics
from tierstore.statistics import Statistics

__all__ = ["Summary"]


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """One run.  ``statistics`` were taken when the guest stopped, before its pages came back."""

    memory: str
    tracker: str
    region_bytes: int
    seconds: float
    ended_by: str
    """``time``, ``SIGINT`` or ``SIGTERM``."""
    resident_before_bytes: int
    """What the kernel held of the region when the cycle began."""
    resident_min_bytes: int
    resident_after_bytes: int
    """When the guest stopped."""
    nr_bad_pages: int
    """Of the final comparison of every page."""
    compared_pages: int
    guest: GuestStatistics
    statistics: Statistics
    error: str | None = None
    """What went wrong when the pages were brought back, if anything did."""

    @property
    def mismatches(self) -> int:
        """Every wrong byte that was seen, in pages: while the guest ran, and at the end."""
        return self.guest.nr_mismatches + self.guest.nr_lost + self.nr_bad_pages

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of ``tierstore demo --json``."""
        statistics, guest = self.statistics, self.guest
        engine_fault = statistics.stages["fault"]
        return {
            "mismatches": self.mismatches,
            "checked_pages": guest.nr_touches + self.compared_pages,
            "memory": self.memory,
            "tracker": self.tracker,
            "region_bytes": self.region_bytes,
            "resident_before_bytes": self.resident_before_bytes,
            "resident_min_bytes": self.resident_min_bytes,
            "resident_after_bytes": self.resident_after_bytes,
            "seconds": round(self.seconds, 3),
            "ended_by": self.ended_by,
            "served": {tier.name: tier.nr_faults for tier in statistics.tiers},
            "served_filled": statistics.faults.zero,
            "served_staged": statistics.faults.staged,
            "ratio": {
                tier.name: round(tier.ratio, 3) if tier.ratio else None for tier in statistics.tiers
            },
            "refaults": statistics.faults.refaults,
            "evicted_pages": statistics.evictions.evicted,
            "reused_pages": statistics.evictions.reused,
            "fault_us": _percentiles(guest.fault),
            "engine_fault_us": _percentiles(engine_fault),
            "guest": dataclasses.asdict(guest),
            "compared_pages": self.compared_pages,
            "bad_pages": self.nr_bad_pages,
            "error": self.error,
            "statistics": statistics.as_dict(),
        }


def _percentiles(latency: Any) -> dict[str, float]:
    return {
        "p50": round(latency.p50_us, 1),
        "p99": round(latency.p99_us, 1),
        "p999": round(latency.p999_us, 1),
    }
