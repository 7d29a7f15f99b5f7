# SPDX-License-Identifier: Apache-2.0
"""Rows 4 and 5: memory that comes back in order, or in clusters of 32 pages, against zram-lz4.

Measured: time a page of touching everything once, with the touches of each page timed (what is
slower than the 99th percentile counts as that).  Ranges of 64 KiB (the default of cold tiers), with
lz4 for row 4, with zstd for row 5.  Against: kernel swap on zram with lz4, its readahead off,
which is how zram is run.  Fair because both hold the pages in compressed RAM and restore them for
the same loop; the density that each reaches stands beside the time, and row 5 demands one (the
tables of neither side are in it; row 10 has them).  Debatable: an idle fault thread fetches what
comes next, on another CPU if one is free, and zram does all in the thread that touches; so CPU time
of all threads is in the detail, and wall time with no touch cut.
"""

from __future__ import annotations

import statistics

from bench.harness import Bench, Side, column
from bench.result import Result, at_least, at_most, compare
from bench.rivals.swap import Zram, zram

NUMBER = 4
LZ4 = {"codec": "lz4", "range": 64 << 10}
ZSTD = {"codec": "zstd", "range": 64 << 10}


def measure(bench: Bench) -> list[Result]:
    """Both orders, both codecs, and the density of row 5."""
    results = []
    with zram(bench.sizes.pages * 4096 * 2) as rival:
        for pattern in ("seq", "cluster"):
            results += one_pattern(bench, rival, pattern)
    return results


def one_pattern(bench: Bench, rival: Zram, pattern: str) -> list[Result]:
    """Three sides in turn."""

    def ours(options: dict[str, object]) -> Side:
        return lambda: bench.memory("ours", pattern=pattern, **options)

    def theirs() -> dict[str, object]:
        rival.reset_peak()
        figures = bench.memory("swap", pattern=pattern)
        return {**figures, "stored_bytes": rival.stat()["mem_used_max"]}

    found = bench.alternate({"lz4": ours(dict(LZ4)), "zstd": ours(dict(ZSTD)), "zram": theirs})
    times = {name: column(runs, "touch_ns_per_page", 1e-3) for name, runs in found.items()}
    density = {
        name: [run["pages"] * 4096 / run["stored_bytes"] for run in runs]
        for name, runs in found.items()
    }

    def medians(field: str) -> dict[str, float]:
        return {name: statistics.median(column(runs, field, 1e-3)) for name, runs in found.items()}

    detail = {
        "density": {name: statistics.median(values) for name, values in density.items()},
        "CPU us/page": medians("touch_cpu_ns_per_page"),
        "wall us/page": medians("touch_wall_ns_per_page"),
    }
    shared = {"hash": found["zram"][0]["hash"], "detail": detail}
    unit, rival_name = "us/page", "zram-lz4"
    return [
        compare("4", f"refault, lz4 64 KiB, {pattern}", unit, times["lz4"], rival_name,
                times["zram"], at_most(0.6), **shared),
        compare("5", f"refault, zstd 64 KiB, {pattern}", unit, times["zstd"], rival_name,
                times["zram"], at_most(1.0), **shared),
        compare("5", f"density, zstd 64 KiB, {pattern}", "x", density["zstd"], rival_name,
                density["zram"], at_least(1.5), **shared),
    ]
