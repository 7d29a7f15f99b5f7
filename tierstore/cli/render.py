# SPDX-License-Identifier: Apache-2.0
"""Statistics as a person reads them: for ``top``, ``stat`` and the demo's view.

Two forms: a block of tables that fits into any width (columns go, least important first), and one
plain line for a terminal that is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tierstore.statistics import Latency, Statistics, TierStatistics
from tierstore.units import format_size

__all__ = ["Rates", "bar", "engine_block", "latency_text", "plain_line", "rates_between"]

_HEALTH = {"ok": "green", "full": "yellow", "failed": "bold red"}


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two looks."""

    faults: float = 0.0
    refaults: float = 0.0
    evicted_bytes: float = 0.0


def rates_between(before: Statistics | None, now: Statistics) -> Rates:
    """Zero if there was no look before."""
    passed_s = now.uptime_s - before.uptime_s if before is not None else 0.0
    if before is None or passed_s <= 0:
        return Rates()
    return Rates(
        faults=(now.faults.total - before.faults.total) / passed_s,
        refaults=(now.faults.refaults - before.faults.refaults) / passed_s,
        evicted_bytes=(now.evictions.evicted - before.evictions.evicted)
        * now.page_bytes
        / passed_s,
    )


def bar(share: float, width: int) -> str:
    """``####....``: plain characters, so that every terminal shows it."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return "#" * filled + "." * (width - filled)


def _number(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (limit if unit != 'k' else 1e3):.3g}{unit}"
    return f"{value:.0f}"


def _time(us: float) -> str:
    if us >= 1e6:
        return f"{us / 1e6:.3g}s"
    return f"{us / 1e3:.3g}ms" if us >= 1e3 else f"{us:.3g}us"


def latency_text(latency: Latency) -> str:
    """``p50 12us  p99 80us  p99.9 1.2ms``; a dash without samples."""
    if latency.count == 0:
        return "-"
    p50, p99, p999 = _time(latency.p50_us), _time(latency.p99_us), _time(latency.p999_us)
    return f"p50 {p50}  p99 {p99}  p99.9 {p999}"


def plain_line(now: Statistics, rates: Rates) -> str:
    """Everything that matters, on one line without colour or cursor movement."""
    away = ", ".join(
        f"{tier.name} {format_size(tier.nr_pages * now.page_bytes)}"
        + (f" ({tier.ratio:.2f}x)" if tier.ratio else "")
        + ("" if tier.health == "ok" else f" {tier.health.upper()}")
        for tier in now.tiers
    )
    return (
        f"resident {format_size(now.resident_bytes)} of {format_size(now.region_bytes)}; "
        f"away: {away}; {_number(rates.faults)} faults/s, {_number(rates.refaults)} refaults/s; "
        f"fault {latency_text(now.stages['fault'])}"
    )


def _tier_row(tier: TierStatistics, page_bytes: int) -> dict[str, str]:
    fill = tier.used_bytes / tier.capacity_bytes if tier.capacity_bytes else 0.0
    return {
        "tier": escape(tier.name),
        "store": escape(tier.store),
        "codec": tier.codec if tier.level in (0, 1) else f"{tier.codec}:{tier.level}",
        "pages": format_size(tier.nr_pages * page_bytes),
        "used": f"{format_size(tier.used_bytes)}",
        "fill": f"{fill:.0%}",
        "ratio": f"{tier.ratio:.2f}" if tier.ratio else "-",
        "faults": _number(tier.nr_faults),
        "in": _number(tier.nr_demoted_in),
        "out": _number(tier.nr_demoted_out),
        "health": f"[{_HEALTH[tier.health]}]{tier.health}[/]",
    }


_COLUMNS = (
    "tier", "store", "codec", "pages", "used", "fill", "ratio", "faults", "in", "out", "health",
)  # fmt: skip
_DROPPED_FIRST = ("out", "in", "codec", "used", "store", "fill", "ratio", "faults", "pages")
_LEFT = ("tier", "store", "codec", "health")
_NAME_WIDTH_MIN = 6
_GAP = 2


def _fitting(rows: Sequence[Mapping[str, str]], width: int) -> tuple[list[str], int]:
    """The columns that fit, and how much room is left for the tier's name."""
    columns = [column for column in _COLUMNS if column != "tier"]
    needed = {
        column: max(len(column), *(len(Text.from_markup(row[column])) for row in rows))
        for column in columns
    }
    droppable = iter(_DROPPED_FIRST)
    while True:
        left = width - sum(needed[column] + _GAP for column in columns)
        column = next(droppable, None) if left < _NAME_WIDTH_MIN else None
        if column is None:
            return ["tier", *columns], max(left, 1)
        columns.remove(column)


def _tiers(now: Statistics, width: int) -> Table:
    rows = [_tier_row(tier, now.page_bytes) for tier in now.tiers]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    if not rows:
        return table
    columns, name_width = _fitting(rows, width)
    for column in columns:
        table.add_column(
            column,
            justify="left" if column in _LEFT else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=name_width if column == "tier" else None,
        )
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _lines(now: Statistics, rates: Rates | None, share: float, drawn: str) -> list[str]:
    held, whole = format_size(now.resident_bytes), format_size(now.region_bytes)
    pages = {
        "away": now.pages.away,
        "filled": now.pages.filled + now.pages.zero,
        "leaving": now.pages.leaving,
        "kept": now.pages.kept,
    }
    lines = [
        f"resident {held} of {whole} {share:4.0%} {drawn}",
        "  ".join(f"{name} {_number(value)}" for name, value in pages.items()),
        f"fault {latency_text(now.stages['fault'])}",
    ]
    if rates is not None:
        per_s = {
            "faults/s": _number(rates.faults),
            "refaults/s": _number(rates.refaults),
            "leaving/s": format_size(rates.evicted_bytes),
        }
        lines.insert(2, "  ".join(f"{name} {value}" for name, value in per_s.items()))
    return lines


def engine_block(now: Statistics, rates: Rates | None, width: int) -> RenderableType:
    """Pages, tiers, latencies, health, and rates if there are any; for any width."""
    share = now.resident_bytes / now.region_bytes if now.region_bytes else 0.0
    above = _lines(now, rates, share, bar(share, max(min(width - 40, 40), 0)))
    failures = {name: number for name, number in now.failures.items() if number}
    below = []
    if failures:
        below.append("failures " + "  ".join(f"{name} {n}" for name, n in failures.items()))
    below.append(
        f"engine {format_size(now.engine_bytes)} ({now.engine_bytes_per_page:.1f} B a page), "
        f"buffers {format_size(now.buffer_bytes)}"
    )

    def texts(lines: Sequence[str]) -> list[Text]:
        return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]

    return Group(*texts(above), _tiers(now, width), *texts(below))
