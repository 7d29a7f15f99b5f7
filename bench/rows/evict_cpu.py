# SPDX-License-Identifier: Apache-2.0
"""Row 6: CPU time to take a page out with lz4, against MADV_PAGEOUT to zram-lz4.

Measured: user and system time of the whole process from the call to its return, a page, all pages
resident at first and all gone after.  Against: one MADV_PAGEOUT of the same memory, which
compresses in the caller.  Fair because both compress the same 4 KiB pages by the same codec and
give the RAM back; CPU time, not wall time, because ours uses several threads.
"""

from __future__ import annotations

from functools import partial

from bench.harness import Bench, column
from bench.result import Result, at_most, compare
from bench.rivals.swap import zram

NUMBER = 6


def measure(bench: Bench) -> list[Result]:
    """For anonymous memory and for a memfd; the bare codec stands in the detail."""
    results = []
    with zram(bench.sizes.pages * 4096 * 2):
        for memory in ("anon", "memfd"):
            found = bench.alternate(
                {
                    way: partial(bench.memory, way, memory=memory, touch=0)
                    for way in ("ours", "swap", "bare")
                }
            )
            cpu = {way: column(runs, "evict_cpu_ns_per_page", 1e-3) for way, runs in found.items()}
            results.append(
                compare(
                    "6",
                    f"evict, CPU, lz4, {memory}",
                    "us/page",
                    cpu["ours"],
                    "MADV_PAGEOUT to zram-lz4",
                    cpu["swap"],
                    at_most(0.8),
                    hash=found["ours"][0]["hash"],
                    detail={"bare codec alone": min(cpu["bare"])},
                )
            )
    return results
