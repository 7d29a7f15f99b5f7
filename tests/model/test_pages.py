# SPDX-License-Identifier: Apache-2.0
"""Guest memory under a real engine against a plain list of pages: no order of calls may tell them
apart.

Hypothesis draws sequences of everything that a guest and a host can do to two regions (anonymous
and shared memory) over a ladder of small tiers, so that demotion, full tiers and kept copies
come by themselves.  The model knows nothing of tiers: a page holds what was written last.

For longer runs: ``pytest tests/model --soak``.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.parts import PAGE, dictionaries, ladder, page_of
from tierstore import Engine, GuestMemory, Region
from tierstore.errors import StoreFull, UsageError

NR_PAGES = 640
SIZE = NR_PAGES * PAGE
KINDS = ("anon", "memfd")
MADV_DONTNEED = 4
PUNCH_HOLE_KEEP_SIZE = 2 | 1
DEADLINE_S = 60.0

# Foreign calls through CDLL let go of the interpreter's lock: these may wait for a fault thread.
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclasses.dataclass
class Guest:
    """One guest: its memory, what it must hold, and its region while attached."""

    kind: str
    memory: GuestMemory
    pages: list[bytes]
    region: Region | None = None

    def expected(self, offset: int, length: int) -> bytes:
        """What a read must return."""
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        joined = b"".join(self.pages[first : last + 1])
        return joined[offset - first * PAGE :][:length]

    def read(self, offset: int, length: int) -> bytes:
        """Guest memory, by a copy that lets the interpreter go on."""
        if self.region is not None:
            return self.region.read(offset, length)
        return bytes(self.memory.buffer[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Both: memory and model."""
        if self.region is not None:
            self.region.write(offset, data)
        else:
            self.memory.buffer[offset : offset + len(data)] = data
        for page in range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1):
            start = page * PAGE - offset
            old, low = self.pages[page], max(-start, 0)
            new = data[max(start, 0) : max(start + PAGE, 0)]
            self.pages[page] = old[:low] + new + old[low + len(new) :]

    def check(self, first: int = 0, count: int = NR_PAGES) -> None:
        """Page by page, so that a failure names one."""
        for page in range(first, first + count):
            assert self.read(page * PAGE, PAGE) == self.pages[page], f"{self.kind} page {page}"


GUEST = st.sampled_from(KINDS)
FIRST = st.integers(0, NR_PAGES - 1)
COUNT = st.sampled_from([1, 2, 15, 64, 200, NR_PAGES])
CONTENTS = st.sampled_from(["noise", "text", "text", "fill", "zero"])
SEED = st.integers(0, 999)


def clip(first: int, count: int) -> tuple[int, int]:
    """A run of pages that ends inside of the region."""
    return first, min(count, NR_PAGES - first)


