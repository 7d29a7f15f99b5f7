# SPDX-License-Identifier: Apache-2.0
"""Row 1: a fault served from the ram tier with lz4.

Measured: the guest's first touch of a page that is away, random order, median.  Against: the least
that a userfaultfd handler can do for such a page: poll, read the message, LZ4_decompress_safe,
UFFDIO_COPY.  Fair because both hold the same pages compressed by the same codec in memory, both
handlers are fixed to the guest thread's CPU, and the guest's loop is the same code.  Ours also
verifies a checksum.

Three times as many turns as elsewhere: where a host lends half a core, system calls have two prices
that change every few tenths of a second (`bench_host`), and a run of either side gets one of them.
"""

from __future__ import annotations

from functools import partial

from bench.harness import Bench, column
from bench.result import Result, at_most, compare

NUMBER = 1


def measure(bench: Bench) -> list[Result]:
    """For anonymous memory and for a memfd."""
    results = []
    for memory in ("anon", "memfd"):
        found = bench.alternate(
            {
                way: partial(bench.memory, way, memory=memory, cpu=0, fault_cpus=1)
                for way in ("ours", "bare")
            },
            times=3,
        )
        results.append(
            compare(
                "1",
                f"fault from ram, lz4, {memory}, p50",
                "us",
                column(found["ours"], "touch_p50_ns", 1e-3),
                "bare round trip and decode",
                column(found["bare"], "touch_p50_ns", 1e-3),
                at_most(1.15),
                hash=found["ours"][0]["hash"],
            )
        )
    return results
