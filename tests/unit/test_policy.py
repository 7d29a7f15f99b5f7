# SPDX-License-Identifier: Apache-2.0
"""Policies: what each built-in one decides, how they combine, how others plug in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tierstore.abc import Decision, Policy, Tick
from tierstore.config import RegionConfig
from tierstore.errors import ConfigError
from tierstore.policy import AllOf, Budget, EvictRate, MinAge, RefaultLimit, policy_for_region
from tierstore.statistics import EvictionCounts, FaultCounts, PageCounts, Statistics
from tierstore.units import Share

MIB = 1 << 20
EMPTY = Statistics(1, 0.0, 4096, 0, PageCounts(), FaultCounts(), EvictionCounts(), {}, 0, 0, (), {})


def tick(**changes: object) -> Tick:
    """A region of 100 MiB, half of it resident, ten seconds between scans."""
    plain = Tick(
        region_name="vm",
        region_bytes=100 * MIB,
        resident_bytes=50 * MIB,
        page_bytes=4096,
        nr_by_age=tuple([1000, 200, 30, 4] + [0] * 60),
        nr_guarded=0,
        interval_s=10.0,
        passed_s=10.0,
        evicted_bytes=0,
        nr_refaults=0,
        statistics=EMPTY,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_bytes_of_age() -> None:
    assert tick().bytes_of_age(2) == 34 * 4096


def test_budget_lets_go_what_is_above() -> None:
    assert Budget(budget=Share(30)).decide(tick()).bytes_max == 20 * MIB
    assert Budget(budget=45 * MIB).decide(tick()).bytes_max == 5 * MIB
    assert Budget(budget=Share(80)).decide(tick()).bytes_max == 0


@pytest.mark.parametrize(
    ("seconds", "scans"), [(0, 1), (1, 1), (10, 1), (10.1, 2), (30, 3), (1e9, 63)]
)
def test_min_age_rounds_up_to_scans(seconds: float, scans: int) -> None:
    assert MinAge(min_age_s=seconds).decide(tick()).age_min == scans


def test_evict_rate_counts_the_time_that_passed() -> None:
    policy = EvictRate(bytes_per_s=MIB)
    assert policy.decide(tick(passed_s=4.0)).bytes_max == 4 * MIB
    assert policy.decide(tick(passed_s=1000.0)).bytes_max == 20 * MIB, "a late tick bursts twice"
    assert policy.decide(tick()).bytes_per_s_max == MIB


def test_refault_limit_shrinks_then_stops() -> None:
    policy = RefaultLimit(refaults_per_s=100)
    assert policy.decide(tick(nr_refaults=0)) == Decision(), "nothing known yet"
    assert policy.decide(tick(nr_refaults=400)) == Decision(), "40 a second"
    assert policy.decide(tick(nr_refaults=1150)).bytes_max == 25 * MIB, "75 a second"
    assert policy.decide(tick(nr_refaults=2650)).bytes_max == 0, "150 a second"
    assert policy.decide(tick(nr_refaults=2650)) == Decision(), "quiet again"


def test_the_strictest_decides() -> None:
    class Fixed(Policy):
        kind = "fixed"

        def __init__(self, decision: Decision) -> None:
            super().__init__(options={})
            self.decision = decision

        def decide(self, tick: Tick) -> Decision:
            return self.decision

    both = AllOf([Fixed(Decision(5, 9, 7.0)), Fixed(Decision(6, 8, 3.0))])
    assert both.decide(tick()) == Decision(5, 9, 3.0)


def test_default_follows_the_region() -> None:
    region = RegionConfig(budget=Share(40), min_age=35.0, evict_rate=MIB // 2, refault_limit=5)
    decision = policy_for_region(region, 10.0).decide(tick())
    assert decision == Decision(5 * MIB, 4, MIB / 2)
    plain = policy_for_region(RegionConfig(), 10.0).decide(tick())
    assert plain == Decision(25 * MIB, 2), "a quarter stays; two intervals untouched"


class Never(Policy):
    """Reached by its dotted path below."""

    kind = "never"

    def decide(self, tick: Tick) -> Decision:
        return Decision(bytes_max=0 if self.options.get("really") else 1)


def test_policies_plug_in_by_path() -> None:
    path = f"{__name__}:Never"
    region = RegionConfig(policy=("default", path), policy_options={"really": True})
    assert policy_for_region(region, 10.0).decide(tick()).bytes_max == 0


class Impossible(Never):
    """Its constructor has a bug."""

    def __init__(self, *, options: Mapping[str, object]) -> None:
        super().__init__(options=options)
        raise LookupError("no moon tonight")


def test_a_module_with_a_bug_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tierstore_broken.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r'"tierstore_broken:Mine" can.t be .*SyntaxError'):
        policy_for_region(RegionConfig(policy=("tierstore_broken:Mine",)), 10.0)


@pytest.mark.parametrize("limit", [0, -4, "many", [1], True, 1.5])
def test_a_limit_of_refaults_that_is_none(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"policy_options\.refault_limit"):
        RefaultLimit(options={"refault_limit": limit})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (f"{__name__}:Impossible", ["Impossible", "LookupError: no moon tonight"]),
        ("budgt", ["budgt", '"budget"', "min-age", "default"]),
        ("no.such.module:X", ["no.such.module:X", "imported"]),
        (f"{__name__}:tick", ["Policy"]),
        ("budget", ["budget", "needs"]),
    ],
)
def test_unknown_policies(name: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_for_region(RegionConfig(policy=(name,)), 10.0)
    for part in parts:
        assert part in str(caught.value)


def test_builtin_by_name_takes_options() -> None:
    region = RegionConfig(policy=("budget",), policy_options={"budget": "10%"})
    assert policy_for_region(region, 10.0).decide(tick()).bytes_max == 40 * MIB
    wrong = RegionConfig(policy=("budget",), policy_options={"budget": "x"})
    with pytest.raises(ConfigError, match=r"policy_options\.budget"):
        policy_for_region(wrong, 10.0)
