# SPDX-License-Identifier: Apache-2.0
"""Engine and Region from Python: pages leave, come back, are refused, and nothing hangs."""

from __future__ import annotations

import logging
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierstore import Config, Engine, GuestMemory, Region
from tierstore.abc import Decision, Outcome, Policy, Store, StoreStat, Tick
from tierstore.errors import (
    ConfigError,
    RegionError,
    RegionGone,
    StoreError,
    StoreNotFound,
    TierstoreError,
    UsageError,
)

PAGE = 4096
NR_PAGES = 512
SIZE = NR_PAGES * PAGE
KINDS = ["anon", "memfd"]


def ram(**keys: object) -> dict[str, Any]:
    """An engine with one tier in RAM."""
    return {"tier": [{"name": "warm", "store": "ram", "size": "64MiB"} | keys]}


def allocate(kind: str, size: int = SIZE) -> GuestMemory:
    """Guest memory of that kind."""
    return GuestMemory.anon(size) if kind == "anon" else GuestMemory.memfd(size)


def contents(page: int) -> bytes:
    """What page number so and so holds: different for each, and compressible."""
    return (f"page {page:05} and " * 300).encode()[:PAGE]


def fill(memory: GuestMemory) -> None:
    """Write every page."""
    for page in range(memory.length_bytes // PAGE):
        memory.buffer[page * PAGE : (page + 1) * PAGE] = contents(page)


def check(region: Region, pages: range = range(NR_PAGES)) -> None:
    """Every page holds what was written."""
    for page in pages:
        assert region.read(page * PAGE, PAGE) == contents(page), f"page {page}"


def evict_all(region: Region) -> None:
    """Everything goes that can."""
    region.evict(age_min=0, probation=False)


@pytest.fixture(params=KINDS)
def memory(request: pytest.FixtureRequest) -> Iterator[GuestMemory]:
    """Filled guest memory."""
    with allocate(request.param) as allocated:
        fill(allocated)
        yield allocated


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One tier in RAM."""
    with Engine(ram()) as opened:
        yield opened


def test_out_and_back(engine: Engine, memory: GuestMemory) -> None:
    with engine.attach(memory, name="vm") as region:
        assert region.statistics().pages.resident == NR_PAGES
        result = region.evict(age_min=0, probation=False)
        assert result.nr_evicted >= NR_PAGES * 0.9
        assert memory.resident_bytes() <= 0.1 * SIZE
        statistics = engine.statistics()
        assert statistics.tiers[0].nr_pages + statistics.pages.filled == result.nr_evicted
        assert statistics.tiers[0].ratio is not None
        assert statistics.tiers[0].ratio > 2
        check(region)
        assert engine.statistics().tiers[0].nr_faults > 0
        assert region.statistics().pages.away == 0
    assert bytes(memory.buffer) == b"".join(contents(page) for page in range(NR_PAGES))


def test_detach_brings_everything_back(engine: Engine, memory: GuestMemory) -> None:
    region = engine.attach(memory)
    evict_all(region)
    region.detach()
    region.detach()
    assert memory.resident_bytes() == SIZE
    assert bytes(memory.buffer) == b"".join(contents(page) for page in range(NR_PAGES))
    for call in (region.scan, region.deactivate, region.evict, region.statistics, region.prefetch):
        with pytest.raises(RegionGone, match="detached"):
            call()
    with engine.attach(memory) as again:
        evict_all(again)
        check(again)


def test_scan_tells_touched_from_untouched(engine: Engine, memory: GuestMemory) -> None:
    with engine.attach(memory) as region:
        for _ in range(3):
            region.deactivate()
            for page in range(0, NR_PAGES, 8):
                # Writes: where reads can't be seen these can.
                region.write(page * PAGE, contents(page)[:8])
            seen = region.scan()
        assert seen.nr_resident == NR_PAGES
        assert seen.nr_touched == NR_PAGES // 8
        assert sum(seen.nr_by_age) == NR_PAGES
        assert seen.nr_by_age[0] == NR_PAGES // 8
        result = region.evict(age_min=1, probation=False)
        assert result.nr_claimed <= NR_PAGES - NR_PAGES // 8


def test_bytes_max_is_kept(engine: Engine, memory: GuestMemory) -> None:
    with engine.attach(memory) as region:
        assert region.evict(0, age_min=0).nr_claimed == 0
        assert 0 < region.evict(64 * PAGE, age_min=0, probation=False).nr_claimed <= 64


def test_prefetch_and_discard(engine: Engine, memory: GuestMemory) -> None:
    with engine.attach(memory) as region:
        evict_all(region)
        region.prefetch(0, 16 * PAGE)
        assert region.statistics().pages.resident >= 16
        away = range(32, 48)
        region.discard(away.start * PAGE, len(away) * PAGE)
        check(region, range(16))
        check(region, range(48, NR_PAGES))
        for page in away:
            got = region.read(page * PAGE, PAGE)
            assert got in (bytes(PAGE), contents(page)), "zeros, or it was resident all along"
        with pytest.raises(RegionError, match="not inside"):
            region.prefetch(SIZE, PAGE)


def test_sample_copies_and_leaves(engine: Engine, memory: GuestMemory) -> None:
    with engine.attach(memory) as region:
        samples = region.sample(64)
        assert 0 < len(samples) <= 64
        assert set(samples) <= {contents(page) for page in range(NR_PAGES)}
        assert region.statistics().pages.resident == NR_PAGES


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused(engine: Engine, kind: str, tmp_path: Path) -> None:
    with allocate(kind) as memory, engine.attach(memory, name="first"):
        with pytest.raises(RegionError):
            engine.attach(memory, name="second")
        with pytest.raises(RegionError, match="attached already"):
            engine.attach(allocate("anon"), name="first")
        with Engine(ram()) as other, pytest.raises(RegionError):
            other.attach(memory)
    with allocate(kind) as memory:
        crooked = GuestMemory.at(memory.address + 1, PAGE, kind=memory.kind, fd=memory.fd)
        with pytest.raises(RegionError, match="multiples of 4096"):
            engine.attach(crooked)
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        borrowed = GuestMemory.of(mapped)
        with pytest.raises(RegionError):
            engine.attach(borrowed)
        assert borrowed.nr_attached == 0
        del borrowed
    assert engine.regions == ()


def test_closing_the_engine_detaches(memory: GuestMemory) -> None:
    engine = Engine(ram())
    region = engine.attach(memory)
    evict_all(region)
    engine.run()
    engine.close()
    engine.close()
    assert not region.is_attached
    assert bytes(memory.buffer[:PAGE]) == contents(0)
    with pytest.raises(UsageError, match="closed"):
        engine.statistics()
    with pytest.raises(UsageError, match="closed"):
        engine.attach(memory)


def test_two_engines_and_several_regions() -> None:
    with Engine(ram()) as one, Engine(ram()) as two:
        memories = [allocate(kind) for kind in KINDS * 2]
        regions = []
        for index, memory in enumerate(memories):
            fill(memory)
            regions.append((one if index % 2 else two).attach(memory, name=f"vm{index}"))
        for region in regions:
            evict_all(region)
        for region in regions:
            check(region)
        assert one.statistics().nr_regions == two.statistics().nr_regions == 2
        assert {region.name for region in one.regions} == {"vm1", "vm3"}
        for region, memory in zip(regions, memories, strict=True):
            region.detach()
            memory.close()


def test_calls_race_with_detach(memory: GuestMemory) -> None:
    """Whoever is late gets RegionGone; nobody gets a dangling pointer, nobody hangs."""
    with Engine(ram()) as engine:
        region = engine.attach(memory)
        unexpected: list[BaseException] = []
        started = threading.Barrier(5)

        def use(call: Any) -> None:
            started.wait()
            try:
                while True:
                    call()
            except RegionGone:
                pass
            except BaseException as error:
                unexpected.append(error)

        calls = [
            lambda: region.evict(32 * PAGE, age_min=0, probation=False),
            region.scan,
            region.statistics,
            lambda: region.read(0, SIZE),
        ]
        threads = [threading.Thread(target=use, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        started.wait()
        for _ in range(20):
            region.prefetch()
        region.detach()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert unexpected == []
    assert bytes(memory.buffer) == b"".join(contents(page) for page in range(NR_PAGES))


class DictStore(Store):
    """The smallest store that keeps the contract; counts what it is asked."""

    kind = "dict"
    nr_gets = 0

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.frames: dict[int, bytes] = {}

    def put(self, items: Any) -> list[Outcome]:
        self.frames.update((key, bytes(data)) for key, data in items)
        return [None] * len(items)

    def get(self, key: int) -> bytes:
        type(self).nr_gets += 1
        try:
            return self.frames[key]
        except KeyError:
            raise StoreNotFound(f"no frame {key}") from None

    def delete(self, keys: Any) -> None:
        for key in keys:
            self.frames.pop(key, None)

    def stat(self) -> StoreStat:
        return StoreStat(capacity_bytes=self.size_bytes, nr_frames=len(self.frames))

    def scan(self) -> Iterator[tuple[int, bytes]]:
        yield from list(self.frames.items())

    def close(self) -> None:
        self.frames.clear()


class BrokenStore(DictStore):
    """Does not open."""

    def __init__(self, **config: Any) -> None:
        raise StoreError("the dog ate it")


def test_a_store_in_python_is_a_tier(memory: GuestMemory) -> None:
    with Engine(ram(store=f"{__name__}:DictStore")) as engine, engine.attach(memory) as region:
        evict_all(region)
        before = DictStore.nr_gets
        check(region)
        assert DictStore.nr_gets > before


def test_a_store_in_python_that_does_not_open() -> None:
    with pytest.raises(TierstoreError, match="the dog ate it"):
        Engine(ram(store=f"{__name__}:BrokenStore"))


@pytest.mark.parametrize(
    "keys",
    [
        {"store": "file", "path": "/no/such/folder/x"},
        {"store": "no.such.module:Store"},
        {"options": {"no-such-option": 1}},
        {"wrap": "no-such-wrapper"},
    ],
)
def test_tiers_that_do_not_open(keys: dict[str, object]) -> None:
    with pytest.raises((StoreError, ConfigError)) as caught:
        Engine(ram(**keys))
    assert "warm" in str(caught.value) or "no.such.module" in str(caught.value)


class Greedy(Policy):
    """Everything may go; says when it was asked."""

    kind = "greedy"
    asked = threading.Semaphore(0)
    ticks: list[Tick] = []  # noqa: RUF012

    def decide(self, tick: Tick) -> Decision:
        self.ticks.append(tick)
        self.asked.release()
        return Decision(age_min=0)


def test_the_cycle_asks_the_policy(memory: GuestMemory) -> None:
    config = ram() | {
        "engine": {"interval": "20ms"},
        "region": {"policy": f"{__name__}:Greedy", "probation": "1ms"},
    }
    with Engine(config) as engine, engine.attach(memory, name="vm") as region:
        Greedy.ticks.clear()
        engine.run()
        for _ in range(20):
            assert Greedy.asked.acquire(timeout=60)
        engine.stop()
        assert memory.resident_bytes() < SIZE
        tick = Greedy.ticks[0]
        assert (tick.region_name, tick.region_bytes, len(tick.nr_by_age)) == ("vm", SIZE, 64)
        check(region)


class Failing(Policy):
    """Never decides."""

    kind = "failing"
    asked = threading.Semaphore(0)

    def decide(self, tick: Tick) -> Decision:
        self.asked.release()
        raise ValueError("can't decide")


def test_a_policy_that_fails_evicts_nothing(
    memory: GuestMemory, caplog: pytest.LogCaptureFixture
) -> None:
    failing = {"policy": f"{__name__}:Failing"}
    config = ram() | {"engine": {"interval": "10ms"}, "region": failing}
    with caplog.at_level(logging.ERROR), Engine(config) as engine, engine.attach(memory):
        engine.run()
        for _ in range(3):
            assert Failing.asked.acquire(timeout=60)
        engine.stop()
        assert engine.statistics().evictions.evicted == 0
    assert "can't decide" in caplog.text


def test_a_policy_that_is_not_there_is_the_callers_exception(memory: GuestMemory) -> None:
    config = ram() | {"region": {"policy": "no-such"}}
    with (
        Engine(config) as engine,
        engine.attach(memory),
        pytest.raises(ConfigError, match="no-such"),
    ):
        engine.run()


def test_engine_memory_a_page(engine: Engine) -> None:
    """At most 8 bytes for a resident page; fixed parts would weigh on a small region."""
    with allocate("memfd", 256 << 20) as memory, engine.attach(memory):
        statistics = engine.statistics()
        assert statistics.pages.total == 65536
        assert statistics.engine_bytes_per_page <= 8


def test_the_ladder_of_the_default_configuration(memory: GuestMemory, tmp_path: Path) -> None:
    config = Config.default(tmp_path, region_bytes=1 << 30)
    with Engine(config) as engine, engine.attach(memory) as region:
        evict_all(region)
        assert [tier.store for tier in engine.statistics().tiers] == ["ram", "lmdb", "file"]
        check(region)
