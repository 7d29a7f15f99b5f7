# SPDX-License-Identifier: Apache-2.0
"""The demo's guest, in plain memory without an engine: does it see what it is there to see?

A checker that finds nothing proves nothing until it has been shown something to find.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierstore.demo.guest import Guest, GuestOptions
from tierstore.demo.source import build_source
from tierstore.errors import ConfigError, RegionError
from tierstore.memory import GuestMemory

NR_PAGES = 1024
EVERYWHERE = GuestOptions(hot_pct=100, touches_per_s=0, cold_per_s=100_000, drift_per_s=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A little less than the guest, so that it has to repeat."""
    path = tmp_path_factory.mktemp("source") / "source"
    length = build_source(path, (NR_PAGES - 100) * 4096)
    fd = os.open(path, os.O_RDONLY)
    yield fd, length
    os.close(fd)


@pytest.fixture(params=["anon", "memfd"])
def memory(request: pytest.FixtureRequest) -> Iterator[GuestMemory]:
    """Guest memory of either kind."""
    allocate = GuestMemory.anon if request.param == "anon" else GuestMemory.memfd
    with allocate(NR_PAGES * 4096) as allocated:
        yield allocated


def run_until(guest: Guest, nr_touches: int) -> None:
    """Let the guest run for at least that many touches."""
    before = guest.statistics().nr_touches
    guest.start()
    while guest.statistics().nr_touches < before + nr_touches:
        pass
    guest.stop()


def test_right_memory_is_right(memory: GuestMemory, source: tuple[int, int]) -> None:
    with Guest(memory, *source, EVERYWHERE) as guest:
        guest.fill()
        assert guest.compare() == 0
        run_until(guest, 100_000)
        seen = guest.statistics()
        assert (seen.nr_mismatches, seen.nr_lost, seen.first_bad_page) == (0, 0, None)
        assert seen.nr_touches // 6 < seen.nr_writes < seen.nr_touches // 4, "a fifth writes"
        assert guest.compare() == 0


def test_one_bit_is_seen_by_touch_and_comparison(
    memory: GuestMemory, source: tuple[int, int]
) -> None:
    with Guest(memory, *source, EVERYWHERE) as guest:
        guest.fill()
        run_until(guest, 10_000)
        memory.buffer[77 * 4096 + 4095] ^= 1
        assert guest.compare() == 1
        run_until(guest, 50 * NR_PAGES)
        seen = guest.statistics()
        assert seen.nr_mismatches > 0
        assert seen.first_bad_page == 77
        assert guest.compare() == 1, "found again, not healed by the guest's own writes"


def test_two_pages_that_changed_places_are_seen(
    memory: GuestMemory, source: tuple[int, int]
) -> None:
    no_zeros = GuestOptions(zero_pct=0)
    with Guest(memory, *source, no_zeros) as guest:
        guest.fill()
        buffer = memory.buffer
        nr_source = source[1] // 4096
        # These two come from the same page of the source: only their number tells them apart.
        one, other = 5 * 4096, (5 + nr_source) * 4096
        saved = bytes(buffer[one : one + 4096])
        assert saved[8:] == buffer[other + 8 : other + 4096]
        buffer[one : one + 4096] = buffer[other : other + 4096]
        buffer[other : other + 4096] = saved
        assert guest.compare() == 2


def test_a_page_that_became_zeros_is_seen(source: tuple[int, int]) -> None:
    with (
        GuestMemory.anon(NR_PAGES * 4096) as memory,
        Guest(memory, *source, GuestOptions(zero_pct=0)) as guest,
    ):
        guest.fill()
        assert memory._mapping is not None
        memory._mapping.madvise(mmap.MADV_DONTNEED, 9 * 4096, 4096)
        assert guest.compare() == 1


def test_a_page_that_can_not_be_read_is_seen_and_survived(source: tuple[int, int]) -> None:
    """A cut memfd gives SIGBUS as a poisoned page does."""
    with (
        GuestMemory.memfd(NR_PAGES * 4096) as memory,
        Guest(memory, *source, EVERYWHERE) as guest,
    ):
        guest.fill()
        os.ftruncate(memory.fd, (NR_PAGES - 3) * 4096)
        run_until(guest, 50 * NR_PAGES)
        seen = guest.statistics()
        assert seen.nr_lost > 0
        assert seen.first_bad_page is not None
        assert seen.first_bad_page >= NR_PAGES - 3
        assert guest.compare() == 3


def test_start_contents_are_the_machines_files(source: tuple[int, int]) -> None:
    with (
        GuestMemory.anon(NR_PAGES * 4096) as memory,
        Guest(memory, *source, GuestOptions(zero_pct=0)) as guest,
    ):
        guest.fill()
        assert memory.buffer[8:4096] == os.pread(source[0], 4088, 8)
        words = {bytes(memory.buffer[i * 4096 : i * 4096 + 8]) for i in range(NR_PAGES)}
        assert len(words) == NR_PAGES, "each page carries its number"


def test_source_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    assert build_source(first, 1 << 20) == build_source(second, 1 << 20) == 1 << 20
    assert first.read_bytes() == second.read_bytes()


def test_resident_bytes_are_the_kernels(memory: GuestMemory) -> None:
    assert memory.resident_bytes() == 0
    memory.buffer[: 100 * 4096] = b"x" * (100 * 4096)
    assert memory.resident_bytes() == 100 * 4096


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (GuestOptions(nr_threads=0), "threads"),
        (GuestOptions(nr_threads=65), "threads"),
        (GuestOptions(hot_pct=101), "share"),
    ],
)
def test_options_that_make_no_sense(
    options: GuestOptions, word: str, source: tuple[int, int]
) -> None:
    with GuestMemory.anon(4096) as memory, pytest.raises(ConfigError, match=word):
        Guest(memory, *source, options)


def test_memory_must_be_writable_and_stays_while_attached() -> None:
    with pytest.raises(RegionError, match="writable"):
        GuestMemory.of(b"constant")
    memory = GuestMemory.anon(4096)
    memory.nr_attached = 1
    with pytest.raises(RegionError, match="detach"):
        memory.close()
    memory.nr_attached = 0
    memory.close()
    memory.close()


def test_copying_a_page_that_is_lost_raises() -> None:
    """What Region.read does, without the region."""
    from tierstore._native import ffi, lib

    with GuestMemory.memfd(2 * 4096) as memory:
        os.ftruncate(memory.fd, 4096)
        target = ffi.new("char[]", 2 * 4096)
        source = ffi.cast("char *", memory.address)
        assert lib.ts_workload_copy(target, source, 4096) == 0
        assert lib.ts_workload_copy(target, source, 2 * 4096) < 0
