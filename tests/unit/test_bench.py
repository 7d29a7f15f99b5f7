# SPDX-License-Identifier: Apache-2.0
"""The bench suite still works: each row at smoke size, once, and nothing is left behind.

The figures mean nothing here.  What counts: all sides of a row read back what was stored (each
program compares, and the harness compares their hashes), results have the documented shape, and
swap, zram and control groups are as they were.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bench import corpus, report
from bench.harness import SMOKE, Bench
from bench.result import Skipped, at_least, at_most, compare
from bench.rivals import group, swap
from bench.rows import all_rows
from tests.conftest import ROOT

FIELDS = {"row", "name", "value", "unit", "versus", "versus_value", "ratio", "target", "met",
          "runs", "spread", "hash", "detail"}


@pytest.fixture(scope="module")
def bench(build_dir: Path) -> Iterator[Bench]:
    """On the disk beside the build: /tmp may be memory, which takes no swap file."""
    folder = build_dir.resolve() / "bench-smoke"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield Bench(build_dir, folder, SMOKE)
    shutil.rmtree(folder)


@pytest.mark.parametrize("row", all_rows().values(), ids=lambda row: row.__name__.split(".")[-1])
def test_row(row: ModuleType, bench: Bench) -> None:
    """One row."""
    try:
        results = row.measure(bench)
    except Skipped as skipped:
        results = skipped.results
        if not results:
            pytest.skip(str(skipped))
    finally:
        # What another bench on this machine uses meanwhile is not ours to judge.
        assert not [path for path in swap.swaps() if path.startswith(str(bench.folder))]
        assert not (group.ROOT / f"{group.NAME}-{os.getpid()}").exists()
    assert results
    for result in results:
        shown = result.as_json()
        assert set(shown) == FIELDS
        # A slow-down of a smoke run may be below nothing.
        assert math.isfinite(shown["value"])
        json.dumps(shown)
        assert len(report.cells(shown)) == len(report.HEADINGS)


def test_ratio_is_the_median_of_turns() -> None:
    """A turn in which the machine was slow for both sides does not show."""
    result = compare("0", "x", "us", [11, 110, 12], "y", [10, 100, 10], at_most(1.1))
    assert result.ratio == pytest.approx(1.1)
    assert result.met
    assert result.spread == pytest.approx((1.1, 1.2))
    assert result.value == 12
    assert not compare("0", "x", "us", [1], "y", [2], at_least(0.6)).met


def test_corpora_repeat() -> None:
    """The same machine gives the same pages, and `files` has none of one value."""
    for kind, make in corpus.KINDS.items():
        data = make(512)
        assert data == make(512)
        assert len(data) == 512 * corpus.PAGE, kind
    pages = corpus.files(512)
    assert not any(
        pages[at + 8 : at + corpus.PAGE] == pages[at : at + corpus.PAGE - 8]
        for at in range(0, len(pages), corpus.PAGE)
    )


def test_zram_goes_away_when_a_row_fails() -> None:
    """An exception in the block takes everything down as well."""
    try:
        with pytest.raises(ZeroDivisionError), swap.zram(16 << 20) as rival:
            block = rival.block
            assert swap.swaps() == [f"/dev/{block.name}"]
            raise ZeroDivisionError
    except Skipped as skipped:
        pytest.skip(str(skipped))
    assert f"/dev/{block.name}" not in swap.swaps()
    assert (block / "disksize").read_text().strip() == "0"


def test_a_killed_run_is_tidied_up(bench: Bench) -> None:
    """SIGKILL leaves swap on; the next who asks for swap removes it, by its label, and puts
    readahead back."""
    path = bench.folder / "left"
    readahead = swap.CLUSTER.read_text()
    program = (
        "import os, pathlib, sys\n"
        "from bench.result import Skipped\n"
        "from bench.rivals.swap import swap_file\n"
        "try:\n"
        "    with swap_file(pathlib.Path(sys.argv[1]), 4 << 20, 0):\n"
        "        os.kill(os.getpid(), 9)\n"
        "except Skipped as skipped:\n"
        "    print(skipped)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if killed.returncode == 0:
        pytest.skip(killed.stdout)
    assert killed.returncode == -9, killed.stderr
    assert str(path.resolve()) in swap.swaps()
    try:
        with swap.alone_with_swap():
            assert not swap.swaps()
            assert swap.CLUSTER.read_text() == readahead
    except Skipped as skipped:
        pytest.skip(str(skipped))
    assert not path.exists()


def test_unknown_row_is_named() -> None:
    """A typing error must not look like a finished run."""
    command = [sys.executable, "-m", "bench", "no-such-row"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-row" in done.stderr
