# SPDX-License-Identifier: Apache-2.0
"""Row 3: the faulting thread answers itself, against a fault thread on the same CPU.

Measured: random faults from the ram tier, median, guest thread on CPU 0.  Against: message mode
with its fault threads fixed to CPU 0.  Fair because everything else is the same engine.  In the
detail: the limit, a SIGBUS handler that decodes and copies and does nothing else.
"""

from __future__ import annotations

from statistics import median

from bench.harness import Bench, column
from bench.result import Result, at_most, compare

NUMBER = 3


def measure(bench: Bench) -> list[Result]:
    """Anonymous memory; the mode knows no other."""
    found = bench.alternate(
        {
            "in-thread": lambda: bench.memory("ours", cpu=0, serve="in-thread"),
            "message": lambda: bench.memory("ours", cpu=0, fault_cpus=1),
            "bare": lambda: bench.memory("bare", cpu=0, serve="in-thread"),
        },
        times=3,
    )
    return [
        compare(
            "3",
            "in-thread fault, p50",
            "us",
            column(found["in-thread"], "touch_p50_ns", 1e-3),
            "message mode, same CPU",
            column(found["message"], "touch_p50_ns", 1e-3),
            at_most(0.75),
            detail={"bare_us": median(column(found["bare"], "touch_p50_ns", 1e-3))},
            hash=found["message"][0]["hash"],
        )
    ]
