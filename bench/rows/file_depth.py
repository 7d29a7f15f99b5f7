# SPDX-License-Identifier: Apache-2.0
"""Row 9: random faults from the file tier by 16 threads, against kernel swap on the same disk.

Measured: pages a second until 16 threads have touched everything once in random order, with the
default restore rule, which brings pages of the same blocks along where that pays.  Against: the
same threads on kernel swap (swap cache emptied before), with its own rule for that, readahead, off
and at the kernel's default; the better of the two by median.  Fair because both may read ahead, and
need not.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.harness import Bench, Figures, column
from bench.result import Result, at_least, compare
from bench.rivals.group import memory_group
from bench.rivals.swap import page_cluster, swap_file

NUMBER = 9
THREADS = 16
KERNEL_CLUSTER = 3


def rates(runs: list[Figures]) -> list[float]:
    """Thousands of pages a second."""
    return [1e6 / time for time in column(runs, "touch_wall_ns_per_page")]


def measure(bench: Bench) -> list[Result]:
    """lz4, ranges of 4 KiB."""
    size = bench.sizes.pages * 4096 * 2

    def swap(group: Path, cluster: int) -> Figures:
        with page_cluster(cluster):
            return bench.memory("swap", cgroup=group, threads=THREADS)

    with memory_group() as group, swap_file(bench.fresh_path("swap"), size, 0):
        found = bench.alternate(
            {
                "ours": lambda: bench.memory(
                    "ours", store="file", path=bench.fresh_path("ours"), threads=THREADS
                ),
                "swap": lambda: swap(group, 0),
                "swap, readahead": lambda: swap(group, KERNEL_CLUSTER),
            }
        )
    swaps = {way: rates(runs) for way, runs in found.items() if way != "ours"}
    best = max(swaps, key=lambda way: statistics.median(swaps[way]))
    return [
        compare(
            "9",
            f"random faults from file, {THREADS} threads",
            "kpages/s",
            rates(found["ours"]),
            f"kernel {best}, same disk",
            swaps[best],
            at_least(2.0),
            hash=found["ours"][0]["hash"],
            detail={"restored": found["ours"][-1]["restored"]},
        )
    ]
