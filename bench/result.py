# SPDX-License-Identifier: Apache-2.0
"""What a row says: one figure of ours beside one of somebody else's, over several turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


class Skipped(Exception):
    """This machine can't run the row, or the rest of it; the text says what is missing."""

    results: list[Result] = []  # noqa: RUF012 (set on the instance by a row that got some)


@dataclass(frozen=True)
class Target:
    """The bound for a ratio, and from which side it counts as met."""

    bound: float
    sense: Literal["<=", ">="]

    def met(self, ratio: float) -> bool:
        """Whether the ratio keeps the bound."""
        return ratio <= self.bound if self.sense == "<=" else ratio >= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}"


def at_most(bound: float) -> Target:
    """Smaller is better."""
    return Target(bound, "<=")


def at_least(bound: float) -> Target:
    """Larger is better."""
    return Target(bound, ">=")


@dataclass(frozen=True)
class Result:
    """One line of the table.  value and versus_value are medians over the turns; ratio is the
    median of the turns' ratios, which load that comes and goes disturbs less than a ratio of
    medians, and spread is the smallest and the largest of them."""

    row: str
    name: str
    value: float
    unit: str
    versus: str
    versus_value: float
    ratio: float
    target: str
    met: bool
    runs: int
    spread: tuple[float, float]
    hash: str
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For one JSON line."""
        return {key: rounded(value) for key, value in asdict(self).items()}


def rounded(value: Any) -> Any:
    """Four digits that mean something, instead of seventeen."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def compare(
    row: str,
    name: str,
    unit: str,
    ours: Sequence[float],
    versus: str,
    theirs: Sequence[float],
    target: Target,
    *,
    hash: str = "",
    detail: dict[str, Any] | None = None,
) -> Result:
    """Turn i of ours belongs to turn i of theirs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        row=row,
        name=name,
        value=statistics.median(ours),
        unit=unit,
        versus=versus,
        versus_value=statistics.median(theirs),
        ratio=ratio,
        target=str(target),
        met=target.met(ratio),
        runs=len(ratios),
        spread=(min(ratios), max(ratios)),
        hash=hash,
        detail=detail or {},
    )