class PagesMachine(RuleBasedStateMachine):
    """The rules.  Times and machine load may change which path is taken, never what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tierstore-model-"))
        self.guests = {}
        for kind in KINDS:
            make = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
            self.guests[kind] = Guest(kind, make(SIZE), [bytes(PAGE)] * NR_PAGES)
        self.names = itertools.count()

    @initialize(
        tiers=st.sampled_from(["native", "native", "python", "one"]),
        restore=st.sampled_from(["auto", "page", "range"]),
        shards=st.sampled_from([0, 2]),
        seed=SEED,
    )
    def begin(self, tiers: str, restore: str, shards: int, seed: int) -> None:
        region = {"restore": restore, "shards": shards, "probation": "30ms", "guard_scans": 1}
        self.tiers = ladder(tiers, self.folder)
        self.engine = Engine({"tier": self.tiers, "region": region})
        for guest in self.guests.values():
            for page in range(NR_PAGES):
                kind = ("noise", "text", "fill", "zero", "text")[(page + seed) % 5]
                guest.write(page * PAGE, page_of(kind, page))
            guest.region = self.engine.attach(guest.memory, name=guest.kind)

    # ---- The guest ----------------------------------------------------------------------

    @rule(guest=GUEST, first=FIRST, count=COUNT, kind=CONTENTS, seed=SEED)
    def write_pages(self, guest: str, first: int, count: int, kind: str, seed: int) -> None:
        first, count = clip(first, count)
        for page in range(first, first + count):
            self.guests[guest].write(page * PAGE, page_of(kind, seed + page % 7))

    @rule(guest=GUEST, offset=st.integers(0, SIZE - 1), data=st.binary(min_size=1, max_size=9000))
    def write_bytes(self, guest: str, offset: int, data: bytes) -> None:
        self.guests[guest].write(offset, data[: SIZE - offset])

    @rule(guest=GUEST, first=FIRST, count=COUNT)
    def read_pages(self, guest: str, first: int, count: int) -> None:
        self.guests[guest].check(*clip(first, count))

    @rule(guest=GUEST, offset=st.integers(0, SIZE - 1), length=st.integers(1, 3 * PAGE))
    def read_bytes(self, guest: str, offset: int, length: int) -> None:
        length = min(length, SIZE - offset)
        chosen = self.guests[guest]
        assert chosen.read(offset, length) == chosen.expected(offset, length)

    @rule(guest=GUEST, first=FIRST, count=COUNT, told_first=st.booleans())
    def balloon(self, guest: str, first: int, count: int, told_first: bool) -> None:
        """The guest gives pages up: they are zeros from now on."""
        first, count = clip(first, count)
        chosen = self.guests[guest]
        offset, length = first * PAGE, count * PAGE
        if guest == "anon":
            address = chosen.memory.address + offset
            assert _libc.madvise(address, length, MADV_DONTNEED) == 0
        else:
            if told_first and chosen.region is not None:
                chosen.region.discard(offset, length)
            fd = chosen.memory.fd
            assert _libc.fallocate(fd, PUNCH_HOLE_KEEP_SIZE, offset, length) == 0
            if not told_first and chosen.region is not None:
                chosen.region.discard(offset, length)
        chosen.pages[first : first + count] = [bytes(PAGE)] * count

    # ---- The host -----------------------------------------------------------------------

    def attached(self) -> list[Guest]:
        """Those that have a region now."""
        return [guest for guest in self.guests.values() if guest.region is not None]

    @rule(guest=GUEST)
    def deactivate(self, guest: str) -> None:
        region = self.guests[guest].region
        if region is not None:
            region.deactivate()

    @rule(guest=GUEST, nr=st.integers(1, 3))
    def scan(self, guest: str, nr: int) -> None:
        region = self.guests[guest].region
        for _ in range(nr if region is not None else 0):
            assert region is not None
            seen = region.scan()
            assert seen.nr_touched + seen.nr_cold == seen.nr_resident <= NR_PAGES
            assert sum(seen.nr_by_age) == seen.nr_resident
            assert seen.nr_guarded <= seen.nr_by_age[0]

    @rule(
        guest=GUEST,
        age_min=st.sampled_from([0, 0, 1]),
        probation=st.booleans(),
        bytes_max=st.sampled_from([None, None, 64 * PAGE, PAGE]),
    )
    def evict(self, guest: str, age_min: int, probation: bool, bytes_max: int | None) -> None:
        region = self.guests[guest].region
        if region is None:
            return
        result = region.evict(bytes_max, age_min=age_min, probation=probation)
        assert result.nr_filled + result.nr_reused <= result.nr_evicted
        ended = result.nr_evicted + result.nr_probation + result.nr_failed + result.nr_cancelled
        assert ended <= result.nr_claimed <= (NR_PAGES if bytes_max is None else bytes_max // PAGE)

    @rule(guest=GUEST, age_min=st.sampled_from([0, 1]), seed=SEED)
    def evict_under_load(self, guest: str, age_min: int, seed: int) -> None:
        """Reads and writes while everything is being evicted."""
        chosen = self.guests[guest]
        if chosen.region is None:
            return
        region = chosen.region
        evict = functools.partial(region.evict, age_min=age_min, probation=False)
        evictor = threading.Thread(target=evict)
        evictor.start()
        source = random.Random(seed)
        for _ in range(40):
            page = source.randrange(NR_PAGES)
            chosen.check(page, 1)
            if source.random() < 0.5:
                chosen.write(page * PAGE, page_of("text", source.randrange(999)))
        evictor.join(DEADLINE_S)
        assert not evictor.is_alive()

    @rule()
    def end_probation(self) -> None:
        """Everything that is leaving is gone, or back."""
        self.eventually(lambda pages: pages.leaving == 0)

    @rule(guest=GUEST, first=FIRST, count=COUNT)
    def prefetch(self, guest: str, first: int, count: int) -> None:
        first, count = clip(first, count)
        region = self.guests[guest].region
        if region is None:
            return
        region.prefetch(first * PAGE, count * PAGE)
        if count == NR_PAGES:
            pages = region.statistics().pages
            assert (pages.away, pages.leaving, pages.coming) == (0, 0, 0)

    @rule(guest=GUEST, nr=st.integers(1, 30))
    def sample(self, guest: str, nr: int) -> None:
        chosen = self.guests[guest]
        if chosen.region is not None:
            samples = chosen.region.sample(nr)
            assert len(samples) <= nr
            assert set(samples) <= set(chosen.pages)

    @rule(index=st.sampled_from([0, 1]))
    def set_dictionary(self, index: int) -> None:
        for tier in self.tiers:
            if tier["codec"].startswith("zstd"):
                try:
                    assert self.engine.set_dictionary(tier["name"], dictionaries()[index]) > 0
                except (UsageError, StoreFull) as error:
                    assert "can hold" in str(error) or "no room" in str(error), error

    @rule(guest=GUEST)
    def detach(self, guest: str) -> None:
        chosen = self.guests[guest]
        if chosen.region is not None:
            chosen.region.detach()
            chosen.region = None
            chosen.check()

    @precondition(lambda self: len(self.attached()) < len(KINDS))
    @rule()
    def attach(self) -> None:
        for guest in self.guests.values():
            if guest.region is None:
                name = f"{guest.kind}{next(self.names)}"
                guest.region = self.engine.attach(guest.memory, name=name)

    # ---- What always holds --------------------------------------------------------------

    def eventually(self, holds: Any) -> None:
        """The engine's threads bring it about by themselves; how soon is the machine's affair."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds(self.engine.statistics().pages):
            assert time.monotonic() < deadline, self.engine.statistics().pages
            time.sleep(0.002)

    @invariant()
    def statistics_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        statistics = self.engine.statistics()
        pages = statistics.pages
        assert pages.total == len(self.attached()) * NR_PAGES
        assert statistics.nr_regions == len(self.attached())
        assert pages.kept <= pages.resident
        assert pages.gone == 0
        lost = {name: nr for name, nr in statistics.failures.items() if name != "full"}
        assert not any(lost.values()), lost
        # Small regions: the fixed parts weigh on them.
        assert statistics.engine_bytes <= 16 * pages.total + (64 << 10)
        for tier in statistics.tiers:
            assert tier.used_bytes <= tier.capacity_bytes, tier.name
            assert not tier.is_failed

    def tiers_hold_what_is_away(self) -> None:
        """Once the keeper has nothing on its hands, counts of pages agree exactly."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            statistics = self.engine.statistics()
            held = sum(tier.nr_pages for tier in statistics.tiers)
            if statistics.pages.leaving == 0 and held == statistics.pages.away:
                return
            assert time.monotonic() < deadline, (held, statistics.pages)
            time.sleep(0.002)

    def teardown(self) -> None:
        try:
            if hasattr(self, "engine"):
                self.tiers_hold_what_is_away()
                self.engine.close()
                for guest in self.guests.values():
                    guest.region = None
                    guest.check()
        finally:
            if hasattr(self, "engine"):
                self.engine.close()
            for guest in self.guests.values():
                guest.memory.close()
            shutil.rmtree(self.folder)


BOUNDED = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def test_pages() -> None:
    run_state_machine_as_test(PagesMachine, settings=BOUNDED)


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_pages_for_long() -> None:
    long = settings(BOUNDED, max_examples=3000, stateful_step_count=100)
    run_state_machine_as_test(PagesMachine, settings=long)
