# SPDX-License-Identifier: Apache-2.0
"""Row 8: a random fault from the file tier.

Measured: the guest's touch of a page that is in a file, random order, median; lz4, ranges of 4
KiB, and the page alone (restore = page), so that every touch is a fault; guest thread pinned to
CPU 0, as vCPUs often are, and free. Against (a): a handler that does one O_DIRECT pread of 4 KiB,
decodes, and copies; fixed to CPU 0 for the pinned guest, polling for 50 us for the free one,
which is what ours does by itself. Against (b): kernel swap on a file of the same disk, readahead
off (its best for random faults), the swap cache emptied by a control group before the touches.
Fair because all three bring back the same pages from the same disk past the page cache, one at a
time, for a guest thread in the same place.
"""

from __future__ import annotations

from bench.harness import Bench, column
from bench.result import Result, Skipped, at_most, compare
from bench.rivals.group import memory_group
from bench.rivals.swap import swap_file

NUMBER = 8
GUESTS: dict[str, dict[str, object]] = {"pinned": {"cpu": 0}, "free": {}}


def ours(bench: Bench, pin: dict[str, object]) -> dict[str, object]:
    """One run on a file tier."""
    return bench.memory("ours", store="file", restore="page", path=bench.fresh_path("ours"), **pin)


def bare(bench: Bench, pin: dict[str, object]) -> dict[str, object]:
    """One run on a file of the program's own."""
    place = {"fault_cpus": 1} if pin else {"spin_us": 50}
    path = bench.fresh_path("bare")
    return bench.memory("bare", store="file", path=path, **pin, **place)


def measure(bench: Bench) -> list[Result]:
    """(a), and (b) where swap can be had."""
    results = [against_bare(bench, guest) for guest in GUESTS]
    try:
        results += [against_swap(bench, guest) for guest in GUESTS]
    except Skipped as skipped:
        skipped.results = results
        raise
    return results


def against_bare(bench: Bench, guest: str) -> Result:
    """(a)"""
    pin = GUESTS[guest]
    found = bench.alternate({"ours": lambda: ours(bench, pin), "bare": lambda: bare(bench, pin)})
    return compare(
        "8a",
        f"random fault from file, guest {guest}, p50",
        "us",
        column(found["ours"], "touch_p50_ns", 1e-3),
        "bare O_DIRECT read, round trip, decode",
        column(found["bare"], "touch_p50_ns", 1e-3),
        at_most(1.15),
        hash=found["ours"][0]["hash"],
    )


def against_swap(bench: Bench, guest: str) -> Result:
    """(b)"""
    pin = GUESTS[guest]
    size = bench.sizes.pages * 4096 * 2
    with memory_group() as group, swap_file(bench.fresh_path("swap"), size, 0):
        found = bench.alternate(
            {
                "ours": lambda: ours(bench, pin),
                "swap": lambda: bench.memory("swap", cgroup=group, **pin),
            }
        )
    return compare(
        "8b",
        f"random fault from file, guest {guest}, p50",
        "us",
        column(found["ours"], "touch_p50_ns", 1e-3),
        "kernel swap, same disk",
        column(found["swap"], "touch_p50_ns", 1e-3),
        at_most(1.0),
        hash=found["ours"][0]["hash"],
    )
