# SPDX-License-Identifier: Apache-2.0
"""The cycle's thread outlives whatever a policy, a region or a host without threads throws at it.

Nothing leaves meanwhile, the trouble is said once and by name, and memory stays right.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

import pytest

from tierstore import Decision, Engine, GuestMemory, Policy, Region, Tick

NR_PAGES = 64
SIZE = NR_PAGES * 4096


class Broken(Policy):
    """Does what a test says, once a tick."""

    kind = "broken"
    act: ClassVar[Callable[[], Any]]
    nr_asked: ClassVar[int] = 0

    def decide(self, tick: Tick) -> Decision:
        type(self).nr_asked += 1
        found: Decision = type(self).act()
        return found


def raises(error: BaseException) -> Callable[[], NoReturn]:
    """What a policy with a bug does."""

    def act() -> NoReturn:
        raise error

    return act


def until(true: Callable[[], bool], what: str) -> None:
    """Polls; so wide that only something that hangs meets it."""
    end_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end_s, what
        time.sleep(0.005)


@pytest.fixture
def region() -> Iterator[Region]:
    """One, full, of an engine whose cycle has not been started."""
    config = {
        "engine": {"interval": "10ms"},
        "tier": [{"name": "warm", "store": "ram", "size": "16MiB"}],
        "region": {"policy": f"{__name__}:Broken", "probation": "1ms"},
    }
    Broken.nr_asked = 0
    with Engine(config) as engine, GuestMemory.memfd(SIZE) as memory:
        memory.buffer[:] = b"page" * (SIZE // 4)
        with engine.attach(memory, name="vm1") as attached:
            yield attached


def runs(region: Region, nr_ticks: int = 3) -> None:
    """The cycle asks again and again."""
    before = Broken.nr_asked
    until(lambda: Broken.nr_asked >= before + nr_ticks, "the cycle has ended")
    assert region.read(0, 4) == b"page"


@pytest.mark.parametrize(
    "act",
    [
        raises(ValueError("a bug")),
        raises(SystemExit(3)),
        lambda: None,
        lambda: Decision(age_min=-1),
        lambda: Decision(bytes_max=1.5),  # type: ignore[arg-type]
        lambda: Decision(bytes_per_s_max=float("nan")),
    ],
    ids=["raises", "exits", "nothing", "negative", "fraction", "nan"],
)
def test_a_broken_policy_keeps_its_region_resident_and_is_said_once(
    region: Region, caplog: pytest.LogCaptureFixture, act: Callable[[], Any]
) -> None:
    Broken.act = act
    with caplog.at_level(logging.ERROR, logger="tierstore"):
        region.engine.run()
        runs(region, nr_ticks=5)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1, said
        assert "vm1" in said[0]
        assert "nothing leaves" in said[0]
        assert region.statistics().pages.resident == NR_PAGES
        # Mended, it goes on; broken again, that is said again.
        Broken.act = lambda: Decision(age_min=0)
        until(lambda: region.statistics().evictions.evicted > 0, "nothing leaves any more")
        Broken.act = act
        until(lambda: len(caplog.records) == 2, "the second time is not said")
        region.engine.stop()
    assert region.read(0, SIZE) == b"page" * (SIZE // 4)


def test_a_bug_of_ours_does_not_end_the_cycle(
    region: Region, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, it has a name and comes up once, and the next tick is tried."""
    Broken.act = lambda: Decision(bytes_max=0)
    scan = Region.scan

    def broken_scan(self: Region) -> Any:
        result = scan(self)
        if is_broken:
            Broken.nr_asked += 1
            raise OverflowError("too large")
        return result

    is_broken = True
    monkeypatch.setattr(Region, "scan", broken_scan)
    with caplog.at_level(logging.ERROR, logger="tierstore"):
        region.engine.run()
        runs(region, nr_ticks=5)
        [record] = caplog.records
        assert "vm1" in record.getMessage()
        assert "OverflowError: too large" in record.getMessage()
        is_broken = False
        runs(region)
        region.engine.stop()


def test_a_host_without_threads_is_an_error_and_can_be_tried_again(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    Broken.act = lambda: Decision(bytes_max=0)

    def start(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            region.engine.run()
    region.engine.stop()
    region.engine.run()
    runs(region)
    region.engine.stop()


def test_nothing_is_written_to_stderr_by_the_thread_itself(
    region: Region, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What Python prints of a thread that an exception ends is no message for a user."""
    Broken.act = raises(SystemError("a bug"))
    hook: list[object] = []
    before, threading.excepthook = threading.excepthook, hook.append
    try:
        region.engine.run()
        runs(region)
        region.engine.stop()
    finally:
        threading.excepthook = before
    assert hook == []
    assert "Traceback" not in capfd.readouterr().err
    assert sys.exc_info() == (None, None, None)
    assert len(caplog.records) == 1
