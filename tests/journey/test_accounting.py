# SPDX-License-Identifier: Apache-2.0
"""What a page costs the host in RAM while it is here, and while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tierstore import Engine, GuestMemory

PAGE = 4096
NR_PAGES = 32768
SIZE = NR_PAGES * PAGE


@pytest.fixture(params=["anon", "memfd"])
def memory(request: pytest.FixtureRequest) -> Iterator[GuestMemory]:
    """Large enough that fixed parts don't weigh; no two pages alike, none filled."""
    make = GuestMemory.anon if request.param == "anon" else GuestMemory.memfd
    with make(SIZE) as allocated:
        for page in range(NR_PAGES):
            text = f"page {page:08x} of this guest, ".encode() * 200
            allocated.buffer[page * PAGE : (page + 1) * PAGE] = text[:PAGE]
        yield allocated


def engine_for(tmp_path: Path, range_bytes: str) -> Engine:
    """One file tier."""
    cold = {"name": "cold", "store": "file", "path": str(tmp_path / "cold"), "size": "256MiB"}
    return Engine({"tier": [cold | {"codec": "zstd", "range": range_bytes}]})


# 4 for the word; 4.1 for a frame and 6 for its place in the store, which 16 pages share where a
# frame holds 64 KiB.  Ages are given up where 8 MiB are away.
@pytest.mark.parametrize("range_bytes", ["64KiB", "4KiB"])
def test_bytes_a_page(memory: GuestMemory, tmp_path: Path, range_bytes: str) -> None:
    with engine_for(tmp_path, range_bytes) as engine, engine.attach(memory) as region:
        here = engine.statistics()
        assert here.pages.resident == NR_PAGES
        assert here.engine_bytes_per_page <= 8
        index_bytes = here.tiers[0].index_bytes
        region.evict(age_min=0, probation=False)
        away = engine.statistics()
        assert away.pages.resident == 0
        assert away.tiers[0].nr_pages == NR_PAGES
        assert away.tiers[0].index_bytes >= index_bytes
        total_bytes = away.engine_bytes + away.tiers[0].index_bytes
        assert total_bytes / NR_PAGES <= 16
