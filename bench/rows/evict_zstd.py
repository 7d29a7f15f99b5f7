# SPDX-License-Identifier: Apache-2.0
"""Row 7: how fast memory leaves with zstd, against the bare codec.

Measured: pages a second of one ts_region_evict() of everything, zstd (level 3, the default) in
64 KiB ranges.
Against: as many threads that do nothing but ZSTD_compress2 on the same ranges of the same memory,
into memory of their own.  Fair because the codec is the work that can't be avoided; ours also takes
the pages from the guest, verifies, stores them and gives the RAM back.  The detail has the rate of
the codec with the engine's system calls and nothing of ours around them (way=calls).  Both sides
meet the RAM for their frames for the first time, so the bare one has its page faults, too; it
starts its threads in the measured time, ours has them.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from bench.harness import Bench, column
from bench.result import Result, at_least, compare

NUMBER = 7
OPTIONS = {"codec": "zstd", "range": 64 << 10, "touch": 0}


def measure(bench: Bench) -> list[Result]:
    """For anonymous memory and for a memfd."""
    results = []
    for memory in ("anon", "memfd"):
        found = bench.alternate(
            {
                way: partial(bench.memory, way, memory=memory, **OPTIONS)
                for way in ("ours", "bare", "calls")
            }
        )
        rates = {
            way: [1e6 / time for time in column(runs, "evict_ns_per_page")]
            for way, runs in found.items()
        }
        results.append(
            compare(
                "7",
                f"evict rate, zstd 64 KiB, {memory}",
                "kpages/s",
                rates["ours"],
                "bare codec, same threads",
                rates["bare"],
                at_least(0.9),
                hash=found["ours"][0]["hash"],
                detail={"bare codec and the same system calls": median(rates["calls"])},
            )
        )
    return results
