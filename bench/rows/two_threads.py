# SPDX-License-Identifier: Apache-2.0
"""Row 13: two faulting threads against one.

Measured: faults a second from the ram tier with lz4, random order, until everything was touched
once by two threads.  Against: the same by one thread.  Nothing is pinned; fault threads are as many
as the default says.  Fair because it is the same engine; what does not scale is ours or the
kernel's, and the bare handler's own scaling stands in the detail of README.md.
"""

from __future__ import annotations

import os
from functools import partial

from bench.harness import Bench, column
from bench.result import Result, Skipped, at_least, compare

NUMBER = 13


def measure(bench: Bench) -> list[Result]:
    """Needs two CPUs; reports both serving modes."""
    if (os.cpu_count() or 1) < 2:
        raise Skipped("one CPU: two threads can't run at a time")
    results = []
    for serve in ("message", "in-thread"):
        found = bench.alternate(
            {
                str(nr): partial(bench.memory, "ours", threads=nr, serve=serve)
                for nr in (2, 1)
            }
        )
        rates = {
            nr: [1e6 / time for time in column(runs, "touch_wall_ns_per_page")]
            for nr, runs in found.items()
        }
        results.append(
            compare(
                "13",
                f"two faulting threads, {serve}",
                "kfaults/s",
                rates["2"],
                "one",
                rates["1"],
                at_least(1.7),
                hash=found["1"][0]["hash"],
            )
        )
    return results
