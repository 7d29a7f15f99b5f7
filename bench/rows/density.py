# SPDX-License-Identifier: Apache-2.0
"""Row 10: what the same pages cost in RAM once they are out.

Measured: the ram tier's own count of all that it occupies (index, holes) and the engine's tables,
zstd as it is by default in 64 KiB ranges.  Against: the peak of zram's mem_used (lz4) while the
same pages are out, zsmalloc's holes included, and zram's table of 16 bytes for each of them.
What Linux has for every page that is swapped (swap map, page tables) is left out, in its favour;
the engine's fixed buffers (of threads, not of pages) are in the detail, and all anonymous RAM that
the kernel counts for engine and tier, which would show what they forgot.  There, too: what zstd
alone makes of the same ranges, frame after frame, with nothing of ours beside it, at the default
and at higher levels, as a share of what zram occupies: the limit of any change that is not the
codec's.  Two corpora: without filled pages, and mixed as a guest's memory, of which a sixteenth is
noise that both sides keep as it is.
"""

from __future__ import annotations

from bench.harness import Bench
from bench.result import Result, at_most, compare
from bench.rivals.swap import Zram, zram

NUMBER = 10
RANGE_BYTES = 64 << 10
TABLE_BYTES = 16  # struct zram_table_entry, without what CONFIG_ZRAM_MEMORY_TRACKING adds
LEVELS = {"default": {}, "6": {"level": 6}, "12": {"level": 12}}


def measure(bench: Bench) -> list[Result]:
    """Nothing is timed, so one turn is enough; the warm-up is harmless."""
    with zram(bench.sizes.pages * 4096 * 2) as rival:
        return [one_corpus(bench, rival, kind) for kind in ("files", "mixed")]


def one_corpus(bench: Bench, rival: Zram, kind: str) -> Result:
    """Bytes of both, in MiB."""
    ours = bench.memory("ours", kind=kind, codec="zstd", range=RANGE_BYTES, touch=0)
    rival.reset_peak()
    swap = bench.memory("swap", kind=kind, touch=0)
    if ours["hash"] != swap["hash"]:
        raise RuntimeError("the sides held different pages")
    theirs = (rival.stat()["mem_used_max"] + TABLE_BYTES * swap["pages"]) / 2**20
    return compare(
        "10",
        f"stored bytes, zstd 64 KiB, {kind}",
        "MiB",
        [(ours["stored_bytes"] + ours["engine_bytes"]) / 2**20],
        "zram-lz4",
        [theirs],
        at_most(0.6),
        hash=ours["hash"],
        detail={
            "raw MiB": ours["pages"] * 4096 / 2**20,
            "fixed buffers MiB": ours["buffer_bytes"] / 2**20,
            "frames MiB": ours["frame_bytes"] / 2**20,
            "all RAM of the engine MiB": ours["rss_bytes"] / 2**20,
            "zstd alone": {
                level: bare_bytes(bench, kind, options) / 2**20 / theirs
                for level, options in LEVELS.items()
            },
        },
    )


def bare_bytes(bench: Bench, kind: str, options: dict[str, int]) -> float:
    """What zstd alone makes of it."""
    figures = bench.memory("bare", kind=kind, codec="zstd", range=RANGE_BYTES, touch=0, **options)
    return float(figures["stored_bytes"])
