# SPDX-License-Identifier: Apache-2.0
"""Row 15: what the engine itself keeps in RAM for a page.

Measured: the engine's tables (page words, ages, kept hashes, frames) a page of region while
everything is resident; and those plus the file store's index once every page is in a file, in
ranges of 64 KiB (the default of a disk tier) and, which costs the most, as frames of a page each.
Against: the bound, in bytes.  Buffers of threads and of the store's writers, which don't grow with
the region, are not in it; the detail has all anonymous RAM that the kernel counts for the engine.
"""

from __future__ import annotations

from bench.harness import Bench
from bench.result import Result, at_most, compare

NUMBER = 15
PAGES_FACTOR = 4  # a larger region than elsewhere, so that nothing fixed shows


def measure(bench: Bench) -> list[Result]:
    """Nothing is timed, so one run is enough."""
    pages = bench.sizes.pages * PAGES_FACTOR
    results = []
    for kib in (64, 4):
        figures = bench.memory(
            "ours",
            store="file",
            path=bench.fresh_path("ours"),
            pages=pages,
            range=kib << 10,
            touch=0,
        )
        away = (figures["engine_bytes"] + figures["index_bytes"]) / pages
        results.append(
            compare("15", f"engine memory, on disk, {kib} KiB", "B/page", [away], "1 byte", [1.0],
                    at_most(16), hash=figures["hash"],
                    detail={"all RAM of the engine MiB": figures["rss_bytes"] / 2**20})
        )
    resident = figures["resident_engine_bytes"] / pages
    results.append(
        compare("15", "engine memory, resident", "B/page", [resident], "1 byte", [1.0],
                at_most(8), hash=figures["hash"])
    )
    return results
