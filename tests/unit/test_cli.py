# SPDX-License-Identifier: Apache-2.0
"""The command line without an engine: exit codes, one line for each trouble, any terminal.

Commands run as processes of their own, as a user would start them.  What ``stat`` and ``top``
watch is this process, publishing figures that are made up.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import tierstore.cli.bench
import tierstore.cli.probe
from tierstore import control
from tierstore.cli import exits, release
from tierstore.cli.render import Rates, engine_block, plain_line, rates_between
from tierstore.errors import ConfigError, HostError, StoreCorrupt, StoreFull, UsageError
from tierstore.statistics import (
    EvictionCounts,
    FaultCounts,
    Latency,
    PageCounts,
    RegionStatistics,
    Statistics,
    TierStatistics,
)

PAGES = PageCounts(resident=300, leaving=20, away=600, filled=80)
FAULTS = FaultCounts(total=5000, refaults=40)
EVICTIONS = EvictionCounts(evicted=9000)


def tier(name: str, **changes: object) -> TierStatistics:
    """A tier that has seen some use."""
    plain: dict[str, object] = dict.fromkeys(TierStatistics.__slots__, 7)
    plain |= {"name": name, "store": "ram", "codec": "zstd", "level": 3, "capacity_bytes": 1 << 30}
    plain |= {"used_bytes": 1 << 28, "raw_bytes": 3 << 20, "stored_bytes": 1 << 20}
    plain |= {"nr_pages": 200, "is_failed": False, "is_full": False}
    return TierStatistics(**(plain | changes))  # type: ignore[arg-type]


def statistics(uptime_s: float = 10.0, faults: FaultCounts = FAULTS) -> Statistics:
    """An engine with two tiers, one of them in trouble."""
    return Statistics(
        version=1,
        uptime_s=uptime_s,
        page_bytes=4096,
        nr_regions=1,
        pages=PAGES,
        faults=faults,
        evictions=EVICTIONS,
        failures={"put": 3, "get": 0},
        engine_bytes=6000,
        buffer_bytes=1 << 20,
        tiers=(tier("warm"), tier("a-tier-with-quite-a-long-name", is_failed=True)),
        stages={"fault": Latency(5000, 20.0, 12.0, 80.0, 1200.0, 3000.0), "get": Latency()},
        regions=(RegionStatistics("vm", 1 << 22, "anon", "wp", PAGES, FAULTS, EVICTIONS),),
    )


def run(*arguments: str, columns: int = 100) -> subprocess.CompletedProcess[str]:
    """The program, with a terminal of that width as far as it can tell."""
    return subprocess.run(
        [sys.executable, "-m", "tierstore", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": str(columns)},
        check=False,
    )


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other engines of this machine are none of these tests' business."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def published() -> Iterator[int]:
    """This process publishes; its pid."""
    with control.Publisher(lambda: [statistics().as_dict()]):
        yield os.getpid()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-command"], 2, ["No such command"]),
        (["demo", "--size", "3x"], 2, ["--size", "3x", "512MiB"]),
        (["demo", "--size", "4KiB"], 2, ["--size", "16MiB"]),
        (["demo", "--memory", "pmem"], 2, ["--memory", "pmem", "anon", "memfd", "hugetlb"]),
        (["demo", "--size", "900TiB"], 3, ["memory", "--size"]),
        (["demo", "--folder", "/no/such/folder"], 2, ["--folder", "/no/such/folder"]),
        (["demo", "--config", "/no/such.toml"], 2, ["/no/such.toml"]),
        (["verify", "/no/such/tier"], 4, ["/no/such/tier"]),
        (["stat"], 2, ["--pid"]),
        (["stat", "--pid", "1"], 2, ["process 1"]),
        (["top", "--pid", "1"], 2, ["process 1"]),
        (["serve"], 2, ["--listen"]),
        (["serve", "--listen", "/no/such/folder/s"], 2, ["no folder /no/such/folder"]),
        (["serve", "--listen", "/etc/hostname"], 2, ["/etc/hostname: exists, and is no socket"]),
        (["serve", "--listen", "/tmp/s", "--ram", "1"], 2, ["1 bytes", "at least 1MiB"]),
        (["serve", "--listen", "/tmp/s", "--users", "nobody-here"], 2, ['no user "nobody-here"']),
        (["serve", "--listen", "/tmp/s", "--state", "/tmp/x"], 2, ["state folder", "RAM", "lmdb"]),
        (["run", "--", "no-such-command"], 2, ["no such command: no-such-command"]),
        (["run", "--config", "/no/such.toml", "--", "true"], 2, ["/no/such.toml"]),
        (["release", "no-such-vm"], 2, ["no-such-vm", "none"]),
        (["verify", "/etc/passwd"], 4, ["/etc/passwd is no store"]),
    ],
)
def test_troubles_are_told_in_words(arguments: list[str], code: int, words: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_wrong_key_in_the_demos_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[tier]]\nname = "a"\nstore = "file"\nsize = "1GiB"\npfad = "{folder}/x"\n')
    done = run("demo", "--config", str(path))
    assert done.returncode == 2
    assert f"{path}: tier[0].pfad: unknown key" in done.stderr


def test_a_limit_of_files_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Wherever it strikes."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
    code += "from tierstore.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--size", "16MiB", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Too many open files" in done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes_by_kind_of_error() -> None:
    codes = {
        StoreCorrupt(): 1,
        ConfigError(): 2,
        HostError(): 3,
        StoreFull(): 4,
        FileNotFoundError(): 4,
        ZeroDivisionError(): 70,
    }
    assert {error: exits.exit_code(error) for error in codes} == codes
    documented = [line.split()[0] for line in (exits.__doc__ or "").splitlines()[2:] if line]
    assert {str(code) for code in codes.values()} <= set(documented)


def test_probe_says_the_same_twice() -> None:
    as_json = run("probe", "--json")
    as_text = run("probe")
    assert as_json.returncode == as_text.returncode
    answer = json.loads(as_json.stdout)
    assert answer["kernel_release"] in as_text.stdout
    for memory, tracker in answer["trackers"].items():
        assert re.search(rf"{memory} +tracker {tracker or 'none'}", as_text.stdout)


def test_bench_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options go through; an installed package has no suite, and says where there is one."""
    listed = run("bench", "--list")
    assert listed.returncode == 0
    assert "fault_ram" in listed.stdout
    assert run("bench", "no-such-row").returncode == 2
    monkeypatch.setattr(tierstore, "__file__", str(tmp_path / "tierstore" / "__init__.py"))
    with pytest.raises(UsageError, match="checkout"):
        tierstore.cli.bench.run([])


