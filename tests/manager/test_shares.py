# SPDX-License-Identifier: Apache-2.0
"""Fair shares of the tiers: how they are reckoned, and VMs that compete for a tier that is full."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.manager.support import MIB, Serve, Vmm, until
from tierstore.abc import Decision, Tick
from tierstore.control import Client
from tierstore.manager.share import USABLE, FairShare, divide, holding
from tierstore.statistics import (
    EvictionCounts,
    FaultCounts,
    PageCounts,
    RegionStatistics,
    Statistics,
    TierStatistics,
)

# ---- Reckoned -------------------------------------------------------------------------------

PAGE = 4096


def statistics(used_pct: int, **away: int) -> Statistics:
    """An engine with a tier that 1000 pages may be in, and regions with so many pages away."""
    plain: dict[str, object] = dict.fromkeys(TierStatistics.__slots__, 0)
    plain |= {"name": "warm", "store": "ram", "codec": "raw", "is_failed": False}
    used_bytes = 10 * PAGE * used_pct
    plain |= {"capacity_bytes": round(1000 * PAGE / USABLE), "used_bytes": used_bytes}
    plain["stored_bytes"] = used_bytes
    nothing = (FaultCounts(), EvictionCounts())
    regions = tuple(
        RegionStatistics(
            name, 1 << 30, "memfd", "wp", PageCounts(away=pages), *nothing, (pages * PAGE,)
        )
        for name, pages in away.items()
    )
    return Statistics(1, 1.0, PAGE, len(away), PageCounts(), *nothing, {}, 0, 0,
                      (TierStatistics(**plain),), {}, regions)  # type: ignore[arg-type] # fmt: skip


def tick(name: str, now: Statistics, nr_cold: int = 100_000) -> Tick:
    """What a policy sees."""
    ages = (0, nr_cold, *([0] * 62))
    return Tick(name, 1 << 30, 1 << 29, PAGE, ages, 0, 30.0, 30.0, 0, 0, now)


def pages(number: float) -> float:
    """In bytes, give or take what rounding does."""
    return pytest.approx(number * PAGE, abs=PAGE)  # type: ignore[no-any-return]


def limited(share: FairShare, name: str, now: Statistics) -> tuple[float, int]:
    """Bytes that may leave a VM that wants to be rid of all, and pages that it has to take back."""
    decision, nr_back = share.limit(tick(name, now), Decision())
    return decision.bytes_max, nr_back


@pytest.mark.parametrize(
    "wants, weights, level",
    [
        ({"a": 10, "b": 10}, {"a": 1, "b": 1}, float("inf")),
        ({"a": 100, "b": 10}, {"a": 1, "b": 1}, 50),
        ({"a": 90, "b": 90}, {"a": 1, "b": 1}, 30),
        ({"a": 90, "b": 90}, {"a": 2, "b": 1}, 20),
        ({"a": 90, "b": 90, "c": 0}, {"a": 1, "b": 1, "c": 8}, 30),
        ({"a": float("inf")}, {"a": 4}, 15),
    ],
)
def test_what_one_leaves_is_divided_among_the_others(
    wants: Mapping[str, float], weights: Mapping[str, float], level: float
) -> None:
    assert divide(60, wants, weights) == level


def test_while_there_is_room_everybody_may_use_it() -> None:
    share = FairShare(lambda: {"a": 1, "b": 1}, 80)
    assert limited(share, "a", statistics(70, a=690, b=10)) == (Decision().bytes_max, 0)


def test_a_vm_alone_may_use_all_there_is() -> None:
    share = FairShare(lambda: {"a": 1}, 80)
    assert limited(share, "a", statistics(99, a=940)) == (Decision().bytes_max, 0)


def test_above_its_share_a_vm_waits_and_the_others_do_not() -> None:
    share = FairShare(lambda: {"a": 1, "b": 1}, 80)
    now = statistics(90, a=800, b=100)
    # b may have 500 pages and has 100.
    assert limited(share, "b", now)[0] == pages(400)
    assert limited(share, "a", now)[0] == 0


def test_who_has_too_much_makes_room_for_who_wants_more() -> None:
    share = FairShare(lambda: {"a": 1, "b": 1}, 80)
    now = statistics(100, a=900, b=100)
    # b has not said yet that it wants more.
    assert limited(share, "a", now)[1] == 0
    assert limited(share, "b", now) == (pages(400), 0)
    # Half of what b lacks at a time.
    assert limited(share, "a", now)[1] == pytest.approx(200, abs=1)
    share.note("b", 150 * PAGE)
    assert limited(share, "a", now)[1] == pytest.approx(25, abs=1)


def test_shares_follow_weights() -> None:
    now = statistics(90, a=450, b=450)
    weights = {"a": 3.0, "b": 1.0}
    held = holding("a", now, weights)
    assert (held.share_bytes, held.held_bytes) == (pages(750), pages(450))
    # What a does not want is b's, until a wants it.
    assert holding("b", now, weights).share_bytes == pages(550)
    assert holding("b", now, weights, {"a": 1e9}).share_bytes == pages(250)


def test_a_full_ladder_without_anybodys_pages() -> None:
    share = FairShare(lambda: {"a": 1, "b": 1}, 80)
    assert limited(share, "a", statistics(100, a=0, b=0)) == (0, 0)


# ---- VMs that compete -----------------------------------------------------------------------

CONFIG = """
[engine]
interval = "100ms"

