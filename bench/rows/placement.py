# SPDX-License-Identifier: Apache-2.0
"""Row 2: where fault threads run by default, against the best place that a user could fix.

Measured: random faults from the ram tier, p50 and p99; guest thread pinned to CPU 0, as vCPUs often
are, and free.  Against: fault threads fixed to CPU 0, to CPU 1, and to CPU 1 with polling before
sleep; the best of these by the same figure.  Fair because a user who tunes can have any of them,
and pays for the polling one with a whole CPU.
"""

from __future__ import annotations

import os
import statistics

from bench.harness import Bench, Figures, Side, column
from bench.result import Result, at_most, compare

NUMBER = 2


def measure(bench: Bench) -> list[Result]:
    """Fixed places beyond the first CPU need a second one."""
    placements: dict[str, dict[str, int]] = {"default": {}, "CPU 0": {"fault_cpus": 1}}
    if (os.cpu_count() or 1) > 1:
        placements["CPU 1"] = {"fault_cpus": 2}
        placements["CPU 1, polling"] = {"fault_cpus": 2, "spin_us": 1000}

    def side(options: dict[str, int]) -> Side:
        return lambda: bench.memory("ours", **options)

    results = []
    for guest, pin in {"pinned": {"cpu": 0}, "free": {}}.items():
        found = bench.alternate({name: side(pin | at) for name, at in placements.items()})
        results += [judge(guest, found, figure) for figure in ("p50", "p99")]
    return results


def judge(guest: str, found: dict[str, list[Figures]], figure: str) -> Result:
    """Against the fixed placement with the best median."""
    columns = {name: column(runs, f"touch_{figure}_ns", 1e-3) for name, runs in found.items()}
    medians = {name: statistics.median(values) for name, values in columns.items()}
    best = min((name for name in columns if name != "default"), key=lambda name: medians[name])
    return compare(
        "2",
        f"default placement, guest {guest}, {figure}",
        "us",
        columns["default"],
        f"best fixed: {best}",
        columns[best],
        at_most(1.15),
        hash=found["default"][0]["hash"],
        detail=medians,
    )
