# SPDX-License-Identifier: Apache-2.0
"""Row 6: CPU time to take a page out with lz4, against MADV_PAGEOUT to zram-lz4.

Measured: user and system time of the whole process from the call to its return, a page, all pages
resident at first and all gone after, with one evict thread.  Against: one MADV_PAGEOUT of the same
memory, which compresses in the caller.  Fair because both compress the same 4 KiB pages by the same
codec, give the RAM back, and keep one CPU busy: with two threads each of them takes up to a sixth
more CPU time here, the bare codec's as well, for the CPUs share a core's caches or a host's.

The detail has what is ours with a thread for each CPU (the default), the bare codec, and the codec
with the engine's system calls and nothing of ours around them (way=calls), each by one thread:
the limits, in microseconds a page.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from bench.harness import Bench, column
from bench.result import Result, at_most, compare
from bench.rivals.swap import zram

NUMBER = 6


def measure(bench: Bench) -> list[Result]:
    """For anonymous memory and for a memfd."""
    results = []
    with zram(bench.sizes.pages * 4096 * 2):
        for memory in ("anon", "memfd"):
            sides = {
                "ours": partial(bench.memory, "ours", memory=memory, touch=0, evict_threads=1),
                "swap": partial(bench.memory, "swap", memory=memory, touch=0),
                "calls": partial(bench.memory, "calls", memory=memory, touch=0, evict_threads=1),
                "bare": partial(bench.memory, "bare", memory=memory, touch=0, evict_threads=1),
                "default": partial(bench.memory, "ours", memory=memory, touch=0),
            }
            found = bench.alternate(sides)
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
                    detail={
                        "bare codec alone": median(cpu["bare"]),
                        "bare codec and the same system calls": median(cpu["calls"]),
                        "an evict thread for each CPU": median(cpu["default"]),
                    },
                )
            )
    return results
