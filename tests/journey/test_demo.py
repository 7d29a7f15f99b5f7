# SPDX-License-Identifier: Apache-2.0
"""The main job as a user starts it: a process, its exit code, its output, what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tierstore.probe import probe

SIZE = "128MiB"

ALL_BY_PYTHON = """
[engine]
interval = "500ms"
[[tier]]
name = "warm"
store = "ram"
size = "8MiB"
[[tier]]
name = "cool"
store = "python-lmdb"
path = "{folder}/cool"
size = "64MiB"
[[tier]]
name = "cold"
store = "python-file"
path = "{folder}/cold"
size = "256MiB"
codec = "zstd"
range = "64KiB"
[region]
budget = "25%"
probation = "300ms"
"""

ONE_FLIPPED = """
[engine]
interval = "300ms"
[[tier]]
name = "warm"
store = "ram"
size = "256MiB"
wrap = "fault:get=0.01,error=corrupt"
[region]
budget = "25%"
probation = "200ms"
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control socket of the test's own; a folder that must be empty in the end."""
    (tmp_path / "run").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def command(tmp_path: Path, *arguments: str) -> list[str]:
    """The demo, small, in the test's folder."""
    base = [sys.executable, "-m", "tierstore", "demo", "--size", SIZE]
    return [*base, "--folder", str(tmp_path / "work"), *arguments]


def left_behind(tmp_path: Path) -> list[str]:
    """Files that should have been removed."""
    folders = [tmp_path / "work", tmp_path / "run" / "tierstore"]
    return [path.name for folder in folders if folder.exists() for path in folder.iterdir()]


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, stderr."""
    done = subprocess.run(
        command(tmp_path, "--json", *arguments),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def run_long_enough(
    tmp_path: Path, is_enough: Callable[[dict[str, Any]], object], *arguments: str
) -> tuple[int, dict[str, Any], str]:
    """Like :func:`run` for 8 s; for 40 s where a busy machine did not get far enough in that."""
    code, found, errors = run(tmp_path, "--seconds", "8", *arguments)
    if not is_enough(found):
        assert (code, errors) == (0, "")
        code, found, errors = run(tmp_path, "--seconds", "40", *arguments)
    return code, found, errors


def all_served(found: dict[str, Any]) -> bool:
    """Pages came back from each of the tiers."""
    return all(found["served"].values())


@contextmanager
def running(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that is under way: its cycle has begun when this is entered."""
    with subprocess.Popen(
        command(tmp_path, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "faults/s" in line:
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("memory", "tracker"), [("anon", "wp"), ("memfd", "zap")])
def test_memory_leaves_and_comes_back(tmp_path: Path, memory: str, tracker: str) -> None:
    code, found, errors = run_long_enough(tmp_path, all_served, "--memory", memory)
    assert (code, errors) == (0, "")
    assert found["mismatches"] == 0
    assert found["bad_pages"] == 0
    assert found["compared_pages"] * 4096 == found["region_bytes"] == 128 << 20
    assert found["checked_pages"] > found["compared_pages"] * 2
    assert found["resident_min_bytes"] <= 0.4 * found["region_bytes"]
    assert list(found["served"]) == ["warm", "cool", "cold"]
    assert all_served(found)
    assert all(ratio > 1 for ratio in found["ratio"].values())
    assert found["memory"] == memory
    assert found["tracker"] in (tracker, "rwp")
    times = found["fault_us"]
    assert 0 < times["p50"] <= times["p99"] <= times["p999"]
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(probe().flags["has_rwp_hugetlb"], reason="this kernel has RWP of hugetlbfs")
def test_huge_pages_need_another_kernel(tmp_path: Path) -> None:
    """Refused at once, by name; where they work tests/vm/test_ladder.py sees it."""
    done = subprocess.run(command(tmp_path, "--memory", "hugetlb"), capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 3
    assert "--memory hugetlb needs Linux 7.3.4" in done.stderr
    assert "--memory memfd" in done.stderr
    assert left_behind(tmp_path) == []


def test_stores_in_python_as_tiers(tmp_path: Path) -> None:
    config = tmp_path / "python.toml"
    config.write_text(ALL_BY_PYTHON)
    code, found, errors = run_long_enough(tmp_path, all_served, "--config", str(config))
    assert code == 0, errors
    assert found["mismatches"] == 0
    assert all_served(found)
    assert left_behind(tmp_path) == []


def test_wrong_bytes_are_exit_code_1(tmp_path: Path) -> None:
    """A store that flips bits: checksums catch it, pages are poisoned, the demo survives to say."""
    config = tmp_path / "flip.toml"
    config.write_text(ONE_FLIPPED)
    code, found, _ = run_long_enough(
        tmp_path, lambda found: found["mismatches"], "--config", str(config)
    )
    assert code == 1
    assert found["mismatches"] > 0
    assert found["guest"]["nr_mismatches"] == 0, "no wrong byte ever reached the guest"
    assert found["statistics"]["failures"]["poisoned"] > 0
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("memory", ["anon", "memfd"])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals, memory: str) -> None:
    with running(tmp_path, "--seconds", "300", "--memory", memory) as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "mismatches 0: every byte was right" in output
    assert f"ended by   {number.name}" in output
    assert errors == ""
    assert left_behind(tmp_path) == []


def test_it_can_be_watched(tmp_path: Path) -> None:
    with running(tmp_path, "--seconds", "300") as process:
        base = [sys.executable, "-m", "tierstore"]
        stat = subprocess.run(
            [*base, "stat", "--json"], capture_output=True, timeout=60, check=True
        )
        answer = json.loads(stat.stdout)
        assert answer["pid"] == process.pid
        (engine,) = answer["engines"]
        assert engine["region_bytes"] == 128 << 20
        assert engine["engine_bytes_per_page"] <= 16
        top = subprocess.run(
            [*base, "top", "-n", "2", "--interval", "0.2"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert len(top.stdout.splitlines()) == 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_without_a_terminal_it_speaks_in_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--seconds", "3"), capture_output=True, text=True, timeout=100, check=True
    )
    assert "\x1b" not in done.stdout
    assert "every byte was right" in done.stdout


def test_what_a_killed_run_left_is_reclaimed_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path, "--seconds", "300") as process:
        process.kill()
        process.wait(timeout=60)
    (killed,) = left_behind(tmp_path)[:1]
    with running(tmp_path, "--seconds", "300") as process:
        (under_way,) = (path.name for path in (tmp_path / "work").iterdir())
        assert under_way != killed
        code, _, errors = run(tmp_path, "--seconds", "1")
        assert (code, errors) == (0, "")
        assert (tmp_path / "work" / under_way).is_dir(), "a run that lives is left alone"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert left_behind(tmp_path) == []
