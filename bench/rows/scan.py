# SPDX-License-Identifier: Apache-2.0
"""Row 12: noticing touches.

Measured: nanoseconds a page of region for ts_region_scan() and ts_region_deactivate(), with a tenth
of the resident pages written between rounds.  Against: the ioctls that these come down to (two
PAGEMAP_SCAN for anonymous memory, PAGEMAP_SCAN and MADV_DONTNEED for a memfd) on the same memory,
with nothing kept of what they say.  And: a region sixteen times as large with the same share of
pages there (each sixteenth), against the small one; a cost that grows with size would show.  The
detail has the same ratio for the bare ioctls, whose page tables of the large one (32 MiB) no cache
holds: what the kernel's own cost grows by, ours does, too.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from bench.harness import PAGE, Bench, Figures, column
from bench.result import Result, at_most, compare

NUMBER = 12
LARGER = 16
EVERY = 16


def measure(bench: Bench) -> list[Result]:
    """Against the ioctls for both kinds of memory; then large against small."""
    large = bench.sizes.large_bytes // PAGE
    small = large // LARGER
    results = [against_ioctls(bench, small, memory) for memory in ("anon", "memfd")]

    def run(way: str, pages: int) -> Figures:
        figures = bench.run("bench_scan", way=way, pages=pages, every=EVERY)
        del figures["hash"]
        return figures

    found = bench.alternate(
        {
            f"{way} {pages}": partial(run, way, pages)
            for way in ("ours", "bare")
            for pages in (large, small)
        }
    )
    costs = {side: column(runs, "ns_per_page") for side, runs in found.items()}
    bare = {size: costs[f"bare {size}"] for size in (large, small)}
    results.append(
        compare(
            "12",
            f"deactivate and scan, {bench.sizes.large_bytes >> 20} MiB sparse",
            "ns/page",
            costs[f"ours {large}"],
            "a sixteenth of it",
            costs[f"ours {small}"],
            at_most(1.1),
            detail={
                "bare ioctls, ns/page": median(bare[large]),
                "bare ioctls, a sixteenth of it": median(bare[small]),
                "bare ratio": median(a / b for a, b in zip(bare[large], bare[small], strict=True)),
                "ours to bare": median(
                    a / b for a, b in zip(costs[f"ours {large}"], bare[large], strict=True)
                ),
            },
        )
    )
    return results


def against_ioctls(bench: Bench, pages: int, memory: str) -> Result:
    """Every page is there."""
    found = bench.alternate(
        {
            way: partial(bench.run, "bench_scan", way=way, pages=pages, memory=memory)
            for way in ("ours", "bare")
        }
    )
    return compare(
        "12",
        f"deactivate and scan, {memory}",
        "ns/page",
        column(found["ours"], "ns_per_page"),
        "bare ioctls",
        column(found["bare"], "ns_per_page"),
        at_most(1.1),
        hash=found["ours"][0]["hash"],
    )
