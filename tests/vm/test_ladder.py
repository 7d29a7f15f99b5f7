# SPDX-License-Identifier: Apache-2.0
"""The same build on a ladder of real kernels: 7.3 or later, Debian 13's, Debian 12's.

expected.py says what the probe must answer on each, which programs skip and why: it may neither
miss what a kernel can do nor promise what it can't.  Where it promises something, a short
demonstration keeps the promise; a kernel that serves nothing refuses, and says which would do.

One rung at a time: an emulated machine has two processors, and many a real one has no more.
"""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.vm.expected import LADDER, PROGRAMS, SETTINGS, Rung, facts

RUNG_S = 1800
HANG_S = 3
HOST = 3
ROUNDS = 3
LATE = 124
HUGE_PAGES = 512


@dataclass
class Climb:
    """What a rung brought home."""

    trouble: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def dev_kernel(
    root: Path, version: str, folder: Path, timeout_s: float, *command: str
) -> subprocess.CompletedProcess[str]:
    """./dev kernel, its results in the folder."""
    words = ["kernel", "--timeout", str(timeout_s), "--results", str(folder), version, *command]
    return subprocess.run([root / "dev", *words], capture_output=True, text=True, check=False)


@functools.cache
def climb(root: Path, version: str, folder: Path) -> Climb:
    """Runs rung.py on that kernel; once for all tests."""
    words = ["python", "-m", "tests.vm.rung"]
    words += ["--python"] if "python" in LADDER[version].examples else []
    done = dev_kernel(root, version, folder, RUNG_S, *words)
    if done.returncode:
        return Climb(trouble=f"exit code {done.returncode}\n{done.stderr[-8000:]}")
    cases = list(ElementTree.parse(folder / "junit.xml").getroot().iter("testcase"))
    failed = {c.attrib["name"]: f"{f.attrib['message']}\n{f.text}" for c in cases
              if (f := c.find("failure")) is not None}  # fmt: skip
    skipped = {c.attrib["name"]: s.attrib["message"] for c in cases
               if (s := c.find("skipped")) is not None}  # fmt: skip
    passed = [c.attrib["name"] for c in cases if c.attrib["name"] not in {*failed, *skipped}]
    return Climb("", json.loads(done.stdout), passed, failed, skipped)


def check_demo(answer: dict[str, Any], memory: str, tracker: str) -> dict[str, Any]:
    """The demo's summary, in which nothing is wrong."""
    assert answer["status"] == 0, answer["stderr"]
    summary: dict[str, Any] = json.loads(answer["stdout"])
    assert (summary["memory"], summary["tracker"]) == (memory, tracker)
    assert (summary["mismatches"], summary["bad_pages"]) == (0, 0)
    assert summary["evicted_pages"] > 0
    return summary


@pytest.fixture(params=LADDER)
def version(request: pytest.FixtureRequest) -> str:
    """Each rung in turn."""
    return str(request.param)


@pytest.fixture
def climbed(
    root_dir: Path, version: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Rung, Climb]:
    """The rung, and what it brought home."""
    folder = tmp_path_factory.getbasetemp() / f"rung-{version}"
    folder.mkdir(exist_ok=True)
    found = climb(root_dir, version, folder)
    if found.trouble:
        pytest.fail(found.trouble)
    return LADDER[version], found


def unlisted(skipped: dict[str, str], rung: Rung) -> list[str]:
    """Skips that expected.py does not know, or knows for another reason."""
    reasons = {name: reason for reason, names in rung.skips.items() for name in names}
    return [f"{name}: {said}" for name, said in skipped.items()
            if name not in reasons or reasons[name] not in said]  # fmt: skip


@pytest.mark.timeout(2 * RUNG_S)
def test_programs(climbed: tuple[Rung, Climb]) -> None:
    """Every program passes on every kernel, but for the skips that are listed, which skip."""
    rung, found = climbed
    assert not found.failed, "\n".join(f"{n}: {text}" for n, text in found.failed.items())
    assert {*found.passed, *found.skipped} >= {*facts(), *PROGRAMS}
    assert not unlisted(found.skipped, rung)
    listed = {name for names in rung.skips.values() for name in names}
    assert listed - set(found.skipped) == set(), "listed as skipping, and ran"


@pytest.mark.timeout(2 * RUNG_S)
def test_probe(climbed: tuple[Rung, Climb]) -> None:
    """The probe tells what this kernel has, and what it lacks."""
    rung, found = climbed
    answer = found.answers["probe"]
    probe = json.loads(answer["stdout"])
    missing = {name for name, has in probe["flags"].items() if not has} - SETTINGS
    assert missing == rung.missing
    assert probe["trackers"] == rung.trackers
    assert answer["status"] == (0 if any(rung.trackers.values()) else HOST)


@pytest.mark.timeout(2 * RUNG_S)
@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_demo(climbed: tuple[Rung, Climb], memory: str) -> None:
    """It kept every byte; or it refused, and said which kernel it needs."""
    rung, found = climbed
    answer, tracker = found.answers[memory], rung.trackers[memory]
    if tracker is None:
        assert answer["status"] == HOST, answer
        assert f"Linux {rung.needed}" in answer["stderr"], answer["stderr"]
        return
    check_demo(answer, memory, tracker)


@pytest.mark.timeout(2 * RUNG_S)
def test_demo_of_huge_pages(climbed: tuple[Rung, Climb]) -> None:
    """Where hugetlb memory can be served: by huge pages, which the demo gets and gives back.

    Elsewhere it refuses: tests/journey/test_demo.py, on this machine's kernel.
    """
    rung, found = climbed
    if "has_rwp_hugetlb" in rung.missing:
        assert "hugetlb" not in found.answers
        return
    summary = check_demo(found.answers["hugetlb"], "hugetlb", "rwp")
    assert summary["evicted_pages"] % HUGE_PAGES == 0
    assert summary["resident_min_bytes"] < summary["region_bytes"]


@pytest.mark.timeout(2 * RUNG_S)
@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_examples(climbed: tuple[Rung, Climb], memory: str) -> None:
    """The proposal's loop, step by step: pages leave and come back; or it says what it needs."""
    rung, found = climbed
    for language in rung.examples:
        answer = found.answers[f"{language} {memory}"]
        if rung.trackers[memory] is None:
            assert answer["status"] == 1, answer
            assert f"Linux {rung.needed}" in answer["stderr"], answer["stderr"]
            continue
        assert answer["status"] == 0, answer
        assert answer["stdout"].count(" cold; ") == ROUNDS
        assert answer["stdout"].endswith(" 0 pages wrong\n"), answer


@pytest.mark.timeout(2 * RUNG_S)
def test_serve(climbed: tuple[Rung, Climb]) -> None:
    """A VMM that registers for RWP hands its memory over to `tierstore serve`."""
    rung, found = climbed
    if rung.trackers["memfd"] != "rwp":
        assert "serve" not in found.answers
        return
    answer = found.answers["serve"]
    assert answer["status"] == 0, answer["stdout"][-8000:]
    assert "1 passed" in answer["stdout"]


@pytest.mark.timeout(RUNG_S)
def test_a_hang_shows_the_stacks(root_dir: Path, tmp_path: Path) -> None:
    """A command that does not end is ended, and the console has every task's stack."""
    done = dev_kernel(root_dir, "6.12", tmp_path, HANG_S, "sleep", "12345")
    assert done.returncode == LATE, done.stderr[-4000:]
    assert "too late" in done.stderr
    console = (tmp_path / "console.log").read_text()
    assert "task:sleep " in console
    assert "do_nanosleep" in console