[[tier]]
name = "warm"
store = "ram"
size = "16MiB"
codec = "raw"
{more}
[[vm]]
budget = "5%"
min_age = "100ms"
"""
HEAVY = """
[[vm]]
socket = "heavy.sock"
weight = 15
"""
COLD = """
[[tier]]
name = "cold"
store = "lmdb"
size = "128MiB"
codec = "raw"
path = "{path}"
"""


class Look:
    """What each VM holds, asked as ``tierstore stat`` does, and often."""

    def __init__(self, manager: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(manager.folder))
        self._pid = manager.process.pid

    def vm(self, vmm: Vmm) -> dict[str, Any]:
        """The manager's report of it."""
        with Client(self._pid) as client:
            return next(vm for vm in client.vms() if vm["pid"] == vmm.pid)

    def held(self, *vmms: Vmm, tier: str = "warm") -> list[float]:
        """MiB in a tier."""
        return [self.vm(vmm).get("stored_by_tier", {}).get(tier, 0) / MIB for vmm in vmms]

    def until_settled(self, vmm: Vmm) -> float:
        """All that the VM wants to be rid of has left; what that takes, in MiB."""

        def settled() -> list[float] | None:
            vm = self.vm(vmm)
            resident = vm.get("resident_bytes", 1 << 60) + vm.get("leaving_bytes", 1 << 60)
            return self.held(vmm) if resident <= vm["budget_bytes"] * 1.05 else None

        return float(until(settled, "a VM to come down to its budget")[0])


