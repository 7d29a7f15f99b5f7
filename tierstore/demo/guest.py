# SPDX-License-Identifier: Apache-2.0
"""The guest: native threads that touch, check and write a region, seen from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

from tierstore._native import ffi, lib
from tierstore._snapshot import latency
from tierstore.errors import check_error
from tierstore.memory import GuestMemory
from tierstore.statistics import Latency

__all__ = ["Guest", "GuestOptions", "GuestStatistics"]

COMPARE_PAGES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class GuestOptions:
    """How the guest behaves.  Shares are of its pages; rates are by all its threads together."""

    nr_threads: int = 2
    seed: int = 1
    write_pct: int = 20
    zero_pct: int = 12
    hot_pct: int = 10
    """Most touches fall into a window of this size, most of those near its start."""
    touches_per_s: int = 200_000
    """In the window; 0: as fast as it goes."""
    cold_per_s: int = 1000
    """Touches anywhere."""
    drift_per_s: int = 1000
    """Pages by which the window moves on."""


@dataclasses.dataclass(frozen=True, slots=True)
class GuestStatistics:
    """What the guest did and found.  Totals."""

    nr_touches: int
    nr_writes: int
    nr_mismatches: int
    nr_lost: int
    """Touches that ended in SIGBUS: the page was poisoned."""
    nr_faults: int
    first_bad_page: int | None
    fault: Latency
    """How long a touch took that waited for a fault, as the guest saw it."""


class Guest:
    """A workload in ``memory``, whose start contents come from a file.

    Create it before the memory is attached; close it after it was detached.
    """

    def __init__(
        self, memory: GuestMemory, source_fd: int, source_bytes: int, options: GuestOptions
    ) -> None:
        self.memory = memory
        self.nr_pages = memory.length_bytes // 4096
        c_options = ffi.new(
            "struct ts_workload_options *",
            {
                "size": ffi.sizeof("struct ts_workload_options"),
                "addr": ffi.cast("void *", memory.address),
                "len_bytes": memory.length_bytes,
                "source_fd": source_fd,
                "source_bytes": source_bytes,
                **dataclasses.asdict(options),
            },
        )
        out = ffi.new("struct ts_workload **")
        check_error(lib.ts_workload_create(c_options, out), "the demo's guest")
        self._handle: Any = out[0]

    def fill(self) -> None:
        """Write the start contents.  Blocks."""
        check_error(lib.ts_workload_fill(self._handle), "filling the guest")

    def start(self) -> None:
        """Let the threads run."""
        check_error(lib.ts_workload_start(self._handle), "starting the guest")

    def stop(self) -> None:
        """Stop them and wait.  Idempotent."""
        lib.ts_workload_stop(self._handle)

    def statistics(self) -> GuestStatistics:
        """Any time."""
        stats = ffi.new("struct ts_workload_stats *")
        stats.size = ffi.sizeof("struct ts_workload_stats")
        check_error(lib.ts_workload_stats(self._handle, stats), "the guest's statistics")
        no_page = (1 << 64) - 1
        return GuestStatistics(
            nr_touches=stats.nr_touches,
            nr_writes=stats.nr_writes,
            nr_mismatches=stats.nr_mismatches,
            nr_lost=stats.nr_lost,
            nr_faults=stats.nr_faults,
            first_bad_page=None if stats.first_bad_page == no_page else stats.first_bad_page,
            fault=latency(stats.fault),
        )

    def compare(self, progress: Callable[[int], None] | None = None) -> int:
        """Compare every page, byte by byte, with what it must hold.  After ``stop``.

        Returns how many pages differ or can't be read.  ``progress`` gets the pages done.
        """
        nr_bad = 0
        for first in range(0, self.nr_pages, COMPARE_PAGES):
            nr = min(COMPARE_PAGES, self.nr_pages - first)
            nr_bad += check_error(
                lib.ts_workload_compare(self._handle, first, nr), "the final comparison"
            )
            if progress is not None:
                progress(first + nr)
        return nr_bad

    def close(self) -> None:
        """Stop and free.  Idempotent."""
        handle, self._handle = self._handle, ffi.NULL
        lib.ts_workload_destroy(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
