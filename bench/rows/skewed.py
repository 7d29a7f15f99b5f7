# SPDX-License-Identifier: Apache-2.0
"""Row 14: a skewed guest at a budget of 30 %.

Measured: time a request of a guest whose requests go 9 in 10 to a drifting tenth of its pages; a
request touches one page (three in ten write) and computes for some 25 us, as a server's does.  Ours
runs the C cycle (a scan a second) with a ram tier, lz4 in ranges of 4 KiB.  Against: the same guest
with all its memory; and its slow-down (time beyond that) against the slow-down under a control
group's limit of the same resident size with zram-lz4.  Fair because all compute the same sums from
the same pages (the hash proves it), and compressed bytes are outside of either budget.
"""

from __future__ import annotations

from bench.harness import PAGE, Bench, Figures, column
from bench.result import Result, Skipped, at_most, compare
from bench.rivals.group import memory_group
from bench.rivals.swap import zram

NUMBER = 14
BUDGET_PCT = 30
OVERHEAD_BYTES = 6 << 20  # of the program itself: its tables, libraries and page tables
CHOICE = {"codec": "lz4", "range": 4096}


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
    """The first needs no rival."""
    sides = {"ours": lambda: run(bench, "ours", **CHOICE), "all": lambda: run(bench, "resident")}
    limit = bench.sizes.pages * PAGE * BUDGET_PCT // 100 + OVERHEAD_BYTES
    try:
        with memory_group(limit) as group, zram(bench.sizes.pages * PAGE * 2):
            sides["zram"] = lambda: run(bench, "swap", cgroup=group)
            found = bench.alternate(sides)
    except Skipped as skipped:
        sides.pop("zram", None)
        skipped.results = [against_all(bench.alternate(sides))]
        raise
    slow = {
        way: [
            run["request_ns"] / resident["request_ns"] - 1
            for run, resident in zip(found[way], found["all"], strict=True)
        ]
        for way in ("ours", "zram")
    }
    detail = {way: {"resident_pages": found[way][-1]["resident_pages"]} for way in slow}
    return [
        against_all(found),
        compare("14", "skewed guest, slow-down", "of all-resident", slow["ours"],
                "zram-lz4 under a cgroup limit", slow["zram"], at_most(0.7), detail=detail),
    ]


def against_all(found: dict[str, list[Figures]]) -> Result:
    """Run time against that with all memory."""
    return compare(
        "14",
        f"skewed guest at {BUDGET_PCT} %, run time",
        "us/request",
        column(found["ours"], "request_ns", 1e-3),
        "all resident",
        column(found["all"], "request_ns", 1e-3),
        at_most(1.03),
        hash=found["all"][0]["hash"],
        detail={"faults": found["ours"][-1]["faults"], "evicted": found["ours"][-1]["evicted"]},
    )
