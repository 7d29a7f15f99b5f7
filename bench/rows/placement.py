# SPDX-License-Identifier: Apache-2.0
"""Row 2: where fault threads run by default, against the best place that a user could fix.

Measured: random faults from the ram tier, p50 and p99, guest thread on CPU 0.  Against: fault
threads fixed to the guest's CPU, to another CPU, and to another CPU with polling before sleep; the
best of these by the same figure.  Fair because a user who tunes can have any of them, and pays for
the polling one with a whole CPU.
"""

from __future__ import annotations

import os
import statistics

from bench.harness import Bench, Figures, Side, column
from bench.result import Result, at_most, compare

NUMBER = 2


def measure(bench: Bench) -> list[Result]:
    """Fixed places beyond the guest's CPU need a second one."""
    placements: dict[str, dict[str, int]] = {"default": {}, "same CPU": {"fault_cpus": 1}}
    if (os.cpu_count() or 1) > 1:
        placements["other CPU"] = {"fault_cpus": 2}
        placements["other CPU, polling"] = {"fault_cpus": 2, "spin_us": 1000}

    def side(options: dict[str, int]) -> Side:
        return lambda: bench.memory("ours", cpu=0, **options)

    found = bench.alternate({name: side(options) for name, options in placements.items()})
    return [judge(found, figure) for figure in ("p50", "p99")]


def judge(found: dict[str, list[Figures]], figure: str) -> Result:
    """Against the fixed placement with the best median."""
    columns = {name: column(runs, f"touch_{figure}_ns", 1e-3) for name, runs in found.items()}
    medians = {name: statistics.median(values) for name, values in columns.items()}
    best = min((name for name in columns if name != "default"), key=lambda name: medians[name])
    return compare(
        "2",
        f"default placement, {figure}",
        "us",
        columns["default"],
        f"best fixed: {best}",
        columns[best],
        at_most(1.15),
        hash=found["default"][0]["hash"],
        detail=medians,
    )
