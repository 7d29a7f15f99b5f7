# SPDX-License-Identifier: Apache-2.0
"""Row 10: what the same pages cost in RAM once they are out.

Measured: the ram tier's own count of all that it occupies (index, holes) and the engine's tables,
zstd in 64 KiB ranges.  Against: the peak of zram's mem_used (lz4) while the same pages are out; its
table of 16 bytes a page is left out, in its favour.  The engine's fixed buffers (of threads, not
of pages) are in the detail.  Two corpora: without filled pages, and mixed as a guest's memory.
"""

from __future__ import annotations

from bench.harness import Bench
from bench.result import Result, at_most, compare
from bench.rivals.swap import Zram, zram

NUMBER = 10


def measure(bench: Bench) -> list[Result]:
    """Nothing is timed, so one turn is enough; the warm-up is harmless."""
    with zram(bench.sizes.pages * 4096 * 2) as rival:
        return [one_corpus(bench, rival, kind) for kind in ("files", "mixed")]


def one_corpus(bench: Bench, rival: Zram, kind: str) -> Result:
    """Bytes of both, in MiB."""
    ours = bench.memory("ours", kind=kind, codec="zstd", range=64 << 10, touch=0)
    rival.reset_peak()
    swap = bench.memory("swap", kind=kind, touch=0)
    if ours["hash"] != swap["hash"]:
        raise RuntimeError("the sides held different pages")
    return compare(
        "10",
        f"stored bytes, zstd 64 KiB, {kind}",
        "MiB",
        [(ours["stored_bytes"] + ours["engine_bytes"]) / 2**20],
        "zram-lz4",
        [rival.stat()["mem_used_max"] / 2**20],
        at_most(0.6),
        hash=ours["hash"],
        detail={
            "raw MiB": ours["pages"] * 4096 / 2**20,
            "fixed buffers MiB": ours["buffer_bytes"] / 2**20,
        },
    )
