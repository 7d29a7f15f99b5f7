# SPDX-License-Identifier: Apache-2.0
"""The built-in policies.  Each restricts one thing, so that they combine by taking the stricter.

All are constructed with keywords from code, or from ``policy_options`` by configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tierstore import units
from tierstore.abc import Decision, Policy, Tick
from tierstore.errors import ConfigError

__all__ = ["Budget", "EvictRate", "MinAge", "RefaultLimit"]


def _option(kind: str, options: Mapping[str, object], key: str, parse: Any) -> Any:
    """A required option, parsed; errors name policy, key and value."""
    if key not in options:
        raise ConfigError(f'policy_options: the policy "{kind}" needs "{key}"')
    try:
        return parse(options[key])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"policy_options.{key}: {error}") from None


def _positive(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"{value!r} is no whole number above 0")


class Budget(Policy):
    """Lets leave what is above the resident budget, and no more.

    ``budget``: bytes, or a share of the region (``"25%"``).
    """

    kind = "budget"

    def __init__(
        self,
        *,
        budget: units.Share | int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(options=options or {})
        if budget is None:
            budget = _option(self.kind, self.options, "budget", units.parse_share_or_size)
        self.budget: units.Share | int = budget

    def budget_bytes(self, region_bytes: int) -> int:
        """What a region of that size may keep."""
        if isinstance(self.budget, units.Share):
            return self.budget.of(region_bytes)
        return self.budget

    def decide(self, tick: Tick) -> Decision:
        above = tick.resident_bytes - self.budget_bytes(tick.region_bytes)
        return Decision(bytes_max=max(above, 0))


class MinAge(Policy):
    """Lets only pages leave that nobody touched for ``min_age`` seconds."""

    kind = "min-age"

    def __init__(
        self,
        *,
        min_age_s: float | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(options=options or {})
        if min_age_s is None:
            min_age_s = _option(self.kind, self.options, "min_age", units.parse_duration_s)
        self.min_age_s: float = min_age_s

    def decide(self, tick: Tick) -> Decision:
        # Rounded up: an age of n scans says "not touched for at least n intervals".
        scans = math.ceil(self.min_age_s / tick.interval_s - 1e-9)
        return Decision(age_min=min(max(scans, 1), len(tick.nr_by_age) - 1))


class EvictRate(Policy):
    """Lets at most ``evict_rate`` bytes a second leave."""

    kind = "evict-rate"

    def __init__(
        self,
        *,
        bytes_per_s: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(options=options or {})
        if bytes_per_s is None:
            bytes_per_s = _option(self.kind, self.options, "evict_rate", units.parse_rate)
        self.bytes_per_s: int = bytes_per_s

    def decide(self, tick: Tick) -> Decision:
        # The time that passed, not the interval: a late tick may catch up, an early one not.
        bytes_max = int(self.bytes_per_s * min(tick.passed_s, 2 * tick.interval_s))
        return Decision(bytes_max=bytes_max, bytes_per_s_max=float(self.bytes_per_s))


class RefaultLimit(Policy):
    """Lets nothing leave while refaults are above ``refault_limit`` a second.

    Refaults say that pages leave which are still needed.  Above half the limit the amount shrinks
    in proportion, so that the region settles near the limit and does not swing around it.
    """

    kind = "refault-limit"

    def __init__(
        self,
        *,
        refaults_per_s: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(options=options or {})
        if refaults_per_s is None:
            refaults_per_s = _option(self.kind, self.options, "refault_limit", _positive)
        self.refaults_per_s: int = refaults_per_s
        self._refaults_before: int | None = None

    def decide(self, tick: Tick) -> Decision:
        before, self._refaults_before = self._refaults_before, tick.nr_refaults
        if before is None or tick.passed_s <= 0:
            return Decision()
        load = (tick.nr_refaults - before) / tick.passed_s / self.refaults_per_s
        if load <= 0.5:
            return Decision()
        share = max(0.0, 2.0 * (1.0 - load))
        return Decision(bytes_max=int(tick.resident_bytes * share) // 4096 * 4096)
