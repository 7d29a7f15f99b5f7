# SPDX-License-Identifier: Apache-2.0
"""Row 11: the lmdb tier against the bare library.

Measured: megabytes a second of put() in batches of 64 frames of 1600 bytes (an lz4 page), and the
median of get() from the page cache.  Against: mdb_put of the same bytes in transactions of 64 with
the same flags, the faster of with and without MDB_WRITEMAP; mdb_get plus memcpy under a renewed
reader.  Fair because both write the same file format on the same disk.  The get is the store's own;
the hand-over to the thread that calls it in an engine stands in the detail.
"""

from __future__ import annotations

import statistics

from bench.harness import Bench, column
from bench.result import Result, at_least, at_most, compare

NUMBER = 11
FRAME_BYTES = 1600


def measure(bench: Bench) -> list[Result]:
    """Both sides take turns within the program, too."""
    megabytes = bench.sizes.pages * 4096 // 10**6 // 2 + 1
    folder = bench.scratch / "lmdb"
    found = bench.alternate(
        {"both": lambda: bench.run("bench_lmdb", "--json", megabytes, FRAME_BYTES, folder)}
    )["both"]
    bare_puts = [
        max(run["put, bare mb_per_s"], run["put, bare, MDB_WRITEMAP mb_per_s"]) for run in found
    ]
    by_a_thread = statistics.median(column(found, "get, store, by a thread p50_ns", 1e-3))
    return [
        compare(
            "11",
            "lmdb put",
            "MB/s",
            column(found, "put, store mb_per_s"),
            "bare batched mdb_put",
            bare_puts,
            at_least(0.9),
            hash=found[0]["hash"],
        ),
        compare(
            "11",
            "lmdb get, p50",
            "us",
            column(found, "get, store p50_ns", 1e-3),
            "bare mdb_get",
            column(found, "get, bare p50_ns", 1e-3),
            at_most(1.15),
            hash=found[0]["hash"],
            detail={"by a thread, us": by_a_thread},
        ),
    ]
