# SPDX-License-Identifier: Apache-2.0
"""Row 9: random faults from the file tier by 16 threads, against kernel swap on the same disk.

Measured: pages a second until 16 threads have touched everything once in random order.  Against:
the same threads on kernel swap (readahead off, swap cache emptied before).  Fair as row 8 is.
"""

from __future__ import annotations

from bench.harness import Bench, column
from bench.result import Result, at_least, compare
from bench.rivals.group import memory_group
from bench.rivals.swap import swap_file

NUMBER = 9
THREADS = 16


def measure(bench: Bench) -> list[Result]:
    """lz4, ranges of 4 KiB."""
    size = bench.sizes.pages * 4096 * 2
    with memory_group() as group, swap_file(bench.fresh_path("swap"), size, 0):
        found = bench.alternate(
            {
                "ours": lambda: bench.memory(
                    "ours", store="file", path=bench.fresh_path("ours"), threads=THREADS
                ),
                "swap": lambda: bench.memory("swap", cgroup=group, threads=THREADS),
            }
        )
    rates = {
        way: [1e6 / time for time in column(runs, "touch_wall_ns_per_page")]
        for way, runs in found.items()
    }
    return [
        compare(
            "9",
            f"random faults from file, {THREADS} threads",
            "kpages/s",
            rates["ours"],
            "kernel swap, same disk",
            rates["swap"],
            at_least(2.0),
            hash=found["ours"][0]["hash"],
        )
    ]
