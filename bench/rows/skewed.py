# SPDX-License-Identifier: Apache-2.0
"""Row 14: a skewed guest at a budget of 30 %.

Measured: time a request of a guest whose requests go 9 in 10 to a drifting tenth of its pages; a
request touches one page (three in ten write) and computes for some 25 us, as a server's does.  The
first half of them is not measured: in it the memory shrinks to its budget.  Guest thread pinned to
CPU 0, as vCPUs often are, and free.  Ours runs the C cycle (a scan a second) with a ram tier, lz4
in ranges of 4 KiB.  Against: the same guest
with all its memory; and its slow-down (time beyond that) against the slow-down under a control
group's limit of the same resident size with zram-lz4.  Fair because all compute the same sums from
the same pages (the hash proves it), and compressed bytes are outside of either budget.
"""

from __future__ import annotations

from pathlib import Path

from bench.harness import PAGE, Bench, Figures, Side, column
from bench.result import Result, Skipped, at_most, compare
from bench.rivals.group import memory_group
from bench.rivals.swap import zram

NUMBER = 14
BUDGET_PCT = 30
OVERHEAD_BYTES = 6 << 20  # of the program itself: its tables, libraries and page tables
CHOICE: dict[str, object] = {"codec": "lz4", "range": 4096}
GUESTS: dict[str, dict[str, object]] = {"pinned": {"cpu": 0}, "free": {}}


def run(bench: Bench, way: str, **options: object) -> Figures:
    """One guest."""
    return bench.run(
        "bench_skew",
        way=way,
        corpus=bench.corpus("mixed"),
        pages=bench.sizes.pages,
        requests=bench.sizes.requests,
        budget_pct=BUDGET_PCT,
        **options,
    )


def measure(bench: Bench) -> list[Result]:
    """The first figure of a guest needs no rival."""
    results = []
    limit = bench.sizes.pages * PAGE * BUDGET_PCT // 100 + OVERHEAD_BYTES
    try:
        with memory_group(limit) as group, zram(bench.sizes.pages * PAGE * 2):
            for guest, pin in GUESTS.items():
                found = bench.alternate(sides(bench, pin) | {"zram": rival(bench, pin, group)})
                results += [against_all(guest, found), against_zram(guest, found)]
    except Skipped as skipped:
        skipped.results = [
            against_all(guest, bench.alternate(sides(bench, pin))) for guest, pin in GUESTS.items()
        ]
        raise
    return results


def sides(bench: Bench, pin: Figures) -> dict[str, Side]:
    """Ours, and all memory."""
    return {
        "ours": lambda: run(bench, "ours", **CHOICE, **pin),
        "all": lambda: run(bench, "resident", **pin),
    }


def rival(bench: Bench, pin: Figures, group: Path) -> Side:
    """Kernel swap under the group's limit."""
    return lambda: run(bench, "swap", cgroup=group, **pin)


def against_all(guest: str, found: dict[str, list[Figures]]) -> Result:
    """Run time against that with all memory."""
    return compare(
        "14",
        f"skewed guest at {BUDGET_PCT} %, {guest}, run time",
        "us/request",
        column(found["ours"], "request_ns", 1e-3),
        "all resident",
        column(found["all"], "request_ns", 1e-3),
        at_most(1.03),
        hash=found["all"][0]["hash"],
        detail={"faults": found["ours"][-1]["faults"], "evicted": found["ours"][-1]["evicted"]},
    )


def against_zram(guest: str, found: dict[str, list[Figures]]) -> Result:
    """What either costs beyond the run time with all memory."""
    slow = {
        way: [
            run["request_ns"] / resident["request_ns"] - 1
            for run, resident in zip(found[way], found["all"], strict=True)
        ]
        for way in ("ours", "zram")
    }
    return compare(
        "14",
        f"skewed guest, {guest}, slow-down",
        "of all-resident",
        slow["ours"],
        "zram-lz4 under a cgroup limit",
        slow["zram"],
        at_most(0.7),
        detail={way: {"resident_pages": found[way][-1]["resident_pages"]} for way in slow},
    )