@pytest.mark.parametrize("has_all", [True, False])
def test_probe_has_words_for_every_kernel(
    has_all: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest there may be, and one that offers nothing."""
    here = tierstore.cli.probe.probe()
    error = 0 if has_all else -errno.EPERM
    other = dataclasses.replace(here, uffd_error=error, flags=dict.fromkeys(here.flags, has_all))
    monkeypatch.setattr(tierstore.cli.probe, "probe", lambda: other)
    assert tierstore.cli.probe.run(as_json=False) == (0 if has_all else 3)
    shown = capsys.readouterr().out
    assert ("tracker rwp" if has_all else "tracker none: can't be served") in shown


def test_stat(published: int) -> None:
    answer = json.loads(run("stat", "--json").stdout)
    assert answer["pid"] == published
    assert [Statistics.from_dict(engine) for engine in answer["engines"]] == [statistics()]
    text = run("stat", "--pid", str(published)).stdout
    for part in (f"process {published}", "warm", "failed", "3.00", "failures put 3", "region vm"):
        assert part in text


def test_top_without_a_terminal(published: int) -> None:
    done = run("top", "-n", "3", "--interval", "0.1")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in done.stdout
    assert "FAILED" in lines[0]


def test_top_as_json(published: int) -> None:
    lines = run("top", "-n", "2", "--interval", "0.1", "--json").stdout.splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [published] * 2


def test_statistics_survive_the_wire() -> None:
    whole = statistics()
    wire = json.loads(json.dumps(whole.as_dict() | {"of_a_later_version": 1}))
    assert Statistics.from_dict(wire) == whole


def test_rates_are_differences_over_time() -> None:
    later = statistics(12.0, FaultCounts(total=5300, refaults=60))
    assert rates_between(statistics(), later) == Rates(150.0, 10.0, 0.0)
    assert rates_between(None, later) == Rates()
    assert rates_between(later, later) == Rates()


@pytest.mark.parametrize("width", [1, 10, 20, 36, 60, 90, 200])
def test_the_block_fits_any_width(width: int) -> None:
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(engine_block(statistics(), Rates(1.0, 2.0, 3e6), width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 20:
        assert any("failed" in line for line in lines), "trouble shows at every useful width"


def test_the_plain_line_has_it_all() -> None:
    line = plain_line(statistics(), Rates(15_000.0, 2.0, 0.0))
    for part in ("resident 1.25 MiB of 3.91 MiB", "warm", "(3.00x)", "15k faults/s", "p99.9 1.2ms"):
        assert part in line


@pytest.mark.parametrize("module", ["pydantic", "typer", "rich"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path: Path, module: str) -> None:
    """``module`` takes its time."""
    slow = 'import time; print("importing", flush=True); time.sleep(60)\n'
    (tmp_path / f"{module}.py").write_text(slow)
    with subprocess.Popen(
        [sys.executable, "-m", "tierstore", "stat"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """As a shell has it for what it starts in the background."""
    code = "import signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "import atexit, os\natexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    code += "from tierstore.cli import main\nsys.argv[1:] = ['--version']\nmain()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_while_the_interpreter_ends_is_no_traceback() -> None:
    code = """
import atexit, sys, time
import tierstore.cli
atexit.register(lambda: (print("over", flush=True), time.sleep(60)))
sys.argv[1:] = ["--version"]
tierstore.cli.main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "over" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-signal.SIGINT, "")


@pytest.mark.parametrize(
    ("past", "said"),
    [
        ([("released", "")], ""),
        ([("released", "2 pages are lost"), ("released", "")], "2 pages are lost"),
        ([("released", ""), ("ended", "")], None),
    ],
    ids=["whole", "not whole", "ended"],
)
def test_release_tells_what_became_of_a_vm(past: list[tuple[str, str]], said: str | None) -> None:
    """Also of one that ended while it was released."""
    known = [{"name": "vm-1", "state": state, "error": error} for state, error in past]
    client: Any = SimpleNamespace(ask=lambda _: {"vms": [], "past": known})
    if said is not None:
        assert release._wait(client, "vm-1", None) == said
        return
    with pytest.raises(UsageError, match="vm-1 ended"):
        release._wait(client, "vm-1", None)