def test_three_vms_divide_a_full_tier_and_none_starves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(Serve(tmp_path, config=CONFIG.format(more="")))
        look = Look(manager, monkeypatch)

        def vm(mib: int, seed: int) -> Vmm:
            vmm = Vmm(manager.socket, "--seed", str(seed), mib=mib)
            return stack.enter_context(vmm).handed_over()

        greedy = vm(40, 1)
        until(lambda: look.held(greedy)[0] > 14, "one VM alone to fill the tier")
        # Who comes late gets its share all the same, and who wants less all that it wants.
        late, modest = vm(40, 2), vm(3, 3)
        wanted = look.until_settled(modest)
        half = (16 * USABLE - wanted) / 2
        shares = [half, half, wanted]
        until(lambda: look.held(greedy, late, modest) == pytest.approx(shares, rel=0.1), "shares")
        # It stays so, while two of them go on wanting what they have not.
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            assert look.held(greedy, late, modest) == pytest.approx(shares, rel=0.15)
        report = look.vm(greedy)
        assert report["returned"] * PAGE > 5 * MIB
        assert report["share_bytes"] / MIB == pytest.approx(half, rel=0.1)
        shown = manager.run("top", "-n", "1").stdout
        assert re.search(rf"-{greedy.pid}: .* stored [\d.]+ MiB of [\d.]+ MiB, ", shown), shown
        # Everybody's bytes are right: what came back, and what is away.
        for vmm in (greedy, late, modest):
            vmm.verify()
        # Who leaves, leaves its part to the others.
        late.kill()
        until(lambda: look.held(greedy)[0] > 0.8 * (16 - wanted), "the room of one that is gone")
        greedy.verify()
        modest.verify()
        assert "Traceback" not in manager.log


@contextlib.contextmanager
def control_group() -> Iterator[tuple[Path, str]]:
    """A memory control group of the test's own, and the name of its limit."""
    v1 = Path("/sys/fs/cgroup/memory")
    top, limit = (v1, "memory.limit_in_bytes") if v1.exists() else (v1.parent, "memory.max")
    group = top / f"tierstore-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"may not make a control group: {error}")
    try:
        if not (group / limit).exists():
            pytest.skip("control groups have no limit of memory here")
        yield group, limit
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
        group.rmdir()


@contextlib.contextmanager
def inside(group: Path) -> Iterator[None]:
    """What is started here is in the group."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    kind = "memory" if group.parent.name == "memory" else ""
    path = next(path for _, kinds, path in (x.split(":", 2) for x in lines)
                if kind in kinds.split(","))  # fmt: skip
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (group.parent / path.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


def test_a_vm_at_the_limit_of_its_control_group_gives_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be killed for it.  Once there is room it does."""
    with contextlib.ExitStack() as stack:
        group, limit = stack.enter_context(control_group())
        other = tmp_path / "heavy.sock"
        config = CONFIG.format(more="") + HEAVY
        manager = stack.enter_context(Serve(tmp_path, "--listen", str(other), config=config))
        look = Look(manager, monkeypatch)
        with inside(group):
            greedy = stack.enter_context(Vmm(manager.socket, "--seed", "1", mib=40))
        greedy.handed_over()
        until(lambda: look.held(greedy)[0] > 14, "one VM alone to fill the tier")
        usage = "memory.current" if limit == "memory.max" else "memory.usage_in_bytes"
        enough = int((group / usage).read_text()) + MIB
        (group / limit).write_text(str(enough))
        # It owes nearly all that it has.
        heavy = stack.enter_context(Vmm(other, "--seed", "2", mib=40)).handed_over()
        until(lambda: "control group's limit" in manager.log, "it to be said")
        before = look.vm(greedy)["returned"]
        (group / limit).write_text(str(enough + 200 * MIB))
        until(lambda: (look.vm(greedy)["returned"] - before) * PAGE > 2 * MIB, "what it owes")
        greedy.verify()
        heavy.verify()


def test_a_flood_does_not_push_others_down_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = COLD.format(path=tmp_path / "cold")
    with (
        Serve(tmp_path, config=CONFIG.format(more=more)) as manager,
        Vmm(manager.socket, "--seed", "1", mib=6).handed_over() as small,
    ):
        look = Look(manager, monkeypatch)
        wanted = look.until_settled(small)
        assert wanted < 16 / 2 * 0.9
        with Vmm(manager.socket, "--seed", "2", mib=64).handed_over() as flood:
            # Its frames are the younger ones, and they are what goes down.
            until(lambda: look.held(flood, tier="cold")[0] > 30, "the flood to go down")
            assert look.held(small) == pytest.approx([wanted], rel=0.05)
            assert look.held(small, tier="cold") == [0]
            flood.verify()
        small.verify()
